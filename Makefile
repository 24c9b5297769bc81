# `make help` lists the targets. PYTHON=python3.12 make demo uses another Python (3.11 or newer).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := compress_exp hydra_plugins tests benchmarks docs examples
SITE ?= site

.DEFAULT_GOAL := help
.PHONY: help install dev demo run report test test-all lint type docs format pins clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

install: $(VENV)/.installed ## .venv with the pinned dependencies

dev: $(VENV)/.developing ## the same with what tests and checks need

demo: install ## prune, quantize and distil a small model on embedded data, and compare them
	$(BIN)/python -m compress_exp -m method=prune,quant,distill

run: install ## any experiment: make run ARGS="method=quant seed=1"
	$(BIN)/python -m compress_exp $(ARGS)

report: install ## tables and page of all runs in outputs/
	$(BIN)/python -m compress_exp.report

test: dev ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

test-all: dev ## the contract of methods for every combination; ARGS="--all 0.02" for a share of them
	$(BIN)/python -m pytest tests/test_contract.py -k every_experiment -n 2 --dist load --all 1 $(ARGS)

lint: dev ## ruff: rules and formatting
	$(BIN)/python -m ruff check $(SOURCES)
	$(BIN)/python -m ruff format --check $(SOURCES)

type: dev ## mypy, strict
	$(BIN)/python -m mypy

docs: dev ## the documentation, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict --site-dir $(abspath $(SITE))

format: dev ## rewrite what ruff can
	$(BIN)/python -m ruff check --fix $(SOURCES)
	$(BIN)/python -m ruff format $(SOURCES)

pins: dev ## write constraints.txt from what is installed
	(echo '# Every dependency, pinned; made with `make pins`.'; $(BIN)/python -m pip freeze --all --exclude-editable \
		| grep -v -e '^pip==' -e ' @ ' | sed 's/+cpu$$//' | sort -f) > constraints.txt

clean: ## remove .venv and caches; outputs/ stays
	rm -rf $(VENV) $(SITE) .pytest_cache .mypy_cache .ruff_cache
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; this is $$($(PYTHON) -V). Set PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.developing: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.installed
