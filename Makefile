# make demo    trains a small transformer with low-rank layers and shows what it cost
# make test    builds everything and runs every test that fits in minutes
# make check   the slow ones: a wheel in a clean environment, the emulator's checked mode, address and
#              undefined-behaviour sanitizers
# make device-test  on a machine with a GPU: the emulator's wrappers against the hardware, bit by bit
# make try     compiles one file with a kernel (KERNEL=file.cpp) and runs it in the emulator's checked mode
# make bench   the measured tables of the README, on this machine
# make device  on a machine with a GPU: build, all tests, benchmarks, logs under $(OUT)
#
# Each creates .venv when needed and installs into it what requirements-dev.txt lists. With PYTHON=/path/to/python that
# environment is used as it is: only the package itself is built and installed, offline.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.NOTPARALLEL:

ROOT := $(CURDIR)
BUILD := $(ROOT)/build/cmake
OUT ?= $(ROOT)/build/device

ifdef PYTHON
  PY := $(abspath $(shell command -v $(PYTHON)))
  ENVIRONMENT :=
else
  PY := $(ROOT)/.venv/bin/python
  ENVIRONMENT := .venv/.installed
endif
# cmake and ninja of that environment come first.
export PATH := $(patsubst %/,%,$(dir $(PY))):$(PATH)
JOBS := $(shell getconf _NPROCESSORS_ONLN)

# The package and the C++ tests share one CMake build.
export LRK_BUILD_DIR := $(BUILD)
export LRK_EMULATOR := 1
# Tests run side by side where pytest-xdist is installed, each with two threads (every parallel path, and no fight for cores).
PYTEST_PARALLEL = $(shell $(PY) -c "import xdist" 2> /dev/null && echo --numprocesses auto --maxprocesses 8)
RUN_PYTEST = OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive $(PY) -m pytest tests $(PYTEST_PARALLEL)
CONFIGURE = cmake -S $(ROOT) -DCMAKE_BUILD_TYPE=Release -DLRK_TESTS=ON -DLRK_EMULATOR=ON \
            $(if $(shell PATH='$(PATH)' command -v ninja),-GNinja)

.PHONY: all demo test check bench device device-test environment package cpp lint wheel-test try checked sanitize clean

all: package

environment: $(ENVIRONMENT)

.venv/.installed: requirements-dev.txt
	@test -d .venv || python3 -m venv .venv
	.venv/bin/python -m pip install --quiet --upgrade pip
	.venv/bin/python -m pip install --quiet -r requirements-dev.txt
	@touch $@

# pip reinstalls the metadata only when it has to; the build itself is incremental.
package: environment
	@$(PY) setup.py --quiet build_ext --inplace --build-temp $(ROOT)/build/extensions
	@$(PY) -c "import importlib.metadata as m, sys; \
	  sys.exit(m.version('lrkernels') != open('python/lrkernels/VERSION').read().strip())" 2>/dev/null \
	  || $(PY) -m pip install --quiet --no-build-isolation --no-deps --editable .

cpp: environment
	@$(CONFIGURE) -B $(BUILD) > $(ROOT)/build-configure.log 2>&1 || (cat $(ROOT)/build-configure.log; false)
	@rm -f $(ROOT)/build-configure.log
	@cmake --build $(BUILD) --parallel $(JOBS)
	@ctest --test-dir $(BUILD) --parallel 2 --output-on-failure

lint: environment
	@if $(PY) -m ruff --version > /dev/null 2>&1; then \
	  $(PY) -m ruff check . && $(PY) -m ruff format --check .; \
	else echo "lint: ruff is not in this environment, skipped"; fi

# Threads that wait sleep: on a busy machine, spinning ones cost the demo ten times its time.
demo: package
	@OMP_WAIT_POLICY=passive $(PY) -m lrkernels.demo $(DEMO)

test: package cpp lint
	@$(RUN_PYTEST) $(PYTEST)

check: package wheel-test checked sanitize

# Built as a user without nvcc builds it (no emulator, no CUDA: `make test` compiled both), installed where nothing else
# of ours is, neither peft nor transformers, and tested from outside the tree. All tests are collected, so everything is
# imported; what runs is what an installation can break: registration, one file of values a family, packages that are
# absent, the demo.
WHEEL_TESTS = 'test_registration or test_values or test_compile or test_givens or test_cayley or test_sketch_ops or \
  test_equations or test_optimizer_contract or test_diagnostics or test_splits or test_without_peft or \
  test_inspection or test_demo or test_replace_linear'
