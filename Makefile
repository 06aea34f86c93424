# Everything runs in .venv, which is made on first use; a stamp there marks each step that is done.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PYTEST := $(BIN)/pytest -n auto --maxprocesses=4
FUZZ_SECONDS ?= 60
FUZZ_SEED ?= 1

.PHONY: demo test check lint docs bench bench-short test-all test-kernel test-wheel fuzz
# Make would delete the stamps that only pattern rules name.
.SECONDARY:

demo: .venv/.installed
	$(BIN)/python -m netem demo

test: .venv/.group-test
	$(PYTEST) -m "not slow"

check: lint docs test-all test-kernel test-wheel fuzz bench-short

lint: .venv/.group-test .venv/.group-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

docs: .venv/.group-docs
	$(BIN)/sphinx-build --quiet -W --keep-going docs docs/_build

bench: .venv/.installed
	$(BIN)/python -m netem cost

# Shows that the benchmark works; too short for figures to go by.
bench-short: .venv/.installed
	$(BIN)/python -m netem cost --streams 200 --seconds 2 --runs 1

# Also what is slow, and many more examples for each property.
test-all: .venv/.group-test
	$(PYTEST) --hypothesis-profile=thorough --ignore=tests/kernel

# Boots a kernel with tc-netem in an emulated machine, which all of these tests share.
test-kernel: .venv/.group-test .venv/.group-kernel
	$(BIN)/pytest tests/kernel

# The everyday tests on what users install: no file of the packages is within reach of the tests.
test-wheel: .venv/.group-test
	rm -rf build/wheel
	mkdir -p build/wheel/tree
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/wheel .
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	build/wheel/venv/bin/python -m pip install --quiet --group test \
		"$$(echo build/wheel/*.whl)[cli,lab]"
	cp -r pyproject.toml $(wildcard docs examples) tests build/wheel/tree
	cd build/wheel/tree && PYTHONPATH=. ../venv/bin/pytest -n auto --maxprocesses=4 -m "not slow"

# tests/fuzz/fuzz_NAME.py starts from tests/fuzz/corpus/NAME; what it finds goes to build/fuzz/NAME.
# FUZZ_SEED=0 takes another way each time; the fixed one lets a run be repeated.
fuzz: $(patsubst tests/fuzz/fuzz_%.py,fuzz-%,$(wildcard tests/fuzz/fuzz_*.py))

fuzz-%: .venv/.group-test .venv/.group-fuzz
	mkdir -p build/fuzz/$*
	PYTHONHASHSEED=0 $(BIN)/python tests/fuzz/fuzz_$*.py build/fuzz/$* \
		$(wildcard tests/fuzz/corpus/$*) -artifact_prefix=build/fuzz/ \
		-max_total_time=$(FUZZ_SECONDS) -seed=$(FUZZ_SEED) -print_final_stats=1

# Dependency groups (PEP 735) need pip 25.1; a fresh environment of Python 3.11 has 23 or 24.
.venv/.pip:
	$(PYTHON) -m venv .venv
	$(INSTALL) --upgrade "pip>=25.1"
	touch $@

.venv/.installed: pyproject.toml | .venv/.pip
	$(INSTALL) --editable ".[cli,lab]"
	touch $@

.venv/.group-%: pyproject.toml .venv/.installed
	$(INSTALL) --group $*
	touch $@
