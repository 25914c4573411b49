# Two commands do everything on a fresh machine: `make up` and `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
STACK ?= lab
ZTNA := .venv/bin/ztna
PY := .venv/bin/python
# Two processes; the tests of one file stay together and in order, for they share what is costly to set up.
PYTEST := $(PY) -m pytest -n 2 --dist loadscope --no-loadscope-reorder
# Bytecode is kept, whatever the surroundings say: a run starts hundreds of short Python processes.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup setup-test up down verify test test-lab test-e2e test-fast check bench clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  The stack is STACK=$(STACK); the CLI is $(ZTNA) (try: $(ZTNA) --help)."

setup: ## Install what is missing: Python packages from uv.lock, Debian packages when root
	@scripts/setup.sh run

setup-test: ## The same, and what only the tests need (the clouds' SDKs, coturn, tcpdump, sshd)
	@scripts/setup.sh test

up: setup ## Bring the stack up, verify it, show the result
	@$(ZTNA) up --stack $(STACK) --yes
	@$(ZTNA) verify --stack $(STACK)

down: ## Destroy the stack: no namespace, process, mount or nft table stays behind
	@if [ -x $(ZTNA) ]; then $(ZTNA) destroy --stack $(STACK) --yes; else echo "nothing to do: .venv is not there (make setup)"; fi

verify: ## Verify the running stack again and rewrite build/reports/STACK
	@$(ZTNA) verify --stack $(STACK)

check: setup-test ## Formatting, lint, types, import contracts
	@$(PY) scripts/check.py

test: setup-test ## Everything that must hold: check, then all tests this machine's rung allows
	@$(PY) scripts/check.py
	@$(PYTEST)

test-lab: setup-test ## The whole NAT matrix and every fault row (minutes); results in build/reports/matrix and faults
	@$(PY) -m pytest -m matrix tests/lab

test-e2e: ## Machines and cloud stacks on this machine (minutes; builds a Debian root the first time); needs root
	@scripts/setup.sh e2e
	@$(PY) -m pytest -m e2e tests

bench: ## Measure: build/bench/*.json and a table (QUICK=1 for about a minute)
	@scripts/setup.sh bench
	@$(PY) scripts/bench.py $(if $(QUICK),--quick)

clean: ## Remove caches and build output (not the state of stacks)
	@rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis
