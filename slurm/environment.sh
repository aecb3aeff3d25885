#!/usr/bin/env bash
# What the batch scripts share; each sources it first. Everything about nodes, ranks and ports is read from Slurm.
#
# It sets the variables below, catches the signals that ask a job to stop, and gives `run_job COMMAND...`, which starts
# the ranks, waits for them and decides what their exit code means (see slurm/README.md, Exit codes).

# shellcheck disable=SC2034 # the scripts that source this use more than it does itself
set -uo pipefail
home=${home:?is set by the script that sources this}

fail() {
  echo "error: $*" >&2
  exit 2
}

[ -n "${SLURM_JOB_ID:-}" ] || fail "This is a batch script: give it to sbatch."

job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}}
job=${job:-$SLURM_JOB_ID}              # stays the same when the job is requeued
name=${SLURM_JOB_NAME:-job}            # Slurm leaves it out where the submitting shell had it unset
name=${name//\//_}-$job                # stays the same, too: so does the run's folder: runs/$name
restarts=${SLURM_RESTART_COUNT:-0}     # requeues for whatever reason; crashes are counted apart
most_crashes=${ADAPTIVE_FT_RESTARTS:-3}
ranks_per_node=${SLURM_NTASKS_PER_NODE:?the scripts need --ntasks-per-node=N}
cpus_per_rank=${SLURM_CPUS_PER_TASK:-1}

# Small files between this script and the ranks, on the disk that all nodes see. The dot hides it from runs/*.
place=$PWD/runs/.slurm/$job
stop_file=$place/stop
crashes_file=$place/crashes
mkdir -p "$place" || fail "The job cannot write to $PWD/runs: submit it from a folder that every node can write to."
rm -rf "$stop_file" "$place/codes"

# The ranks' environment: the clone's own .venv where there is one, else the python of the shell that ran sbatch.
[ ! -d "$home/.venv/bin" ] || PATH=$home/.venv/bin:$PATH
read -ra within <<<"${ADAPTIVE_FT_WITHIN:-}"     # words before every program: apptainer exec --nv image.sif
read -ra srun_words <<<"${ADAPTIVE_FT_SRUN:-}"   # words for srun: --container-image=...
[ -n "${within[*]}${srun_words[*]}" ] ||
  python -c 'import sys, importlib.util as u; sys.exit(sys.version_info < (3, 11) or not u.find_spec("torch"))' ||
  fail "The python of this job ($(command -v python || echo none)) has no torch or is older than 3.11: run make install" \
    "in $home, or activate an environment before sbatch."
# make install on a node without a GPU takes the CPU build, which would train on the CPUs of a GPU node.
[ -z "${SLURM_GPUS_ON_NODE:-}" ] || [ -n "${within[*]}${srun_words[*]}" ] ||
  python -c 'import sys, torch; sys.exit(not (torch.version.cuda or torch.version.hip))' ||
  fail "Slurm gave this job GPUs, but the torch of $(command -v python) is a CPU build: run make install TORCH=cuda in $home."
export SRUN_CPUS_PER_TASK=$cpus_per_rank         # srun does not take it over from sbatch
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$cpus_per_rank}

# Where rank 0 listens: the address by which Slurm itself reaches the first node. A port of its own for every start,
# because ranks of the last one may still hold theirs; below the ports that systems hand out at random.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_ADDR=$(scontrol --oneliner show node "$first" | grep -o ' NodeAddr=[^ ]*' | cut -d= -f2)
MASTER_PORT=$((20000 + (SLURM_JOB_ID * 7 + restarts) % 12000))
export MASTER_ADDR MASTER_PORT
[ -n "$MASTER_ADDR" ] || fail "scontrol does not tell the address of node '$first'."

# DeepSpeed compiles some operators at first use. A start that is killed in that minute leaves a lock on which every
# later start would wait for ever. In the job's own folder any lock is such a one; in a folder you name, an old one is.
if [ -z "${TORCH_EXTENSIONS_DIR:-}" ]; then
  export TORCH_EXTENSIONS_DIR=$place/operators
  find "$TORCH_EXTENSIONS_DIR" -name lock -delete 2>/dev/null
else
  find "$TORCH_EXTENSIONS_DIR" -name lock -mmin +15 -delete 2>/dev/null
fi

# What every run of train.py gets; options given after the script's name come later and win.
options=(--ds_config "$home/ds_configs/zero2.json" --name "$name" --resume auto --stop_file "$stop_file")

