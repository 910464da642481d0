# `make demo` and `make test` need Python 3.11 or newer and nothing else.
# TORCH chooses the torch requirement: TORCH="torch" takes the current CUDA build.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
DEMO_MINUTES ?= 3

.PHONY: demo test test-slow lint types golden

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

demo: $(VENV)/installed
	$(VENV)/bin/tds_demo --minutes $(DEMO_MINUTES) --root demo

lint: $(VENV)/installed types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# Read the types of all three packages; the first run takes about a minute, later ones read .mypy_cache.
types: $(VENV)/installed
	$(VENV)/bin/mypy

test: $(VENV)/installed lint
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/python -m pytest -n 2 --dist loadfile

# Tests that take minutes or need more than the library does: a wheel in a fresh environment, a Dask cluster.
test-slow: $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[cluster]"
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/python -m pytest -m slow

# Record the numbers of the golden runs anew, after a change that is meant to move them.
golden: $(VENV)/installed
	$(VENV)/bin/python tests/golden.py
