#!/usr/bin/env bash
# One rank under a launcher that hides its ranks' exit codes (torchrun, deepspeed): `rank.sh PROGRAM...` runs it and
# writes the code where code_of_ranks in environment.sh looks for it.

# Slurm signals every process of a step: this shell waits on, for the rank saves and its code is what counts. A trap that
# does nothing is not inherited, so the rank hears the signal itself.
trap : TERM USR1
"$@" &
pid=$!
code=129
while [ "$code" -gt 128 ] && kill -0 "$pid" 2>/dev/null; do # a signal ends the wait, not what is waited for
  wait "$pid"
  code=$?
done
wait "$pid" 2>/dev/null
code=$?
echo "$code" >"$ADAPTIVE_FT_CODES/$RANK"
exit "$code"
