# Everything starts from a fresh clone with Python 3.11+ and make; see README.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint format bench lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP)  ## create .venv and install everything at the pinned versions

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("cmaev needs Python 3.11 to 3.13, this is " + sys.version.split()[0]) if not (3, 11) <= sys.version_info < (3, 14) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[local,dev]'
	@touch $@

demo: $(STAMP)  ## the main job, end to end, on generated videos
	$(BIN)/cmaev demo

lint: $(STAMP)  ## format, lint, import arrows and types, as CI runs them
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: $(STAMP)  ## rewrite the sources in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: lint  ## lint, types and the test suite; what CI runs
	$(BIN)/pytest -n 2 --dist loadfile --durations=10

test-all: lint  ## the test suite with the slow drills
	$(BIN)/pytest -n 2 --dist loadfile --durations=10 -m ''

bench: $(STAMP)  ## benchmarks; figures for docs/benchmarks
	$(BIN)/python -m bench.model
	$(BIN)/python -m bench.data
	$(BIN)/python -m bench.loader
	$(BIN)/python -m bench.loop
	$(BIN)/python -m bench.saving

lock:  ## resolve the dependencies afresh and rewrite constraints.txt
	rm -rf $(VENV)-lock
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet --disable-pip-version-check -e '.[local,dev,torchcodec]'
	$(VENV)-lock/bin/python -m pip freeze --exclude-editable > constraints.txt.new
	mv constraints.txt.new constraints.txt
	rm -rf $(VENV)-lock

clean:  ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
