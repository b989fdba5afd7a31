# make run, make test: a virtual environment is made on first use; nothing else needs to be installed beforehand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Small tensors gain nothing from many threads, and tests run beside each other.
THREADS ?= 1
WORKERS ?= 2
LIMITS := OMP_NUM_THREADS=$(THREADS) MKL_NUM_THREADS=$(THREADS)

# Wheels of what the machine with a GPU lacks (benchmarks/README.md says how to make them).
WHEELS ?= wheels

.PHONY: run test evidence gpu docs clean

run: $(VENV)/.installed
	$(BIN)/kdflow run specs/baseline.yaml specs/defeat.yaml
	$(BIN)/kdflow results --by taxonomy

test: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(LIMITS) $(BIN)/python -m pytest -m "not slow and not gpu" -n $(WORKERS) --dist loadfile

# The long checks: every method for 50 steps on its home bench, the portability matrix, the floors of all benches, the tests that
# need a browser or a server, the documentation. Browser and server come from the distribution.
evidence: $(VENV)/.installed-test docs
	command -v chromium && ls /usr/lib/postgresql || (apt-get update && apt-get install --yes chromium postgresql)
	$(BIN)/python -m benchmarks.evidence

# On one GPU, at most six minutes, with the Python that has torch; nothing is installed but wheels that lie in $(WHEELS).
gpu:
	@if [ -d $(WHEELS) ]; then $(PYTHON) -m pip install --quiet --no-index --find-links $(WHEELS) -r benchmarks/wheels.txt; fi
	$(PYTHON) -m benchmarks.gpu --output gpu.json

docs: $(VENV)/.installed-docs
	$(LIMITS) $(BIN)/python docs/generate.py
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

clean:
	rm -rf docs/_build docs/generated build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# A stamp per set of extras, renewed when pyproject.toml changes.
$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test]"
	touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[docs]"
	touch $@ $(VENV)/.installed
