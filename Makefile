# make demo, make test and make bench set everything up by themselves; second runs reuse what is built.
#   TORCH=2.15.0 make test     another torch (its own environment)      PYTHON=python3.12 make test   another interpreter
#   TORCHQAT_CUDA=off|auto|on  CUDA kernels                             MAX_JOBS=1                    fewer compilers at once
#   VENV=none PYTHON=... make test    use that interpreter as it is: nothing is installed, no network is needed
PYTHON ?= python3
TORCH ?= 2.13.0
VENV ?= .venv
BUILD ?= build
MAX_JOBS ?= $(shell nproc 2>/dev/null || echo 2)
TORCHQAT_CUDA ?= auto
DEMO_ARGS ?=
PYTEST_ARGS ?=

export MAX_JOBS TORCHQAT_CUDA
export TORCHQAT_BUILD_DIR := $(abspath $(BUILD))
export CMAKE_BUILD_PARALLEL_LEVEL := $(MAX_JOBS)
ifneq ($(shell command -v ccache 2>/dev/null),)
export CMAKE_CXX_COMPILER_LAUNCHER ?= ccache
export CCACHE_SLOPPINESS ?= pch_defines,time_macros,include_file_mtime,include_file_ctime
endif

ifeq ($(VENV),none)
PY := $(PYTHON)
ENVIRONMENT :=
else
PY := $(abspath $(VENV))/bin/python
ENVIRONMENT := $(VENV)/.torch-$(TORCH)
export PATH := $(abspath $(VENV))/bin:$(PATH)
endif

.PHONY: demo test test-cpp test-python sanitize cuda-check cuda-all cuda-link cuda-sanitize bench build gtest clean help

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -n 5

demo: build
	$(PY) -m torchqat demo $(DEMO_ARGS)

test: test-cpp cuda-check test-python

bench: build
	$(PY) -m torchqat bench $(BENCH_ARGS)

# torch first: whatever depends on it must find it there and not choose its own.
$(VENV)/.torch-$(TORCH): pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check "torch==$(TORCH)"
	$(PY) -m pip install --quiet --disable-pip-version-check "setuptools>=64" wheel "cmake>=3.22" ninja "pybind11>=2.12" numpy
	rm -f $(VENV)/.torch-* $(BUILD)/.package
	touch $@

# The editable install configures and builds; later runs only build what changed.
$(BUILD)/.package: $(ENVIRONMENT) pyproject.toml setup.py
	TORCHQAT_CMAKE_ARGS=-DTORCHQAT_BUILD_TESTS=ON $(PY) -m pip install --quiet --disable-pip-version-check \
	  --no-build-isolation --editable ".[demo,test]"
	touch $@

ifeq ($(VENV),none)
build:
	cmake -S . -B $(BUILD) -DPython_EXECUTABLE=$$($(PY) -c 'import sys; print(sys.executable)') -DTORCHQAT_BUILD_TESTS=ON \
	  -DCMAKE_INSTALL_PREFIX=$(abspath python/torchqat) -DTORCHQAT_CUDA=$(TORCHQAT_CUDA) -DCMAKE_BUILD_TYPE=Release
	cmake --build $(BUILD) --parallel $(MAX_JOBS)
	cmake --install $(BUILD) > /dev/null
test-python demo bench: export PYTHONPATH := $(abspath python):$(PYTHONPATH)
else
build: $(BUILD)/.package
	cmake --build $(BUILD) --parallel $(MAX_JOBS)
	cmake --install $(BUILD) > /dev/null
endif

# GoogleTest: the system's package when root, otherwise CMake fetches it; where neither can be had the C++ tests are
# skipped, and CMake says so.
gtest:
	@if [ -e /usr/include/gtest/gtest.h ]; then echo "GoogleTest: installed"; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then echo "GoogleTest: installing libgtest-dev"; \
	  (apt-get install -y -qq libgtest-dev >/dev/null 2>&1 || \
	   (apt-get update -qq >/dev/null 2>&1 && apt-get install -y -qq libgtest-dev >/dev/null 2>&1)) \
	  || echo "GoogleTest: could not be installed; CMake tries to fetch it"; \
	else echo "GoogleTest: not installed; CMake tries to fetch it"; fi

test-cpp: gtest build
	cmake $(BUILD) > /dev/null
	cmake --build $(BUILD) --parallel $(MAX_JOBS)
	@if [ -e $(BUILD)/tests/cpp/CTestTestfile.cmake ]; then ctest --test-dir $(BUILD) --output-on-failure --parallel $(MAX_JOBS); \
	else echo "GoogleTest: C++ tests skipped"; fi