wheel-test: environment
	rm -rf build/wheel && mkdir -p build/wheel
	LRK_EMULATOR=0 LRK_CUDA=0 LRK_BUILD_DIR=$(ROOT)/build/wheel/cmake \
	  $(PY) -m pip wheel --quiet . --no-build-isolation --no-deps --wheel-dir build/wheel
	$(PY) -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip install --quiet $(shell grep '^torch==' requirements-dev.txt) \
	  numpy pytest pytest-xdist hypothesis expecttest matplotlib tqdm
	build/wheel/venv/bin/python -m pip install --quiet --no-deps build/wheel/*.whl
	cp -r tests build/wheel/tests
	cd build/wheel && OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive venv/bin/python -m pytest tests \
	  --numprocesses auto --maxprocesses 8 -k $(WHEEL_TESTS) $(PYTEST)

# A file and those of the emulator, nothing else.
KERNEL ?= tests/cpp/try_kernel.cpp
TRY := $(ROOT)/build/try
try: environment
	@mkdir -p $(TRY)
	@($(CONFIGURE) -B $(TRY) -DLRK_CUDA=OFF -DLRK_EMULATOR=CHECKED -DLRK_TRY_KERNEL=$(abspath $(KERNEL)) && \
	  cmake --build $(TRY) --parallel --target try_kernel) > $(TRY)/log || (cat $(TRY)/log; false)
	@$(TRY)/try_kernel

# Every memory access of CUDA kernels looked at, from the C++ tests and all Python tests of emulated kernels and wrappers
# (the 2:4 family has no CUDA kernels yet).
CHECKED := $(ROOT)/build/checked
checked: environment
	@$(CONFIGURE) -B $(CHECKED) -DLRK_CUDA=OFF -DLRK_EMULATOR=CHECKED
	@cmake --build $(CHECKED) --parallel $(JOBS)
	@ctest --test-dir $(CHECKED) -R 'emulator|cuda|mutant|orthogonal|square' --output-on-failure
	@LRK_EMULATOR=checked LRK_CUDA=0 LRK_BUILD_DIR=$(CHECKED) \
	  $(PY) setup.py --quiet build --build-lib $(CHECKED)/python --build-temp $(CHECKED)/extensions
	@PYTHONPATH=$(CHECKED)/python $(PY) -c "import lrkernels; assert lrkernels.build_info()['emulator_checked']"
	@PYTHONPATH=$(CHECKED)/python $(RUN_PYTEST) -k '(cuda_emulated or test_conformance) and not sparse24' $(PYTEST)

sanitize: environment
	@$(CONFIGURE) -B $(ROOT)/build/sanitize -DLRK_CUDA=OFF -DLRK_SANITIZE=address,undefined
	@cmake --build $(ROOT)/build/sanitize --parallel $(JOBS)
	@ctest --test-dir $(ROOT)/build/sanitize --output-on-failure

bench: package cpp
	@$(PY) bench/run.py $(BENCH)

# The only test of the emulator itself against hardware; `make device` runs it too, with everything else.
device-test: package
	@$(PY) -m pytest tests/device -rs $(PYTEST)

device: package
	@$(PY) -c "import torch, lrkernels as l; i = l.build_info(); print(i); \
	  assert i['cuda'], 'this build has no CUDA kernels'; assert torch.cuda.is_available(), 'torch sees no GPU'"
	@mkdir -p $(OUT)
	@$(CONFIGURE) -B $(BUILD) && cmake --build $(BUILD) --parallel $(JOBS)
	@failed=0; \
	$(PY) -m pytest tests -rs 2>&1 | tee $(OUT)/tests.log || failed=1; \
	ctest --test-dir $(BUILD) --output-on-failure 2>&1 | tee $(OUT)/ctest.log || failed=1; \
	$(PY) bench/run.py --device cuda --out $(OUT) 2>&1 | tee $(OUT)/bench.log || failed=1; \
	exit $$failed

clean:
	rm -rf build python/lrkernels/*.so python/*.egg-info
