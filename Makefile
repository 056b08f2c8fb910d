# make run     set up, fetch the default model, serve the page
# make test    the tests (sets up what they need: Chromium, redis-server and Node.js included)
# make test-js the tests of the page's scripts alone
# make check   lint, types, import rules, tests: under 10 minutes on 2 cores
# make check-full   the long suites: under 30 minutes
# make bench   the measurements quoted in the docs
# make oracle  the same states as TransformerLens and nnsight show (an environment of its own)
# make audit   hold what is installed against known vulnerabilities (asks the registry)
# make clean   remove the environment and every cache of the checkout
# PYTHON=/path/to/python3.12 chooses the interpreter of a new environment.

.PHONY: run setup setup-dev model chromium redis node test test-js check lint check-full bench oracle audit clean
.NOTPARALLEL:
.DEFAULT_GOAL := run

BOOTSTRAP = $(firstword $(shell command -v python3) $(PYTHON) python3) tools/bootstrap.py
BIN = .venv/bin
# Three files of tests at a time; where a process of tests dies, the run ends and says so, instead of
# starting that process's tests once more.
WORKERS = -n 3 --dist loadfile --no-loadscope-reorder --max-worker-restart=0

export PYTHON

run: setup
	@$(BIN)/python -m analysis.model.default_model >/dev/null || test -n "$(STRATASCOPE_MODELS)"
	@exec $(BIN)/python -m dash_app

setup:
	@$(BOOTSTRAP) run

setup-dev:
	@$(BOOTSTRAP) dev

model: setup
	@$(BIN)/python -m analysis.model.default_model

chromium: setup-dev
	@$(BIN)/python -m tools.chromium

redis: setup-dev
	@$(BIN)/python -m tools.redis

node: setup-dev
	@$(BIN)/python -m tools.node

test-js: node
	@$(or $(STRATASCOPE_NODE),node) --test --test-reporter=./tests/js/reporter.js tests/js/*.test.js

test: setup-dev model chromium redis test-js
	$(BIN)/python -m pytest $(WORKERS) -m "not full"

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p analysis -p dash_app
	$(BIN)/lint-imports

check: lint test

check-full: setup-dev model chromium redis
	$(BIN)/python -m pytest $(WORKERS) -m full

bench: setup-dev model
	@set -e; for file in benchmarks/[!_]*.py; do name=$${file#benchmarks/}; \
	  case $$name in spike_*) ;; *) $(BIN)/python -m benchmarks.$${name%.py} ;; esac; done

oracle: setup model
	@test -x .venv-oracle/bin/python || $(BIN)/python -m venv .venv-oracle
	.venv-oracle/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  "$$(grep '^torch==' constraints.txt)" -r tests/oracle/requirements.txt -e .
	HF_HUB_OFFLINE=1 .venv-oracle/bin/python -m tests.oracle.compare

audit: setup
	@test -x .venv-audit/bin/pip-audit || $(BIN)/python -m venv .venv-audit
	@test -x .venv-audit/bin/pip-audit || .venv-audit/bin/python -m pip install --quiet \
	  --disable-pip-version-check "pip-audit>=2.9"
	@$(BIN)/python -m tools.audit

clean:
	rm -rf .venv .venv-oracle .venv-audit build dist *.egg-info .setup.lock .pytest_cache .mypy_cache .ruff_cache \
	  .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