test-python: build
	$(PY) -m pytest -q $(shell $(PY) -c 'import xdist; print("-n $(MAX_JOBS)")' 2>/dev/null) $(PYTEST_ARGS)

# Every kernel test under AddressSanitizer and UndefinedBehaviorSanitizer, in a build of its own. -O2, because intrinsics
# want their constants folded.
sanitize: gtest $(ENVIRONMENT)
	cmake -S . -B $(BUILD)-sanitize -DPython_EXECUTABLE=$$($(PY) -c 'import sys; print(sys.executable)') -DTORCHQAT_CUDA=off \
	  -DTORCHQAT_BUILD_TESTS=ON -DTORCHQAT_BUILD_PYTHON=OFF -DTORCHQAT_WERROR=OFF -DCMAKE_BUILD_TYPE=Release \
	  -DCMAKE_CXX_FLAGS_RELEASE="-O2 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all" > /dev/null
	cmake --build $(BUILD)-sanitize --target torchqat_kernel_tests --parallel $(MAX_JOBS)
	$(BUILD)-sanitize/tests/cpp/torchqat_kernel_tests --gtest_brief=1

# nvcc compiles every CUDA source, even where torch is a CPU build: cuda-check for two architectures, cuda-all for all. Then the
# machine code is looked at: wide loads, tensor cores, registers, spills.
cuda-check cuda-all: build
	@if command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ]; then \
	  cmake -S . -B $(BUILD)-$@ -DPython_EXECUTABLE=$$($(PY) -c 'import sys; print(sys.executable)') \
	    -DTORCHQAT_CUDA=off -DTORCHQAT_CUDA_CHECK=ON -DTORCHQAT_BUILD_PYTHON=OFF \
	    $(if $(filter cuda-all,$@),-DTORCHQAT_CUDA_CHECK_ARCHITECTURES="75;80;86;89;90;100;120") > /dev/null \
	  && cmake --build $(BUILD)-$@ --target torchqat_cuda_check --parallel $(MAX_JOBS) \
	  && $(PY) tests/cpp/cuda/check_code.py $$(find $(BUILD)-$@ -name '*.cu.o'); \
	else echo "nvcc: not found; the CUDA sources are not compiled"; fi

# The library with its CUDA kernels against a torch that was built with CUDA, linked and smoke-run; no GPU is needed:
#   make cuda-link VENV=none PYTHON=/path/to/python CUDA_ARCH=90
CUDA_ARCH ?= 90
cuda-link: $(ENVIRONMENT)
	cmake -S . -B $(BUILD)-cuda-link -DPython_EXECUTABLE=$$($(PY) -c 'import sys; print(sys.executable)') -DTORCHQAT_CUDA=on \
	  -DTORCHQAT_CUDA_ARCHITECTURES="$(CUDA_ARCH)" -DTORCHQAT_BUILD_TESTS=OFF -DCMAKE_BUILD_TYPE=Release \
	  -DCMAKE_INSTALL_PREFIX=$(abspath $(BUILD)-cuda-link)/python/torchqat
	cmake --build $(BUILD)-cuda-link --parallel $(MAX_JOBS)
	cmake --install $(BUILD)-cuda-link > /dev/null
	cd python && find torchqat -name '*.py' -exec cp --parents {} $(abspath $(BUILD)-cuda-link)/python/ ';'
	PYTHONPATH=$(abspath $(BUILD)-cuda-link)/python $(PY) tests/cpp/cuda/check_link.py

# With a GPU: the CUDA tests under compute-sanitizer, for memory errors and for races in shared memory.
cuda-sanitize: build
	@if ! command -v compute-sanitizer >/dev/null; then echo "compute-sanitizer: not found; nothing was checked"; exit 1; \
	elif ! $(PY) -c 'import torch, sys; sys.exit(not torch.cuda.is_available())'; then \
	  echo "compute-sanitizer: no CUDA device; nothing was checked"; exit 1; \
	else for tool in memcheck racecheck; do \
	  PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $$tool --target-processes all --error-exitcode 9 \
	    $(PY) -m pytest -q -x -p no:cacheprovider tests/python/test_cuda_*.py $(PYTEST_ARGS) || exit 1; done; fi

clean:
	rm -rf $(BUILD) $(BUILD)-sanitize $(BUILD)-cuda-check $(BUILD)-cuda-all $(BUILD)-cuda-link python/torchqat/lib python/torchqat/include python/torchqat/share \
	  python/torchqat/_C*.so
