# make demo | test | browser | check | docs | slow | gpu: each installs what it needs into .venv first.
PYTHON ?= python3
BIN := .venv/bin
# Processes that run tests side by side; the tests of a file stay in one of them, and the files
# in the order that tests/conftest.py gives: long ones first.
PROCESSES ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder

# Tests start Python some hundred times: without bytecode each start compiles torch anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test browser check docs slow gpu install clean

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e ".[dev]"
	touch $@

demo: install
	$(BIN)/python examples/demo.py --out demo

test: install
	$(PYTEST) -m "not gpu and not slow and not browser"

browser: install
	$(PYTEST) -m "browser and not slow" tests/browser

slow: install
	$(BIN)/python -m pytest -m "slow"

gpu: install
	$(BIN)/python -m pytest -m "gpu"

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: install
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -c docs . build/site
	@echo "the site: build/site/index.html"

clean:
	rm -rf demo build dist docs/api .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
