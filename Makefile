# `make demo` and `make test` do all the set-up; they need Python 3.11 or newer and make.
#
# TORCH=URL-or-folder takes torch from there: PyTorch's CPU wheels, or a folder of wheels.
# On Linux the package index's torch is the CUDA build of several gigabytes.

PYTHON ?= python3
VENV ?= .venv
TORCH ?=
BIN := $(VENV)/bin

# Two workers per processor, because half of the time of a test is waiting: for a hub, a process or an idle screen.
# `make test WORKERS=0` runs the tests one after the other.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(2 * (os.cpu_count() or 1))')
PYTEST := $(BIN)/python -m pytest --durations 20
PARALLEL := --numprocesses $(WORKERS) --maxprocesses 8 --dist worksteal
unexport PYTHONDONTWRITEBYTECODE  # the tests start many processes, which share the bytecode

ifneq ($(TORCH),)
TORCH_FROM := $(if $(wildcard $(TORCH)/.),--find-links $(TORCH),--extra-index-url $(TORCH))
endif

export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test test-fast test-exhaustive test-all soak sanitize coverage check format docs picture screenshots session bench bench-plots clean
.DEFAULT_GOAL := help

help:  ## say what each target does
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 18

demo: $(VENV)/runs  ## train a small GPT and watch it (a plain table where there is no terminal)
	$(BIN)/gradscope demo

test: $(VENV)/tests  ## run the tests that every change must pass
	$(PYTEST) $(PARALLEL) -m "not exhaustive and not timing"
	$(PYTEST) -m "timing and not exhaustive" $$(grep -rlw --include='test_*.py' mark.timing tests)

test-fast: $(VENV)/tests  ## run the part of `make test` that starts no processes and is quick
	$(PYTEST) $(PARALLEL) -m "not exhaustive and not timing and not processes and not slow"

test-exhaustive: $(VENV)/exhaustive  ## run what `make test` leaves out: every sample, backend and sanitizer build
	GRADSCOPE_TESTS=exhaustive $(PYTEST) $(PARALLEL) -m "exhaustive or hypothesis"

test-all: test test-exhaustive  ## run `make test`, then `make test-exhaustive`

SOAK_S ?= 1800
soak: $(VENV)/tests  ## train at full rate for 30 minutes (SOAK_S=seconds); memory and descriptors must stay flat
	$(BIN)/python tests/faults/soak.py $(SOAK_S)

sanitize: $(VENV)/tests  ## run the tests of the C extension with AddressSanitizer and UndefinedBehaviorSanitizer
	$(PYTEST) tests/native/test_native_memory.py

check: $(VENV)/tests  ## lint, formatting, spelling, types, and which room imports which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	git ls-files -z '*.py' '*.md' '*.c' '*.h' '*.toml' '*.yml' | xargs -0 $(BIN)/codespell
	$(BIN)/python .ci/words.py
	$(BIN)/clang-format --dry-run -Werror gradscope/native/*.c gradscope/native/*.h
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/tests  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i gradscope/native/*.c gradscope/native/*.h

coverage: $(VENV)/tests  ## run the tests that start no processes and measure their coverage: build/coverage
	$(PYTEST) $(PARALLEL) -m "not exhaustive and not timing and not processes" --cov --cov-report term --cov-report html

docs: $(VENV)/docs  ## build the documentation: build/docs/index.html
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet -d build/doctrees docs build/docs

picture: $(VENV)/runs  ## draw docs/demo.svg: the real UI on the demo
	$(BIN)/python docs/picture.py docs/demo.svg

screenshots: $(VENV)/runs  ## draw docs/*-120x32.svg and docs/*-80x24.svg: the UI on four runs with a fault
	$(BIN)/python docs/screenshots.py docs

session: $(VENV)/runs  ## record build/session.cast: the UI on the demo, as an asciicast
	mkdir -p build
	$(BIN)/python docs/session.py build/session.cast

bench: $(VENV)/runs  ## measure what observing costs, as ratios against the bare program
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.anatomy
	$(BIN)/python -m benchmarks.resources
	$(BIN)/python benchmarks/tui_layers.py
	$(BIN)/python benchmarks/tui_endurance.py
	$(BIN)/python -m benchmarks.attach
	$(BIN)/python -m benchmarks.worst
	$(BIN)/python -m benchmarks.frames
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.peers

bench-plots: $(VENV)/tests  ## draw how the cost grows: docs/growth.png and .json, in about eight minutes
	$(BIN)/python -m benchmarks.growth --png docs/growth.png

clean:  ## remove what these targets made
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gradscope needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; run: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/runs: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install $(TORCH_FROM) torch
	$(BIN)/python -m pip install --editable .
	@touch $@

$(VENV)/docs: $(VENV)/runs
	$(BIN)/python -m pip install --editable '.[docs]'
	@touch $@

$(VENV)/tests: $(VENV)/runs
	$(BIN)/python -m pip install --editable '.[dev,docs,conformance,examples,tensors,triton,accelerate,lightning,transformers,notebook,mcp,tensorboard,wandb,web,debug-server]'
	@touch $@
