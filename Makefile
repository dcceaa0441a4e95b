# `make demo` and `make test` need Python 3.11 or newer with pip, and make; nothing else beforehand.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
KERNEL := src/lstm_jax/backends/cpu_kernel
# What an installation is made of; it is made again when one of them changed.
INSTALLED_FROM := pyproject.toml hatch_build.py $(KERNEL)/build.py $(wildcard $(KERNEL)/native/*)
# Platforms of wheels, as $(KERNEL)/build.py names them.
WHEELS ?= x86_64-linux aarch64-linux aarch64-macos x86_64-windows
# Half of what a test takes is XLA's compiler; .ci/run tests the wheel's programs optimised, as users run them.
TEST_ENV ?= JAX_DISABLE_MOST_OPTIMIZATIONS=1
BENCH_ARGS ?=
KERNELS_ARGS ?=
# JAX's CUDA plugin and libtpu, for their compilers alone. Not in $(VENV): there every program would look for a
# device.
COMPILER := $(VENV)/compilers

.PHONY: help demo test test-all gpu compilers kernels compiler-test bench wheel sanitize emulate lint docs clean

help:
	@echo "make demo   install into $(VENV) and compare vanishing gradients in RNN, LSTM and GRU"
	@echo "make test   install and run the quick tests of every part, in a few minutes (PYTEST_ARGS=\"-k lstm\" for some)"
	@echo "make test-all   install and run all tests"
	@echo "make gpu    on a CUDA machine: install JAX's CUDA plugin and run what needs a device"
	@echo "make kernels   without a GPU: count the kernels that unrolls launch on one (KERNELS_ARGS=\"--cell lstm\")"
	@echo "make compiler-test   without a GPU or a TPU: compile for them what the tests have for it"
	@echo "make bench  install with every competitor and time them side by side (BENCH_ARGS=\"unroll --quick\" for a part)"
	@echo "make wheel  wheels with the CPU kernel in dist/, by Zig's compiler (WHEELS=\"$(WHEELS)\")"
	@echo "make sanitize   the CPU kernel's own tests under sanitizers; make emulate: on processors that QEMU emulates"
	@echo "make docs   install and build the site into build/docs, running every block of every page"
	@echo "make lint   install and run the formatter, the linter and the type checker, changing nothing"
	@echo "make clean  remove $(VENV) and caches"

demo: $(VENV)/.installed
	$(BIN)/gradient-flow compare

test: $(VENV)/.installed-dev
	$(TEST_ENV) $(BIN)/python -m pytest -n auto -m "not slow" --durations=10 $(PYTEST_ARGS)

test-all: $(VENV)/.installed-dev
	$(TEST_ENV) $(BIN)/python -m pytest -n auto $(PYTEST_ARGS)

gpu: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet 'jax[cuda12]'
	CUDA_VISIBLE_DEVICES=0 LSTM_JAX_REQUIRE_GPU=1 $(BIN)/python -m pytest -m gpu

kernels: compilers
	$(BIN)/python -m pip install --quiet --editable '.[jax-peers]'
	PYTHONPATH=$(COMPILER) JAX_PLATFORMS=cpu $(BIN)/python -m benchmarks kernels $(KERNELS_ARGS)

compiler-test: compilers
	PYTHONPATH=$(COMPILER) JAX_PLATFORMS=cpu LSTM_JAX_REQUIRE_COMPILER=1 \
	  $(BIN)/python -m pytest -n auto -m compiler

bench: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --editable '.[peers]'
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

# pip brings the compiler for the build alone.
wheel: | $(VENV)/bin/python
	for target in $(WHEELS); do \
	  LSTM_JAX_KERNEL_TARGET=$$target $(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist . || exit 1; \
	done

sanitize:
	$(PYTHON) tests/native/run.py sanitize

emulate:
	$(PYTHON) tests/native/run.py emulate

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# From nothing each time: what a block prints may change with any file of the packages.
docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx --builder html --fresh-env --write-all --fail-on-warning --keep-going --nitpicky \
	  --conf-dir docs . build/docs

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, got $$($(PYTHON) --version 2>&1); name one with PYTHON=..." >&2; \
	  exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(INSTALLED_FROM) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[report]'
	@touch $@

$(VENV)/.installed-dev: $(INSTALLED_FROM) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev,report]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: $(INSTALLED_FROM) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@ $(VENV)/.installed

# Of the versions that the installed JAX asks for, whichever that is by now.
compilers: $(VENV)/.installed-dev
	@asked=$$($(BIN)/python -c 'import importlib.metadata as m; v = m.version("jax"); \
	    tpu = next(r for r in m.requires("jax") if r.startswith("libtpu")); \
	    print(f"jax-cuda12-plugin=={v} jax-cuda12-pjrt=={v}", tpu.split(";")[0].replace(" ", ""))') && \
	if [ "$$(cat $(COMPILER)/.installed 2>/dev/null)" != "$$asked" ]; then \
	  rm -rf $(COMPILER) && \
	  $(BIN)/python -m pip install --quiet --no-deps --target $(COMPILER) $$asked && \
	  echo "$$asked" > $(COMPILER)/.installed; \
	fi

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
