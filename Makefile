# make help   these lines
# make run    set up, pre-train SimCLR on the digits, evaluate, export, report
# make test   set up, lint, run the tests but the slow ones
# make test-slow   the slow tests
# make lint   what ruff says
# make format   what ruff mends
# make docs   docs/api.md from the docstrings
# make peer   lightly on PyTorch in .venv-peer, for bench-input, -step, -train and -dino
# make bench-input   the input pipeline
# make bench-step   a training step
# make bench-vit   a vision transformer's step, beside timm's
# make bench-remat   the memory that --remat saves
# make bench-few-labels   fine-tuning with few labels
# make bench-small-recipes   the small recipes on CIFAR-10
# make bench-dino   DINO beside lightly's
# make bench-train   a whole training from files beside lightly's
# make bench-patches   a step of CPC v2 on patches, beside SimCLR's
# make bench-probe   the linear probe
# make bench-evaluation   evaluation
# make bench-kmeans   k-means
# make bench-random   what an untrained encoder knows
# make bench-large   decoding large JPEG files smaller
# make bench-memory-bank   a step's work on a memory bank
# make bench-stored   views of original files and of images stored small
# make clean   removes the environments and what was built
# All make their own environment in .venv; PYTHON chooses the interpreter.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
PEER := .venv-peer
OUT ?= runs/digits
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: help run test test-slow lint format docs peer bench-input bench-step bench-probe bench-kmeans \
	bench-random bench-large bench-stored bench-remat bench-evaluation \
	bench-few-labels bench-small-recipes bench-dino bench-train bench-memory-bank bench-patches bench-vit clean

$(VENV)/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

help:
	@awk '/^# make /{name=$$3; sub(/^# make [^ ]+ +/, ""); printf "make %-20s %s\n", name, $$0}' Makefile

run: $(VENV)/.installed
	$(BIN)/python -m pipelines.pretrain --flagfile=pipelines/recipes/simclr_digits.flags --out=$(OUT)
	$(BIN)/python -m pipelines.evaluate --run=$(OUT)
	$(BIN)/python -m pipelines.export --run=$(OUT) --base_dir=$(OUT)/savedmodels --name=simclr_digits --check
	@echo
	@echo "Report:      $(OUT)/report.html"
	@echo "Encoder:     $(OUT)/encoder.keras"
	@echo "SavedModel:  $(OUT)/savedmodels/simclr_digits/"

test: $(VENV)/.installed lint
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.installed
	$(BIN)/python docs/api.py

$(PEER)/.installed: benchmarks/peer_requirements.txt
	$(PYTHON) -m venv $(PEER)
	$(PEER)/bin/python -m pip install --quiet $(PIP_ARGS) --requirement $<
	touch $@

peer: $(PEER)/.installed

# Against lightly, where `make peer` was run.
bench-input: $(VENV)/.installed
	$(BIN)/python -m benchmarks.input_pipeline $(ARGS) \
	    $(if $(wildcard $(PEER)/.installed),--peer="$(PEER)/bin/python benchmarks/lightly_views.py")

bench-step: $(VENV)/.installed
	$(BIN)/python -m benchmarks.train_step $(ARGS) \
	    $(if $(wildcard $(PEER)/.installed),--peer="$(PEER)/bin/python benchmarks/step_lightly.py")

# Against timm: make bench-vit ARGS="--torch_python=PYTHON", one that has torch and timm.
bench-vit: $(VENV)/.installed
	$(BIN)/python -m benchmarks.vit_step $(ARGS)

bench-remat: $(VENV)/.installed
	$(BIN)/python -m benchmarks.remat $(ARGS)

bench-few-labels: $(VENV)/.installed
	$(BIN)/python -m benchmarks.few_labels $(ARGS)

bench-small-recipes: $(VENV)/.installed
	$(BIN)/python -m benchmarks.small_recipes $(ARGS)

# After `make peer`: lightly's DINO, to stand beside that of bench-small-recipes.
bench-dino: $(VENV)/.installed
	$(BIN)/python -m benchmarks.dino_beside_lightly --peer=$(PEER)/bin/python $(ARGS)

# After `make peer`: SimCLR from a folder of images by both.
bench-train: $(VENV)/.installed
	$(BIN)/python -m benchmarks.train_beside_lightly --peer=$(PEER)/bin/python $(ARGS)

bench-patches: $(VENV)/.installed
	$(BIN)/python -m benchmarks.patches $(ARGS)

bench-probe: $(VENV)/.installed
	$(BIN)/python -m benchmarks.linear_probe $(ARGS)

bench-evaluation: $(VENV)/.installed
	$(BIN)/python -m benchmarks.evaluation $(ARGS)

bench-kmeans: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python -m benchmarks.kmeans $(ARGS)

bench-random: $(VENV)/.installed
	$(BIN)/python -m benchmarks.random_encoder $(ARGS)

bench-large: $(VENV)/.installed
	$(BIN)/python -m benchmarks.large_images $(ARGS)

bench-memory-bank: $(VENV)/.installed
	$(BIN)/python -m benchmarks.memory_bank $(ARGS)
	$(BIN)/python -m benchmarks.memory_bank --jit $(ARGS)

bench-stored: $(VENV)/.installed
	$(BIN)/python -m benchmarks.stored_small $(ARGS)

clean:
	rm -rf $(VENV) $(PEER) build dist *.egg-info
