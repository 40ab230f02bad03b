# `make demo` and `make test` work on a fresh machine: they make the environment first if it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKSPACE ?= demo
KILLS ?= 300

.PHONY: demo test test-slow drill check clean

demo: $(VENV)/.runtime
	$(BIN)/python -m jobs.pipeline --workspace $(WORKSPACE)

test: $(VENV)/.develop
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(VENV)/.develop
	$(BIN)/python -m pytest -m slow

drill: $(VENV)/.runtime
	$(BIN)/python -m jobs.drill --kills $(KILLS)

check: $(VENV)/.develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layers.py

$(VENV)/.runtime: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.develop: $(VENV)/.runtime tests/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

clean:
	rm -rf $(VENV) demo .mypy_cache .ruff_cache .pytest_cache
