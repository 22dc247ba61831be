# Two commands do all set-up: `make quickstart` and `make test`. Both create the environment in $(VENV).
PYTHON ?= python3
# PYTHON=python3.13 has an environment of its own; VENV_FLAGS=--system-site-packages takes a torch that is there already.
VENV ?= .venv$(patsubst %,-%,$(filter-out python3,$(notdir $(PYTHON))))
VENV_FLAGS ?=
MIN_PYTHON ?= python3.10
MIN_VENV ?= .venv-min
# Installed where there is no torch, first and alone, so that an index or folder with CPU wheels can serve it: make TORCH="torch==2.13.0 --index-url …"
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
# Processes that run the tests, with one thread each.
WORKERS ?= 2
DOCS := data/python_docs
RUN := checkpoints/quickstart
CALIBRATED := checkpoints/quickstart-calibrated

# bandit: asserts tell mypy types, random draws are seeded on purpose, and subprocess gets lists of fixed arguments
# (tests/test_security.py refuses shell=True).
NOT_ASKED := B101,B311,B404,B603,B607

.PHONY: quickstart publication test test-min check docs audit fuzz fix bench clean
.DEFAULT_GOAL := help

help:
	@echo "make quickstart   train a head on real text and compare it with the untouched base and BM25"
	@echo "make publication  train the three publication experiments, evaluate them on BEIR, write the tables"
	@echo "                  (days on a T4, and a network; SMOKE=1: a hundred documents, minutes on a CPU)"
	@echo "make test         run the tests (PYTHON=python3.13: with another Python)"
	@echo "make test-min     run the fast tests with the oldest supported versions (requirements-min.txt, Python 3.10)"
	@echo "make check        ruff, mypy, bandit and pip-audit (needs a network; OFFLINE=1 leaves it out)"
	@echo "make docs         build the documentation into build/site"
	@echo "make audit        known vulnerabilities of what is installed (needs a network)"
	@echo "make fuzz         10,000 hostile inputs for every reader"
	@echo "make fix          let ruff fix what it can"
	@echo "make bench        run the benchmarks and write docs/performance.md (DATA=FOLDER of collections)"

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV_FLAGS) $(VENV)
	$(BIN)/python -c "import torch" 2> /dev/null || $(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

quickstart: $(VENV)/.installed
	$(BIN)/python scripts/prepare_data.py --documents python_docs --max_documents 2000 --split 0.75 0.1 0.15 --output_dir $(DOCS)
	$(BIN)/python scripts/calibrate.py --corpus $(DOCS) --queries $(DOCS) --query_split train --output_dir $(CALIBRATED)
	$(BIN)/python scripts/train.py --config configs/quickstart.yaml --overwrite
	$(BIN)/python scripts/compute_isotropy.py --model_path $(RUN)/best_model --datasets python_docs --data_dir data \
		--output_dir $(RUN)/isotropy > /dev/null
	$(BIN)/python scripts/evaluate_beir.py --model_path $(RUN)/best_model --datasets python_docs --data_dir data \
		--baseline bm25 $(CALIBRATED) --output_file results/quickstart.json --update_card
	@$(BIN)/python scripts/report.py $(RUN) --results results/quickstart.json --data_dir data
	@echo "checkpoint with model card: $(RUN)/best_model"

publication: $(VENV)/.installed
	PYTHON=$(BIN)/python scripts/train_publication_recommended.sh $(if $(SMOKE),--smoke) $(if $(PARALLEL),--parallel)
	PYTHON=$(BIN)/python scripts/evaluate_all_beir.sh $(if $(SMOKE),--smoke)

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --durations=10

$(MIN_VENV)/.installed: pyproject.toml requirements-min.txt
	$(MIN_PYTHON) -m venv $(MIN_VENV)
	$(MIN_VENV)/bin/python -m pip install --quiet --requirement requirements-min.txt
	$(MIN_VENV)/bin/python -m pip install --quiet --no-deps --editable .
	touch $@

test-min: $(MIN_VENV)/.installed
	OMP_NUM_THREADS=1 $(MIN_VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow"

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/bandit -q -r ragcun scripts --skip $(NOT_ASKED)
	$(if $(OFFLINE),,$(MAKE) audit)

docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Needs a network: it asks for the known vulnerabilities of what is installed.
audit: $(VENV)/.installed
	$(BIN)/pip-audit --skip-editable

fuzz: $(VENV)/.installed
	OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile tests/fuzz

fix: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/performance.py $(if $(DATA),--data_dir $(DATA))

clean:
	rm -rf $(VENV) $(MIN_VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
