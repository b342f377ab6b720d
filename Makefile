# `make demo` and `make test` need only Python (3.11 to 3.13) and make; everything goes to $(VENV).
#
#   make demo    install, make a small cohort of synthetic heads, process it, say where the reports are
#   make test    install with the test tools, run the tests (TEST_PROCESSES=0 runs them in one process)
#   make lint    style and types
#   make docs    build the documentation into docs/_build/html
#   make clean   remove what the targets above made
#
# PYTHON=python3.12 chooses another Python; PIP_OPTIONS="..." goes to pip (for example an index of
# CPU-only builds of PyTorch); PYTEST_OPTIONS="-k names" goes to pytest.

PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
MODELS ?= pepsi brainid
PIP_OPTIONS ?=
PYTEST_OPTIONS ?=
TEST_PROCESSES ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet $(PIP_OPTIONS) -c constraints.txt
RUNTIME := $(VENV)/.installed
TOOLS := $(VENV)/.installed-all

.PHONY: demo test lint docs clean

demo: $(RUNTIME)
	$(BIN)/bidsrep-demo $(DEMO)/bids
	$(BIN)/bidsrep $(DEMO)/bids $(DEMO)/derivatives participant group --model $(MODELS) --work-dir $(DEMO)/work
	@echo
	@echo "The reports, to be opened in a browser:"
	@ls -d $(CURDIR)/$(DEMO)/derivatives/*.html

test: $(TOOLS)
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile $(PYTEST_OPTIONS)

lint: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(TOOLS)
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean:
	rm -rf $(VENV) $(DEMO) docs/_build build bidsrep.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; \
	  sys.exit(None if (3, 11) <= v < (3, 14) else "bidsrep needs Python 3.11 to 3.13; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(RUNTIME): setup.cfg pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e .
	@touch $@

$(TOOLS): setup.cfg pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e ".[all]"
	@touch $(RUNTIME) $@
