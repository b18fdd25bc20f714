# `make` alone lists the targets. Each uses the environment in .venv and makes it when it is missing.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# One thread a process: tests run in two processes, and small tensors gain nothing from more.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint format type docs bench clean

help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one by: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	@echo "Installing into $(VENV); the first time this takes some minutes."
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	@touch $@

setup: $(READY) ## Make the environment and install the package with its tools

demo: $(READY) ## Distil on handwritten digits with flipped labels and write a report (under 4 minutes)
	$(BIN)/limbeck run digits --out runs/demo --replace

test: $(READY) ## Run the fast tests (about 2 minutes)
	$(PYTEST)

test-all: $(READY) ## Run every test: slow ones and those that open a browser too
	$(PYTEST) -m "not gpu and not (slow and dist)"
	$(PYTEST) -m "slow and dist"  # they fork, which torch refuses after some of the others

lint: $(READY) ## Check the style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY) ## Mend the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: $(READY) ## Check the types
	$(BIN)/mypy

docs: $(READY) ## Render METHODS.md from the catalogue
	$(BIN)/python -m limbeck.catalogue > METHODS.md

bench: $(READY) ## Measure steps, scores beside other libraries, and scaling (about half an hour)
	$(BIN)/python -m pip install --quiet -e ".[bench]"
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/attribution.py
	$(BIN)/python benchmarks/attribution.py --render
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/scaling.py --render

clean: ## Remove the environment, the demo's run and all caches; other runs stay
	rm -rf $(VENV) runs/demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
