# Each target is described behind its ##; `make` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
PIP := $(BIN)/pip install --disable-pip-version-check --no-compile
.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo check-data preview train sweep compare report ui server sync prune tensorboard test test-rest test-browser test-services bench cuts scale lint lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## *' '{printf "  %-13s %s\n", $$1, $$2}'

setup: $(INSTALLED)  ## make .venv with what training, comparing and predicting need

setup-dev: $(INSTALLED_DEV)  ## the same with SLURM, Ray, the team's server, TensorFlow Datasets and the test tools

# Bytecode is compiled by all cores afterwards, which is quicker than one file at a time and makes imports quick.
$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11) and "Thaw needs Python 3.11 or newer: make PYTHON=python3.12")'
	@echo "Installing TensorFlow, MLflow, Hydra and Thaw into $(VENV): 3 GB on disk, a few minutes."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --requirement requirements.lock
	@$(PIP) --quiet --no-deps --no-build-isolation --editable .
	@echo "Compiling for quick starts ..."
	-@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib > /dev/null 2>&1
	@touch $@
	@echo "Installed. Next: make demo, or . $(BIN)/activate and python train.py --help"

$(INSTALLED_DEV): requirements-dev.lock $(INSTALLED)
	@echo "Installing what tests and clusters need as well."
	@$(PIP) --quiet --requirement requirements-dev.lock
	-@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib > /dev/null 2>&1
	@touch $@

demo: setup  ## six runs on the digits that ship with scikit-learn, as a table and side by side in MLflow
	@echo "Training six runs: 3 to 12 minutes on two cores. A kill loses at most one epoch; the same command resumes."
	$(BIN)/python train.py -m backbone=effnetb0,xception unfreeze=0,20,30

check-data: setup  ## what is wrong with a folder of pictures: make check-data dataset.path=DIR (args="..." for more)
	$(BIN)/python -m thaw.cli.check_data $(if $(dataset.path),dataset=folder dataset.path="$(dataset.path)") $(args)

preview: setup  ## draw a batch as training sees it: make preview args="dataset=folder dataset.path=DIR"
	$(BIN)/python train.py $(args) --preview

train: setup  ## one run: make train args="backbone=vgg16 unfreeze=4"
	$(BIN)/python train.py $(args)

sweep: setup  ## every combination: make sweep args="backbone=vgg16,resnet50 fraction=10,100"
	$(BIN)/python train.py -m $(args)

compare: setup  ## the runs of an experiment side by side: make compare experiment=digits
	$(BIN)/python compare.py $(if $(experiment),"$(experiment)") $(args)

report: setup  ## the same as a page, and as a note in experiments/results: make report experiment=digits
	$(BIN)/python compare.py $(if $(experiment),"$(experiment)") --out "mlruns/reports/$(experiment)" --notebook $(args)

ui: PORT = 5000
ui: setup  ## the MLflow UI on loopback, with the addresses of the newest sweeps (PORT=5000)
	$(BIN)/python -m thaw.cli.ui --port $(PORT)

server: setup-dev  ## MLflow's server for a team, on PostgreSQL or SQLite: make server args="--host 0.0.0.0" (docs/team.md)
	$(BIN)/python -m thaw.cli.server $(args)

sync: setup  ## send runs to MLflow that were journaled while it was unreachable
	$(BIN)/python -m thaw.cli.sync

prune: setup  ## remove what no finished or interrupted run needs, and say what that was
	$(BIN)/python -m thaw.cli.prune

tensorboard: PORT = 6006
tensorboard: setup  ## TensorBoard on loopback, with the curves of every run (PORT=6006)
	@echo "TensorBoard: http://127.0.0.1:$(PORT)"
	$(BIN)/tensorboard --logdir mlruns/runs --host 127.0.0.1 --port $(PORT)

test: setup-dev  ## the fast tests, with branch coverage
	$(BIN)/python -W ignore:Unable -m slipcover --branch --source src/thaw --skip-covered \
	  -m pytest -n 2 --dist worksteal -m "not real and not slow and not browser and not services"

test-rest: setup-dev  ## the tests that need minutes, or photographs and weights (THAW_REAL=folder)
	$(BIN)/pytest -n 2 --dist worksteal -m "real or slow" -rs

test-browser: setup-dev  ## the report and MLflow's pages in a real Chromium (Debian: chromium chromium-driver)
	$(BIN)/pytest -m browser -rs

test-services: setup-dev  ## on a real SLURM, Ray, PostgreSQL and MLflow server (Debian: see .ci/run; THAW_SERVICES=folder)
	$(BIN)/pytest -m services -rs

bench: setup-dev  ## Thaw, a plain Keras loop and the theoretical limit: make bench args="--cases six --repeats 1"
	PYTHONPATH=. $(BIN)/python benchmarks/bench.py $(args)

cuts: setup-dev  ## where it is cheapest to cut a network, measured: make cuts args="--networks Xception"
	PYTHONPATH=. $(BIN)/python benchmarks/cuts.py $(args)

scale: setup-dev  ## the cost of many concurrent writers, runs and locks: make scale args="--runs 1000"
	PYTHONPATH=. $(BIN)/python benchmarks/scale.py $(args)

lint: setup-dev  ## style, format, types, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The first lock file is what everybody installs, the second adds the extras to the same versions.
COMPILE := $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --no-emit-index-url \
  --no-emit-find-links --no-annotate --custom-compile-command "make lock" --quiet $(UPGRADE)

lock: UPGRADE = --upgrade
lock: setup  ## requirements.lock and requirements-dev.lock anew from pyproject.toml, for Python 3.11 to 3.13
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(COMPILE) --output-file requirements.lock
	$(COMPILE) --extra slurm --extra ray --extra server --extra tfds --extra heic --extra dev --constraint requirements.lock \
	  --output-file requirements-dev.lock

clean:  ## remove the environment and caches; what runs left in mlruns/ stays
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
