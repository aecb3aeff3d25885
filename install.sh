#!/usr/bin/env bash
# Makes the virtual environment $1 with the pinned versions, choosing the build of torch; says aloud what it chose.
set -euo pipefail

venv=$1
torch=$(grep '^torch==' constraints.txt)

choice=${TORCH:-auto}
case $choice in
  auto) if nvidia-smi -L >/dev/null 2>&1; then choice=cuda why="nvidia-smi found a GPU"; else choice=cpu why="no NVIDIA GPU found"; fi ;;
  cuda | cpu) why="asked for with TORCH=$choice" ;;
  *) echo "TORCH takes auto, cuda or cpu, not '$choice'." >&2; exit 2 ;;
esac
echo "torch: the $choice build ($why; force it with TORCH=cuda or TORCH=cpu)"

"${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  { echo "Python 3.11 or newer is needed; name one with PYTHON=python3.12." >&2; exit 2; }
"${PYTHON:-python3}" -m venv "$venv" ||
  { echo "The venv module is missing (Debian: apt-get install python3-venv)." >&2; exit 2; }

pip="$venv/bin/python -m pip install --quiet --disable-pip-version-check"
if [ "$choice" = cpu ]; then
  # The CPU build carries a local version; an index that only has the plain version serves a larger build that also runs on CPUs.
  $pip ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$torch+cpu" 2>/dev/null ||
    { echo "torch: no +cpu build on the package index, taking the plain one (larger, runs on CPUs too)"; $pip "$torch"; }
else
  $pip "$torch"
fi
constraints=constraints.txt
if "$venv/bin/python" -c 'import sys, importlib.metadata as m; sys.exit(all("triton" not in r for r in m.requires("torch")))'; then
  # This build of torch (CUDA) demands the Triton it was built for; our pin is for the builds that demand none.
  constraints=$venv/constraints.txt
  grep -v '^triton==' constraints.txt >"$constraints"
fi
echo "installing the other packages"
$pip --constraint "$constraints" --editable '.[dev,wandb,tensorboard,hdf5]'
# Beside a clone in a folder of the package's own name, Python takes that folder for the package before it asks
# setuptools' finder; places in sys.path come before both.
packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
printf '%s\n' "$PWD" "$PWD/kernels" >"$packages/adaptive_ft_clone.pth"
echo "installed in $venv"
