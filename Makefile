# Everything runs in .venv, which is brought up to date when pyproject.toml or constraints.txt changes.
# Needs make and Python 3.10 or newer:  make test PYTHON=python3.12

PYTHON ?= python3
JOBS ?= 2
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

.DEFAULT_GOAL := help
.PHONY: help demo test test-all check format notebooks docs wheel clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.benchmarks ## train a small network while its learning rate is tuned; options in ARGS='...'
	$(BIN)/python benchmarks/rtho.py $(ARGS)

test: check ## format, lint, types and tests, without the large grids
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

test-all: test ## all of that, then the large grids; they write benchmarks/results/*.json
	$(BIN)/python -m pytest -m acceptance

check: $(VENV)/.tests ## format, lint and types only
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright

format: $(VENV)/.tests ## write the code as `make test` wants it
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

notebooks: $(VENV)/.notebooks ## run notebooks/*.py and write the notebooks beside them
	$(BIN)/python notebooks/build.py $(ARGS)

docs: $(VENV)/.docs ## build the pages of docs/ into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict $(ARGS)

wheel: $(BIN)/pip ## build dist/*.whl
	$(PIP) wheel --no-deps --wheel-dir dist .

clean: ## remove .venv, what was built and caches; data/ and runs/ stay
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer, please: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

# $(VENV)/.tests says that the extra `tests` is installed, and so on
$(VENV)/.%: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "installing adatune_func[$*] into $(VENV); torch is large, the first time takes minutes"
	$(PIP) install --editable '.[$*]' --constraint constraints.txt
	@touch $@
