# Five verbs and a helper. Needs make and Python 3.11 or newer; everything else goes into .venv.
# `make PYTHON=python3.12 setup` chooses the interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := $(VENV)/.demo
CHROMIUM ?= $(firstword $(foreach name,chromium chromium-browser google-chrome,$(shell command -v $(name))))
LOCKER := .cache/lock
COMPILE := $(LOCKER)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)

.DEFAULT_GOAL := help
.PHONY: help setup check test soak dashboards stack-test ui-test run bench lock

help:  ## says what can be done
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP)  ## makes .venv with everything, at the versions and hashes of requirements/dev.lock

$(STAMP): requirements/dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try: make PYTHON=python3.12 setup")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $(STAMP)

check: setup  ## lint, format, types, and the house rules (the lock among them)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m grafana.write --check
	$(BIN)/python -m pytest --quiet tests/test_house.py

# Files in their order: those with few tests are the long ones, and would begin last.
test: setup  ## the whole test suite; ARGS=tests/core is one folder, COVERAGE=1 measures branches, those of the servers it starts too
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder $(if $(COVERAGE),--cov --cov-report term) $(ARGS)

soak: setup  ## twenty minutes of every kind of peer at once; SOAK_SECONDS=120 is what CI plays
	$(BIN)/python -m pytest tests/soak $(ARGS)

bench: setup  ## the sidecar beside nginx and aiohttp, on one core; ARGS=--quick is short, PROFILE=1 says where time goes
	$(BIN)/python -m bench $(if $(PROFILE),--profile) $(ARGS)

dashboards: setup  ## writes grafana/dashboards from their code
	$(BIN)/python -m grafana.write

stack-test: setup  ## real Collector, Jaeger, Prometheus, Loki (built from Go modules into .cache/stack), and Tempo where it is at hand
	$(BIN)/python tests/stack/build.py
	$(BIN)/python -m pytest tests/stack tests/deploy tests/alerts $(ARGS)

ui-test: setup  ## the live page in a headless Chromium; CHROMIUM=... names one that is not on the path
	@test -n "$(CHROMIUM)" || { echo "no Chromium: install the package chromium, or say CHROMIUM=/path/to/one"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/ui.lock
	CHROMIUM='$(CHROMIUM)' $(BIN)/python -m pytest tests/ui $(ARGS)

$(DEMO): requirements/demo.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try: make PYTHON=python3.12 run")'
	@echo "Making $(VENV) for the demo: $$(grep -c '^[a-z].*==' requirements/demo.lock) packages, once. This takes a moment."
	@$(PYTHON) -m venv --clear $(VENV)
	@# Not compiled: the first start compiles what it imports, which is a small part, and the picture comes sooner.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --no-compile -r requirements/demo.lock
	@touch $(DEMO)

run: $(if $(wildcard $(STAMP)),setup,$(DEMO))  ## the demo; with UPSTREAM=https://... the plain sidecar before that upstream
	@$(BIN)/python -m sidecar $(if $(UPSTREAM),run --upstream '$(UPSTREAM)',demo) $(ARGS)

lock: $(LOCKER)/bin/uv  ## resolves the locks again; UPGRADE=1 moves to the newest versions
	$(COMPILE) --output-file requirements/run.lock pyproject.toml
	$(COMPILE) --output-file requirements/dev.lock --constraints requirements/run.lock --extra dev --extra demo pyproject.toml
	$(COMPILE) --output-file requirements/demo.lock --constraints requirements/dev.lock --extra demo pyproject.toml
	$(COMPILE) --output-file requirements/build.lock --constraints requirements/dev.lock --group build
	$(COMPILE) --output-file requirements/ui.lock --constraints requirements/dev.lock --group ui

$(LOCKER)/bin/uv:
	$(PYTHON) -m venv $(LOCKER)
	$(LOCKER)/bin/python -m pip install --quiet --disable-pip-version-check uv
