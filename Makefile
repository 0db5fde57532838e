# make demo | test | browser | check | docs | slow | gpu | sbom | lock: each installs what it needs into
# VENV first. Another Python: make test PYTHON=python3.13 VENV=build/python3.13
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Versions, and the hashes that their files must have. constraints.txt, where files come from an index
# whose builds differ, PyTorch's for instance.
CONSTRAINTS ?= constraints-hashed.txt
# Processes that run tests side by side; the tests of a file stay in one of them, and the files
# in the order that tests/conftest.py gives: long ones first.
PROCESSES ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder

# Tests start Python some hundred times: without bytecode each start compiles torch anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test browser check docs slow gpu sbom lock install clean

install: $(VENV)/.installed

$(BIN)/uv:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt uv

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS) | $(BIN)/uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c $(CONSTRAINTS) -e ".[dev]"
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

# What the environment holds, with licences, as CycloneDX.
sbom: install
	mkdir -p build
	$(BIN)/uv tool run --from cyclonedx-bom==7.5.0 cyclonedx-py environment \
		--pyproject pyproject.toml --output-reproducible -o build/sbom.json $(BIN)/python
	@echo "build/sbom.json"

# After a change of constraints.txt or of the dependencies: fails where a version fits no Python from
# 3.11 on. A version that is in neither file yet is the newest.
lock: $(BIN)/uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev -c constraints.txt \
		--generate-hashes --no-annotate --custom-compile-command "make lock" \
		-o constraints-hashed.txt pyproject.toml

clean:
	rm -rf demo build dist docs/api .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
