# make run          set up, convert the default model and serve the page
# make test         run the tests; install Chromium, redis-server, nginx and Node.js if necessary
# make test-js      run the tests of the page's scripts alone
# make check        run lint, types, import rules and tests
# make check-full   run the long suites
# make docs         build the documentation site in build/docs
# make bench        run the measurements that the documents quote
# make oracle       compare with TransformerLens and nnsight, in a separate environment
# make bench-peers  compare time, memory and numbers with other libraries, in that environment
# make audit        check the installed packages for known vulnerabilities (uses the registry)
# make clean        remove the environment and every cache of the checkout
# PYTHON=/path/to/python3.12 chooses the interpreter of a new environment.

.PHONY: run setup setup-dev model chromium redis nginx node test test-js check lint check-full docs bench bench-peers oracle audit clean
.NOTPARALLEL:
.DEFAULT_GOAL := run

BOOTSTRAP = $(firstword $(shell command -v python3) $(PYTHON) python3) tools/bootstrap.py
BIN = .venv/bin
# Run three test files at a time. If a test process dies, end the run instead of repeating its tests.
# The tests start many processes: write bytecode, so that each does not compile every module again.
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest \
  -n 3 --dist loadfile --no-loadscope-reorder --max-worker-restart=0

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

nginx: setup-dev
	@$(BIN)/python -m tools.nginx

node: setup-dev
	@$(BIN)/python -m tools.node

test-js: node
	@$(or $(STRATASCOPE_NODE),node) --test --test-reporter=./tests/js/reporter.js tests/js/*.test.js

test: setup-dev model chromium redis nginx test-js
	$(PYTEST) -m "not full"

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p analysis -p dash_app -p benchmarks -p tools
	$(BIN)/lint-imports

check: lint test

check-full: setup-dev model chromium redis nginx
	$(PYTEST) -m full

docs: setup-dev
	$(BIN)/python -m sphinx -W --keep-going -q -b html -c docs/site . build/docs
	@echo "The site is build/docs/index.html."

bench: setup-dev model
	@set -e; for file in benchmarks/[!_]*.py; do name=$${file#benchmarks/}; \
	  case $$name in spike_*) ;; *) $(BIN)/python -m benchmarks.$${name%.py} ;; esac; done

.venv-oracle/.installed: tests/oracle/requirements.txt constraints.txt | setup
	@test -x .venv-oracle/bin/python || $(BIN)/python -m venv .venv-oracle
	.venv-oracle/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  "$$(grep '^torch==' constraints.txt)" -r tests/oracle/requirements.txt -e .
	@touch $@

bench-peers: .venv-oracle/.installed model
	HF_HUB_OFFLINE=1 TQDM_DISABLE=1 .venv-oracle/bin/python -W ignore -m benchmarks.peers

oracle: .venv-oracle/.installed model
	HF_HUB_OFFLINE=1 .venv-oracle/bin/python -m tests.oracle.compare
	HF_HUB_OFFLINE=1 .venv-oracle/bin/python -W ignore -m tests.oracle.interop

audit: setup
	@test -x .venv-audit/bin/pip-audit || $(BIN)/python -m venv .venv-audit
	@test -x .venv-audit/bin/pip-audit || .venv-audit/bin/python -m pip install --quiet \
	  --disable-pip-version-check "pip-audit>=2.9"
	@$(BIN)/python -m tools.audit

clean:
	rm -rf .venv .venv-oracle .venv-audit build dist *.egg-info .setup.lock .pytest_cache .mypy_cache .ruff_cache \
	  .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
