# Every target works from a fresh clone with nothing but Python 3.11 or newer and make.
# Another interpreter: make test PYTHON=/path/to/python

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import sys, venv; raise SystemExit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& { echo $$p; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LOWEST := .venv-lowest
BENCH := .venv-bench
ACCELERATORS := .venv-accelerators
# Programs that tests have compiled, which the next run loads; with PROGRAMS= all are compiled.
PROGRAMS ?= build/programs
export JAXDESCENT_TEST_PROGRAMS = $(PROGRAMS)

# As pip does for packages that it copies: where Python may not write bytecode
# (PYTHONDONTWRITEBYTECODE), every process would compile the source of what it imports.
BYTECODE = $(@D)/bin/python -m compileall -q jaxdescent tests benchmarks

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all test-as-users test-lowest-core test-accelerators check \
	format bench clean

# What users run most: the methods, the forms of a regression, its solve, and the fit.
LEAST := $(addprefix tests/test_,$(addsuffix .py,conjugate_gradient fit forms lbfgs lsmr nist \
	objectives))
CORE := $(LEAST) $(addprefix tests/test_,$(addsuffix .py,derivative_method minimize sparse \
	suboptimality))

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## */\t/' | expand -t 14

install: $(INSTALLED) ## make .venv and install the project with everything

demo: $(INSTALLED) ## a fit of a table, then the whole story: 3 to 5 minutes, ARGS=--quick 40 to 90 s
	$(BIN)/python examples/fit_files.py
	@echo
	$(BIN)/jaxdescent breakdown $(ARGS)

# The files run in their order: those of several processes, which take longest, begin.
test: $(INSTALLED) ## the tests of every day, and doctests, in five minutes on two idle cores
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-all: $(INSTALLED) ## these and the slow ones, which share their programs
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "" $(ARGS)

test-as-users: $(INSTALLED) ## the core on one device, without flags, as users run it
	JAXDESCENT_TEST_AS_USERS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(CORE) $(ARGS)

test-lowest-core: $(LOWEST)/.installed ## a part of the core with the lowest versions
	$(LOWEST)/bin/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(LEAST) $(ARGS)

# Without a GPU none of XLA's variants of a product can be measured: to compile them doubles the time.
test-accelerators: $(ACCELERATORS)/.installed ## what is compiled for GPUs and TPUs that are not here
	XLA_FLAGS=--xla_gpu_autotune_level=0 JAXDESCENT_TEST_PROGRAMS= JAX_PLATFORMS=cpu $(ACCELERATORS)/bin/python -m pytest -q -n 2 --dist loadgroup --no-loadscope-reorder -m slow tests/accelerators $(ARGS)

check: $(INSTALLED) ## style, types, and the direction of the imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(INSTALLED) ## apply what can be applied automatically
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(BENCH)/.installed ## jaxdescent beside its peers, in about 20 minutes
	$(BENCH)/bin/python -m benchmarks run $(ARGS)

clean: ## remove what the targets made
	rm -rf $(VENV) $(LOWEST) $(BENCH) $(ACCELERATORS) .pytest_cache .hypothesis .ruff_cache .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/it"; exit 1; }
	@echo "making a Python environment in $(VENV)"
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml | $(BIN)/python
	@echo "installing jaxdescent and what it needs into $(VENV): about a minute, by the network"
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[cli,test,dev]'
	$(BYTECODE)
	@touch $@

# The peers have an environment of their own: what the tests run in stays as it is.
$(BENCH)/.installed: pyproject.toml
	test -x $(BENCH)/bin/python || $(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BYTECODE)
	@touch $@

# XLA's plugins, of JAX's own version, above the packages of $(VENV): they need neither an
# accelerator nor a driver. In $(VENV) itself every other test would load them.
$(ACCELERATORS)/.installed: $(INSTALLED)
	$(BIN)/python -m venv $(ACCELERATORS)
	below=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	above=$$($(ACCELERATORS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	echo "import site; site.addsitedir('$$below')" > $$above/below.pth
	version=$$($(BIN)/python -c 'import jaxlib; print(jaxlib.__version__)') && \
	$(ACCELERATORS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		'libtpu>=0.0.40' jax-cuda13-plugin==$$version jax-cuda13-pjrt==$$version
	@touch $@

$(LOWEST)/.installed: pyproject.toml tests/lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check \
		-e '.[cli,test]' -c tests/lowest.txt
	@touch $@
