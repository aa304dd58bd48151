# Two commands on a fresh machine: `make demo` runs the whole way, `make test` passes the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test lint bench clean

setup: $(READY)

# The constraints pin every version for this Python, so that tomorrow's set-up is today's.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,lint]'
	touch $@

demo: $(READY)
	$(BIN)/msip demo --out demo

test: $(READY)
	$(BIN)/python -m pytest -n 2 --durations=10

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python benchmarks/selective_search.py

clean:
	rm -rf $(VENV) demo build *.egg-info
