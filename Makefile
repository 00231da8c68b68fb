# Two commands are enough: `make run` and `make test`. Both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# llama.cpp compiles for a few minutes, once; its build tools come as packages too.
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
# GCC before 14 compiles llama.cpp's code for matrix tiles (AMX) wrongly; without them it is sound.
NO_TILES := -mno-amx-tile -mno-amx-int8 -mno-amx-bf16
ifeq ($(shell $(CXX) $(NO_TILES) -E -x c++ /dev/null >/dev/null 2>&1 && echo yes),yes)
export CFLAGS += $(NO_TILES)
export CXXFLAGS += $(NO_TILES)
endif
# Flags of the comparison that `make bench` ends with: make bench BENCH='--quick --output FILE'
BENCH ?=
# And of the soak: make soak SOAK='--minutes 2'
SOAK ?=

.PHONY: run test check bench soak format openapi readme dist check-dist sbom audit clean

run: $(VENV)/.installed
	$(BIN)/tabagent serve

test: $(VENV)/.tests
	@sh scripts/install_browser.sh
	@sh scripts/python_docs.sh
	@$(BIN)/python -m scripts.vocabularies
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

check: $(VENV)/.tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/tabagent openapi --check openapi/openapi.json
	$(BIN)/tabagent openapi --messages --check openapi/messages.json
	$(BIN)/python -m scripts.readme --check

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.start
	$(BIN)/python -m benchmarks.gguf $(BENCH)
	$(BIN)/python -m benchmarks.sessions
	$(BIN)/python -m benchmarks.retrieval
	$(BIN)/python -m benchmarks.native
	$(BIN)/python -m benchmarks.bridge

soak: $(VENV)/.tests
	$(BIN)/python -m benchmarks.soak $(SOAK)

format: $(VENV)/.tests
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

openapi: $(VENV)/.installed
	$(BIN)/tabagent openapi --output openapi/openapi.json
	$(BIN)/tabagent openapi --messages --output openapi/messages.json

readme: $(VENV)/.installed
	$(BIN)/python -m scripts.readme

# What is released: a wheel and the source it was made of.
dist: $(VENV)/.release
	rm -rf dist
	$(BIN)/python -m build --outdir dist .

check-dist: dist
	$(BIN)/python -m scripts.check_dist

# Of what an installation consists, as CycloneDX, and whether anything of it is known to be unsafe.
# What cannot be looked up fails the audit: else one without a network would find all well.
sbom: dist
	$(BIN)/python -m scripts.check_dist --only-install
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file build/sbom.cdx.json build/clean

audit: dist
	$(BIN)/python -m scripts.check_dist --only-install
	build/clean/bin/python -m pip list --format=freeze --exclude tabagent > build/requirements.txt
	$(BIN)/pip-audit --strict --disable-pip --no-deps --requirement build/requirements.txt

$(VENV)/.made:
	$(PYTHON) -c 'import sys; sys.exit("TabAgent needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing; the first time, llama.cpp is compiled, which takes a few minutes."
	$(PIP) -c constraints.txt -e .
	@touch $@

$(VENV)/.tests: $(VENV)/.installed
	$(PIP) -c constraints.txt -e '.[test,check]'
	@touch $@

$(VENV)/.release: $(VENV)/.installed
	$(PIP) -c constraints.txt -e '.[release]'
	@touch $@

$(VENV)/.bench: $(VENV)/.installed
	$(PIP) -c constraints.txt -e '.[bench,test]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache
