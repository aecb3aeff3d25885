# Two commands do everything on a machine with Python 3.11+ and git: `make train` and `make test`.

PYTHON ?= python3
RANKS ?= 2
# Which build of torch: auto (cuda where nvidia-smi finds a GPU, else cpu), cuda or cpu.
TORCH ?= auto
# The index of PyTorch's CPU wheels, for machines whose package index has none (see README, Install).
TORCH_INDEX ?=

BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: train test check bench install world clean

train: install
	$(BIN)/deepspeed --num_gpus $(RANKS) train.py --ds_config ds_configs/zero2.json

test: install
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/python -m pytest kernels/benchmarks -o python_files='bench_*.py' --benchmark-only

world: install
	$(BIN)/adaptive-ft world

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt install.sh
	PYTHON=$(PYTHON) TORCH=$(TORCH) TORCH_INDEX=$(TORCH_INDEX) bash install.sh .venv
	touch $@

clean:
	rm -rf .venv build *.egg-info
