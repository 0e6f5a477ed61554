# make demo    one model, several posteriors, real data: a table and a picture
# make test    the tests
# Both make their virtual environment in .venv the first time and are quick afterwards.

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?= -q
PYTEST_FLAGS ?= -q -n auto --maxprocesses 8
DEMO_FLAGS ?= --data digits --model.latent_dim 10 --out runs/demo --overwrite true

# The matrices are small: one thread a process beats many, and the tests run several processes.
export OMP_NUM_THREADS ?= 1
# Tests that need the larger data sets skip themselves, with the reason, where the folder is absent.
ifneq ($(wildcard ../shared/data),)
export ZOO_DATA ?= $(abspath ../shared/data)
endif

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install $(PIP_FLAGS) -e

.PHONY: help demo test test-all lint clean
.DEFAULT_GOAL := help

help:
	@echo 'make demo    compare exact, mean-field, full-rank and amortized posteriors of PPCA on digits'
	@echo 'make test    run the tests, doctests and the README (PYTEST_FLAGS="-q -k name" for some)'
	@echo 'make test-all  the same with every combination, of which the tests take a part: an hour'
	@echo 'make lint    ruff and pyright'
	@echo 'make clean   remove the environment, caches and the demo (not your runs)'
	@echo
	@echo 'PYTHON=python3.12 chooses the interpreter ($(PYTHON)), VENV=DIR the environment ($(VENV)).'

demo: $(VENV)/.installed
	$(BIN)/zoo compare ppca $(DEMO_FLAGS)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

test-all: $(VENV)/.installed-test
	ZOO_TEST_ALL=1 $(BIN)/python -m pytest $(PYTEST_FLAGS)

lint: $(VENV)/.installed-dev
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m pyright --pythonpath $(BIN)/python

clean:
	rm -rf .venv .pytest_cache .ruff_cache runs/demo
	find zoo guides experiments tests -name __pycache__ -type d -prune -exec rm -rf {} +

# pip is the last thing that venv makes, so a half-made environment is made again.
$(BIN)/pip:
	@command -v $(PYTHON) >/dev/null || { \
	  echo '$(PYTHON) was not found. Python 3.11 or newer is needed; if it has another name:'; \
	  echo '  make $(MAKECMDGOALS) PYTHON=python3.12'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, but $(PYTHON) is $$($(PYTHON) -V 2>&1). If you have one:"; \
	  echo '  make $(MAKECMDGOALS) PYTHON=python3.12'; exit 1; }
	@echo 'Making a virtual environment in $(VENV)'
	@$(PYTHON) -m venv $(VENV) || { \
	  echo 'The virtual environment could not be made. On Debian and Ubuntu its module is a package'; \
	  echo 'of its own: sudo apt install python3-venv'; rm -f $@; exit 1; }

$(VENV)/.installed: pyproject.toml | $(BIN)/pip
	@echo 'Installing latent-zoo; PyTorch is large, so the first time takes a few minutes'
	@$(INSTALL) .
	@touch $@

$(VENV)/.installed-%: pyproject.toml | $(BIN)/pip
	@echo 'Installing latent-zoo[$*]; PyTorch is large, so the first time takes a few minutes'
	@$(INSTALL) '.[$*]'
	@touch $@
