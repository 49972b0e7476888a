# One environment, .venv, serves everything; scripts/venv.sh makes it when it is not current.

.DEFAULT_GOAL := help
.PHONY: help venv web-tools lock demo test lint docs-check wheel clean

PY := .venv/bin/python
CORES := $(shell nproc 2>/dev/null || echo 2)
# MXNet is fastest with one thread for each core.
export OMP_NUM_THREADS ?= $(CORES)
# Where bytecode is not kept, each process compiles MXNet and all else anew: 2 seconds.
export PYTHONDONTWRITEBYTECODE :=
export UV ?= uv

RECIPE ?= model_zoo/ssd_300_toy/recipe.json
OUT ?= runs/demo
ARGS ?=

help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):.*##\(.*\)/  make \1 \t\2/p' Makefile

venv:  ## Make .venv with everything in it (PYTHON=... chooses the Python, 3.8 to 3.11)
	@scripts/venv.sh

web-tools:  ## Install what tests of the page for browsers need (Chromium, Node.js)
	@scripts/web_tools.sh

lock:  ## Refresh constraints/, the versions that make venv installs (needs uv)
	@scripts/lock.sh

demo: venv  ## Train, prune, distil, evaluate and export a detector on made-up data
	@$(PY) scripts/run_pipeline.py --recipe $(RECIPE) --out $(OUT) --resume

# Tests are small: one process for each core does more than one with many threads. Each
# takes whole files, whose fixtures are then made once.
test: export OMP_NUM_THREADS := 1
test: venv  ## Run the tests (ARGS="-m 'not slow'" chooses among them, ARGS="-m long" runs the long ones)
	@$(PY) -m pytest -n $(CORES) --dist loadfile $(ARGS)

lint: venv  ## Check style, format, types and the arrows between modules
	@.venv/bin/ruff check . && .venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

docs-check: venv  ## Run every command that README and docs show, on small data
	@$(PY) scripts/check_docs.py $(ARGS)

wheel: venv  ## Build two wheels in dist/: the package, and the released weights
	@rm -rf build packaging/weights/build dist/gluon_compress*.whl
	@$(PY) -m pip wheel -q --no-deps --no-build-isolation --wheel-dir dist . packaging/weights
	@ls -s --block-size=MB dist/gluon_compress*.whl

clean:  ## Remove .venv and what Python and its tools left behind; runs/ stays
	@rm -rf .venv .web .venv-install.log build dist *.egg-info packaging/weights/build packaging/weights/*.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
