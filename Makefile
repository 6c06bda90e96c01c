# Everything a newcomer needs: make demo, make test. Everything CI needs: make check, make test.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: setup packages demo test check soak bench format lock clean

PYTHON ?= python3.11
UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
# GPU=1: TensorFlow with CUDA, Horovod with NCCL. Needs CUDA's compiler on the machine; NCCL is the lock's.
GPU ?=
LOCK := requirements$(if $(GPU),-gpu).lock
LOCKS := $(LOCK) horovod.lock
# By content, not by time: a checkout that touches the files makes nothing again.
hash = $(shell cat $(1) | sha256sum | cut -c1-16)
PACKAGES := $(VENV)/.packages-$(call hash,$(LOCKS))
PROJECT := $(VENV)/.project-$(call hash,pyproject.toml)
SOURCES := r2d2/kernels/amx.h r2d2/kernels/convolution.cc r2d2/kernels/convolution_gradient.cc r2d2/kernels/__init__.py
KERNELS := $(VENV)/.kernels-$(call hash,$(SOURCES) $(LOCKS))

HOROVOD_BUILD := HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 \
	HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI=1
ifdef GPU
NCCL := $(CURDIR)/$(VENV)/lib/python3.11/site-packages/nvidia/nccl
HOROVOD_BUILD += HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_NCCL_LINK=SHARED \
	HOROVOD_NCCL_INCLUDE=$(NCCL)/include HOROVOD_NCCL_LIB=$(NCCL)/lib
endif

setup: $(PROJECT) $(KERNELS)
packages: $(PACKAGES)

$(PACKAGES):
	@PYTHON=$(PYTHON) GPU=$(GPU) bash infra/preflight.sh
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --require-hashes -r $(LOCK)
	$(if $(GPU),ln -sf libnccl.so.2 $(NCCL)/lib/libnccl.so)
	@echo "Building Horovod against TensorFlow (2 to 3 minutes)"
	PATH="$(CURDIR)/$(BIN):$$PATH" $(HOROVOD_BUILD) $(BIN)/uv pip install --python $(BIN)/python --no-cache \
		--require-hashes --no-deps --no-build-isolation -r horovod.lock
	touch $@

$(PROJECT): $(PACKAGES)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

$(KERNELS): $(PROJECT)
	@rm -f r2d2/kernels/*.so
	@TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python -m r2d2.kernels
	@if ls r2d2/kernels/*.so > /dev/null 2>&1; then touch $@; fi

demo: setup
	$(BIN)/r2d2 demo

# Three files of tests side by side: of two, a third of the time of two cores is waiting.
test: setup
	@bash infra/preflight.sh browser
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Two hours: kills, a server that goes away, and what is lost by them; the long tests and the long commands of docs/. Leaves
# dated records, experiments/{soak,outage,sweep_kill}.md. What fails keeps nothing else from being run.
soak: setup
	@failed=; run() { echo "$$@"; "$$@" || failed=yes; }; \
	run $(BIN)/python experiments/soak.py; \
	if [ "$$(id -u)" = 0 ]; then run $(BIN)/python experiments/outage.py; run $(BIN)/python experiments/sweep_kill.py; \
	else echo "experiments/outage.py and sweep_kill.py are left out: they need root"; fi; \
	run $(BIN)/pytest --long -m long; run $(BIN)/pytest --long tests/test_docs.py; test -z "$$failed"

# Three hours; each leaves a dated record beside it, all of them results.md and the README's figures. The network's needs root.
bench: setup
	$(BIN)/python experiments/benchmarks/all.py

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# No index address goes into the locks: they say what, and the reader's own pip settings say from where.
COMPILE := $(BIN)/uv pip compile pyproject.toml --python-version 3.11 --extra horovod-build --extra server --extra dev \
	--generate-hashes --no-annotate --no-header
lock:
	$(COMPILE) --extra cpu --upgrade -o requirements.lock
	$(COMPILE) --extra gpu --upgrade --constraints requirements.lock -o requirements-gpu.lock
	echo 'horovod==0.28.1' | $(BIN)/uv pip compile - --python-version 3.11 --no-deps \
		--generate-hashes --no-annotate --no-header -o horovod.lock

# Not .r2d2: runs, models and data are the user's.
clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
