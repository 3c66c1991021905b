# The two commands that matter are `make run` and `make test`; `make help` lists the others.
# Needs python3 (3.11 or later), make and git. Node, PostgreSQL and Redis come from wheels where missing.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet
FANOUT := app/websocket/fanout.compiled
PAGE := web/dist/index.html
PAGE_SOURCES := $(shell find web -type f -not -path '*/node_modules/*' -not -path 'web/dist/*' 2>/dev/null)

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

# Setting up

.PHONY: setup
setup: $(VENV)/.runtime-installed $(FANOUT) ## Make the Python environment from the hashed lock, and compile the fan-out

$(BIN)/python:
	@.ci/make-venv $(VENV)

$(VENV)/.runtime-installed: requirements.lock | $(BIN)/python
	@echo "Installing Python packages ..."
	@$(PIP) install --require-hashes -r requirements.lock
	@touch $@

# Holds everything the other lock holds.
$(VENV)/.development-installed: requirements-dev.lock | $(BIN)/python
	@echo "Installing Python packages for development ..."
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@ $(VENV)/.runtime-installed

# Not made where there is no compiler, so asked for again each time.
$(FANOUT): app/websocket/fanout.c app/websocket/compiled.py | $(VENV)/.runtime-installed
	@$(BIN)/python -m app.websocket.compiled

.PHONY: page
page: $(PAGE) ## Build the page into web/dist

$(PAGE): $(PAGE_SOURCES) web/node_modules/.package-lock.json
	@echo "Building the page ..."
	@cd web && ../.ci/npm run --silent build -- --logLevel warn
	@touch $@

web/node_modules/.package-lock.json: web/package.json web/package-lock.json | $(BIN)/python
	@echo "Installing the page's packages ..."
	@cd web && ../.ci/npm ci --no-audit --no-fund --loglevel=error
	@touch $@

# Running

.PHONY: run
run: $(VENV)/.runtime-installed $(FANOUT) $(PAGE) ## Run Tidemark on this machine with live prices (ARGS="--port 9000" for options)
	@exec $(BIN)/python run.py all $(ARGS)

.PHONY: demo
demo: $(VENV)/.runtime-installed $(FANOUT) $(PAGE) ## The same with a local exchange and a demo trader; prices are simulated
	@exec $(BIN)/python run.py all --demo $(ARGS)

# Checking

.PHONY: check
check: lint types layers page-test test ## Everything CI runs

.PHONY: test
test: $(VENV)/.development-installed $(FANOUT) $(PAGE) ## Run the tests (ARGS="tests/domain -k flip" for some)
	@$(BIN)/python -m pytest $(if $(ARGS),$(ARGS),--numprocesses 3 --dist loadfile)

.PHONY: page-test
page-test: $(PAGE) ## Check the page's types and run its unit tests
	@cd web && export NO_COLOR=1 && ../.ci/npm run --silent typecheck && ../.ci/npm run --silent test

.PHONY: lint
lint: $(VENV)/.development-installed ## Check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

.PHONY: format
format: $(VENV)/.development-installed ## Format, and fix what can be fixed
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

.PHONY: types
types: $(VENV)/.development-installed ## Check types
	@$(BIN)/mypy app run.py

.PHONY: layers
layers: $(VENV)/.development-installed ## Check which way imports point
	@$(BIN)/lint-imports

# Measuring

.PHONY: bench
bench: $(VENV)/.runtime-installed $(FANOUT) ## Measure under load (ARGS="--profile 1k,5k,10k,25k" or "--part book")
	@exec $(BIN)/python run.py bench $(ARGS)

# Keeping

.PHONY: lock
lock: ## Resolve the dependencies anew (needs uv)
	uv lock --upgrade
	uv export --frozen --no-emit-project --no-header --no-dev --output-file requirements.lock
	uv export --frozen --no-emit-project --no-header --group dev --output-file requirements-dev.lock
	uv export --frozen --no-emit-project --no-header --only-group web --output-file requirements-web.lock

.PHONY: clean
clean: ## Remove what was built and cached; data and the environment stay
	rm -rf $(FANOUT) web/dist web/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find app tests -name __pycache__ -type d -prune -exec rm -rf {} +