# Slurm's warning reaches this shell alone (--signal=B:...): sent to the ranks it would end their helper processes too.
ask_to_stop() {
  interrupted=yes
  echo "job $job: told to stop; asking the run to save"
  touch "$stop_file"
}
trap ask_to_stop USR1 TERM

run_job() {
  local code=0 pid
  echo "job $job: start $((restarts + 1)) on $SLURM_JOB_NODELIST, run $name, rank 0 at $MASTER_ADDR:$MASTER_PORT"
  "$@" &
  pid=$!
  interrupted=yes
  while [ -n "$interrupted" ]; do # a signal ends the wait, not what is waited for
    interrupted=
    wait "$pid"
    code=$?
  done
  code=$(code_of_ranks "$code")
  case $code in
    0) rm -rf "$place" ;;
    75) requeue "saved and stopped" ;;
    2) echo "job $job: ended with a sentence for a person (see above); not requeued" ;;
    *) after_crash "$code" "$(run_of "$@")" ;;
  esac
  exit "$code"
}

# torchrun says 1 for every failure and deepspeed says 0 when it is killed, so there each rank writes its code down
# (slurm/rank.sh); plain srun tells the highest one itself.
code_of_ranks() {
  local code
  [ -d "$place/codes" ] || { echo "$1"; return; }
  for code in 75 2; do
    if grep -qx "$code" "$place"/codes/* 2>/dev/null; then echo "$code"; return; fi
  done
  if [ "$1" -eq 0 ] && ! grep -qx 0 "$place"/codes/* 2>/dev/null; then echo 1; else echo "$1"; fi
}

# The folder of the run that a command line of train.py names; later words win.
run_of() {
  local word last='' folder=runs run=$name
  for word in "$@"; do
    case $last in --name) run=$word ;; --output[-_]dir) folder=$word ;; esac
    case $word in --name=*) run=${word#*=} ;; --output[-_]dir=*) folder=${word#*=} ;; esac
    last=$word
  done
  echo "$folder/$run"
}

# Only crashes are bounded, and only those since the last whole checkpoint: a job may be preempted, reach its time
# limit or lose a node as often as it must, and one that comes further between its crashes goes on. What cannot be
# counted is not repeated. The file holds the count, and the update the run had come to. Ranks that Slurm itself has
# ended have not crashed: its word comes first.
after_crash() {
  local crashes reached saved state
  state=$(job_state)
  if [ "$state" != RUNNING ]; then
    echo "job $job: ended with code $1; Slurm says ${state:-nothing}, so it is not requeued from here"
    return
  fi
  saved=$(cat "$2/checkpoints/latest" 2>/dev/null)
  saved=$((10#0${saved//[!0-9]/})) # step_000120; a pointer that moved back is no progress
  read -r crashes reached <<<"$(cat "$crashes_file" 2>/dev/null)"
  if [ "$saved" -gt "${reached:-0}" ]; then crashes=0; else saved=${reached:-0}; fi
  crashes=$((${crashes:-0} + 1))
  if [ "$crashes" -le "$most_crashes" ] && echo "$crashes $saved" >"$crashes_file"; then
    requeue "ended with code $1 (crash $crashes, $most_crashes are granted)"
  else
    echo "job $job: ended with code $1, crash $crashes; not requeued (ADAPTIVE_FT_RESTARTS=$most_crashes)"
    rm -f "$crashes_file" # a person who requeues it now has seen to it
  fi
}

# The job as Slurm sees it now: RUNNING unless it is being ended; nothing where the controller stays away.
job_state() {
  local try
  for try in 1 2 3 4 5 6; do
    scontrol --oneliner show job "$job" | grep -o ' JobState=[^ ]*' | cut -d= -f2 && return
    echo "job $job: the controller does not answer (try $try)" >&2
    sleep 10
  done
}

# Put the job back into the queue, unless Slurm is ending it already: cancelled jobs must stay so, and those that lost
# a node are requeued by Slurm.
requeue() {
  local state code=1
  state=$(job_state)
  if [ "$state" = RUNNING ]; then
    scontrol requeue "$job"
    code=$? # above 128: Slurm has taken the request, and ended the program that brought it with the rest of the job
  fi
  if [ "$code" -eq 0 ] || [ "$code" -gt 128 ]; then
    echo "job $job: $1; requeued"
  else
    echo "job $job: $1; Slurm says ${state:-nothing}, so it is not requeued from here"
  fi
}
