# Two commands do everything on a machine with Python 3.11+ and git: `make train` and `make test`.

PYTHON ?= python3
# Ranks of `make train`: two on a CPU; RANKS= leaves the choice to DeepSpeed, which takes every GPU.
RANKS ?= $(shell nvidia-smi -L >/dev/null 2>&1 || echo 2)
# Which build of torch: auto (cuda where nvidia-smi finds a GPU, else cpu), cuda or cpu.
TORCH ?= auto
# Of `make table-questions`: official VQA v2 question files, or excerpts, the annotation files in the same order, and the
# COCO split of their images where the files do not say it.
QUESTIONS ?=
ANNOTATIONS ?=
COCO_SPLIT ?=
# Of `make table-clothing`: the folder of the pictures, with labels.csv (path,label,split: train, validation, test).
PHOTOS ?=
# The index of PyTorch's CPU wheels, for machines whose package index has none (see README, Two commands).
TORCH_INDEX ?=

BIN := .venv/bin
LAUNCH := PATH=$(CURDIR)/$(BIN):$$PATH deepspeed $(if $(RANKS),--num_gpus $(RANKS))
INSTALLED := .venv/.installed

.PHONY: train table table-small studies table-questions table-clothing named-questions named-photos test test-cluster check bench invariance install world clean

# The adaptive run, and ordinary fine-tuning of the same base beside it in the result table.
train: install
	$(LAUNCH) train.py --ds_config ds_configs/zero2.json
	$(LAUNCH) train.py --ds_config ds_configs/zero2.json --strategy standard

# Strategies x seeds on the generated world, side by side; started again, it goes on where it was.
table: install
	$(BIN)/adaptive-ft compare recipes/compare/world.yaml

table-small: install
	$(BIN)/adaptive-ft compare recipes/compare/world_small.yaml

# One comparison for each question about the method (docs/evidence.md), one after the other; it goes on where it was. A
# run that fails is told in its study and ends no other; the exit code is 1 then. A stop on request ends all.
STUDIES := $(sort $(wildcard recipes/compare/study_*.yaml))
studies: install
	@failed=0; for study in $(STUDIES); do $(BIN)/adaptive-ft compare $$study || { code=$$?; test $$code = 1 || exit $$code; failed=1; }; done; \
	printf '\n'; for study in $(STUDIES); do echo "table      runs/compare/$$(basename $$study .yaml)/comparison.md"; done; \
	exit $$failed

# The same on real data: questions without their pictures, with the prior shift of VQA-CP, and photographs of clothes.
# What is there already is kept.
ASKED := data/questions
PARTS := $(addprefix $(ASKED)/,source_train source_val target_train target_val target_val_indomain)
CLOTHING := $(addprefix data/clothing/,train val test)

table-questions: named-questions install $(PARTS)
	$(BIN)/adaptive-ft compare recipes/compare/vqa_blind.yaml

table-clothing: named-photos install $(CLOTHING)
	$(BIN)/adaptive-ft compare recipes/compare/clothing.yaml

# Asked before anything is installed; without them what is there already will do.
named-questions:
	@test -d $(ASKED)/parts || test -n "$(QUESTIONS)" -a -n "$(ANNOTATIONS)" || \
		{ echo 'error: name the official files: make table-questions QUESTIONS="..." ANNOTATIONS="..."' >&2; exit 2; }

named-photos:
	@test -d data/clothing/test || test -n "$(PHOTOS)" || \
		{ echo 'error: name the folder of the photographs: make table-clothing PHOTOS=...' >&2; exit 2; }

$(ASKED)/parts: | $(INSTALLED)
	$(BIN)/adaptive-ft resplit --output $@ --questions $(QUESTIONS) --annotations $(ANNOTATIONS) \
		$(if $(COCO_SPLIT),--coco_split $(COCO_SPLIT)) --shares.source 0.6 --shares.val 0.5 --shares.crossing 0.1

$(ASKED)/tokenizer: | $(ASKED)/parts
	$(BIN)/adaptive-ft tokenizer --output $@ --vocab_size 4000 --source.questions $(ASKED)/parts/source_train_questions.json

$(ASKED)/source_train: | $(ASKED)/tokenizer
$(filter-out %/source_train,$(PARTS)): | $(ASKED)/source_train
$(PARTS): $(ASKED)/%:
	$(BIN)/adaptive-ft shards --output $@ --split $* --source.questions $(ASKED)/parts/$*_questions.json \
		--source.annotations $(ASKED)/parts/$*_annotations.json \
		$(if $(filter source_train,$*),--tokenizer $(ASKED)/tokenizer,--like $(ASKED)/source_train)

data/clothing/val data/clothing/test: | data/clothing/train
$(CLOTHING): data/clothing/%: | $(INSTALLED)
	$(BIN)/adaptive-ft shards --output $@ --pictures $(PHOTOS) --labels $(PHOTOS)/labels.csv \
		--split $(if $(filter val,$*),validation,$*) $(if $(filter train,$*),,--like data/clothing/train)

# A process per core that is ours, up to eight (each holds about 1 GiB); the tests of a file stay in one, whose fixtures they share.
test: install
	$(BIN)/python -m pytest --numprocesses $$(nproc) --maxprocesses 8 --dist loadfile

# What takes minutes: a real Slurm cluster on this machine, ranks that are killed. As root it installs Debian's Slurm.
# `make test-cluster KILLS_PER_KIND=1` kills at 5 points instead of 20.
test-cluster: install
	$(if $(KILLS_PER_KIND),KILLS_PER_KIND=$(KILLS_PER_KIND)) $(BIN)/python -m pytest tests/cluster -rs

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Every benchmark, and one table of them in docs/benchmarks (about 17 minutes on two CPU cores).
bench: install
	mkdir -p build
	$(BIN)/python -m pytest kernels/benchmarks --benchmark-json=build/benchmarks.json
	$(BIN)/python kernels/benchmarks/write_table.py build/benchmarks.json docs/benchmarks

# Which invariances a small ViT keeps when it is fine-tuned on pictures of another domain; what there is already is
# kept (about 4 minutes on two CPU cores).
invariance: install
	test -f runs/pictures/summary.json || $(LAUNCH) train.py --ds_config ds_configs/zero2.json \
		--config recipes/pictures_vit.yaml --name pictures --resume auto
	$(BIN)/adaptive-ft invariance --pretrained data/vit --finetuned runs/pictures --shards data/pictures/target/val \
		--images 100 --iterations 200 --optimizer adam --step 0.05

world: install
	$(BIN)/adaptive-ft world

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt install.sh
	PYTHON=$(PYTHON) TORCH=$(TORCH) TORCH_INDEX=$(TORCH_INDEX) bash install.sh .venv
	touch $@

clean:
	rm -rf .venv build *.egg-info
