# Needs python3.11 and nothing else. `make` lists the targets.
PYTHON  ?= python3.11
BIN     := .venv/bin
UV      := $(BIN)/uv
STAMP   := .venv/.synced
DIST    := pyproject.toml device_runtime/pyproject.toml
SECONDS ?= 0
SKIPS ?= yes
STRICT = $(if $(filter no,$(SKIPS)),--no-skips)
ONLY    ?=

# What the tests use beside Python: a browser, file system images, tracing, another processor.
DEBIAN  := chromium fusefat mtools dosfstools strace faketime qemu-user-static systemd

# Without cached bytecode each command would compile scikit-learn again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help sync demo test lint fix bench soak lock coverage-table errors golden wheels wheelhouse \
        device-check system-deps clean

help:             ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t18

$(STAMP): requirements/dev.txt $(DIST)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "edgepack needs Python 3.11 or later: make PYTHON=python3.12 …"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip --quiet --disable-pip-version-check install 'uv>=0.9'
	$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements/dev.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e device_runtime -e .
	$(BIN)/python -m compileall -q edgepack device_runtime
	@touch $@

sync: $(STAMP)    ## install everything at the locked versions

demo: $(STAMP)    ## the whole loop on real flights, in build/demo
	@rm -rf build/demo && mkdir -p build
	$(BIN)/edgepack demo --dir build/demo

test: $(STAMP)    ## every fast test, on two cores; SKIPS=no: what cannot be tested here fails
	$(BIN)/pytest -q -n 2 --dist worksteal $(STRICT)

lint: $(STAMP)    ## style, types, import contracts, size of the device; changes nothing
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/count_lines.py
	$(BIN)/python tools/error_table.py --check

fix: $(STAMP)     ## let ruff repair what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)   ## measured ratios against plain tools → build/bench.json (ONLY=journal for a part)
	$(BIN)/python -m bench $(ONLY)

soak: $(STAMP)    ## the long tests; SECONDS=300 bounds them
	$(BIN)/pytest -q -n 2 --dist worksteal -m soak --timeout 7200 --soak-seconds $(SECONDS) $(STRICT)

COMPILE = $(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate $(UPGRADE)

lock: $(STAMP)    ## rewrite requirements/ after a change of dependencies (UPGRADE=--upgrade: newest)
	$(COMPILE) --all-extras --group dev --no-emit-package edgepack-device pyproject.toml -o requirements/dev.txt
	$(COMPILE) -c requirements/dev.txt device_runtime/pyproject.toml -o requirements/device.txt

coverage-table: $(STAMP)  ## docs/MODELS.md: every estimator, converted and compared
	$(BIN)/python tools/coverage_table.py

errors: $(STAMP)  ## docs/ERRORS.md from the classes
	$(BIN)/python tools/error_table.py

golden: $(STAMP)  ## write signed samples of the current format versions (never over an old one)
	$(BIN)/python tools/make_golden.py

wheels: $(STAMP)  ## both distributions, into dist/
	rm -rf dist
	$(UV) build --quiet --python $(BIN)/python --no-build-isolation --all-packages -o dist

wheelhouse: wheels ## everything an air-gapped device installs, by processor
	for cpu in x86_64 aarch64; do \
	  $(BIN)/python -m pip --quiet download --only-binary=:all: --require-hashes \
	    --platform manylinux_2_28_$$cpu --platform manylinux_2_27_$$cpu \
	    --platform manylinux_2_17_$$cpu --platform manylinux2014_$$cpu --python-version 3.11 \
	    -r requirements/device.txt -d dist/wheelhouse/$$cpu && \
	  cp dist/edgepack_device-*.whl dist/wheelhouse/$$cpu/ || exit 1; \
	done

device-check: wheels  ## the wheels outside the repository: the device alone, then both
	$(BIN)/python tools/wheel_check.py device
	$(BIN)/python tools/wheel_check.py base

system-deps:      ## the Debian packages that tests use (needs root)
	@missing=$$(for p in $(DEBIAN); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
	if [ -z "$$missing" ]; then echo "system packages: all there"; else \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi

clean:            ## forget environments and build outputs
	rm -rf .venv .venv-* dist build .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
