# Needs make and Python 3.11 or newer; each target makes the virtual environment that it needs.
#
#   make run     a bridge with the embedded sandbox provider, data under ./data
#   make test    all tests, on SQLite and on a real PostgreSQL;  make test ARGS="-k outbox" for some of them
#   make lint    style, format and types
#   make docs    writes the files that are made from the code; make docs RUN=1 runs the conformance kit for the matrix
#   make example  the provider of examples/ in an environment of its own, as a third party installs and tests it
#   make site    the documentation as a site, in build/site
#   make lock    pins what the image is built from, anew;  make check-deploy  checks image, charts, alerts as far as that
#                goes without an engine or a cluster
#   make soak    two minutes of mixed load: memory, open files, threads and the store must stay flat;  make soak SECONDS=3600
#   make bench   measures speed and memory against fake ESPs on two cores, under 15 minutes, and writes benchmarks/RESULTS.md
#                and its plots;  make bench ARGS=--quick;  make bench ARGS="single imports" writes to build/benchmarks
#   make crash   hundreds of kill -9 over stores and ESPs, about ten minutes;  make crash ARGS="--seed 7 --kills 60"
#   make switch  twenty thousand contacts from service to service and back, with kills;  make switch ARGS="--kills 0 --seed 7"
#   make catalogs  brings the translations in bridge/locale up to date with the texts in the code and the templates
#   make clean   removes what the others made, but not ./data
#
# make PYTHON=/path/to/python3 ... takes that interpreter for a new environment.

VENV := .venv
BIN := $(VENV)/bin
TOOLS := .deploy-tools
MAILMAN := .mailman
# Much of the suite waits for timeouts that are the point of a test: two processes for each core.
WORKERS ?= $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN))))

# 3.12 and 3.11 come first: pgserver, the PostgreSQL of the tests, is packaged for no newer one.
PYTHONS := python3.12 python3.11 python3.14 python3.13 python3
USABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in $(PYTHONS); do $$python -c '$(USABLE)' 2>/dev/null && { echo $$python; break; }; done)

.PHONY: run test crash switch lint docs example site lock check-deploy soak catalogs clean

run: $(VENV)/.runtime
	$(BIN)/planfix-bridge serve --sandbox

# Bytecode is kept whatever the environment says: each test process, and each bridge that tests start, would compile anew.
test: $(VENV)/.dev $(MAILMAN)/.ready
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

crash: $(VENV)/.dev
	$(BIN)/python -m tests.crash $(ARGS)

switch: $(VENV)/.dev
	$(BIN)/python -m tests.switch $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.dev
	$(BIN)/python -m tests.generated $(if $(RUN),--run)

example:
	'$(PYTHON)' -m venv --clear .example
	.example/bin/pip install --quiet --disable-pip-version-check . './examples/planfix-bridge-acme[test]'
	cd examples/planfix-bridge-acme && ../../.example/bin/python -m pytest -q -n auto

site: $(TOOLS)/.ready
	$(TOOLS)/bin/mkdocs build --strict

lock: $(TOOLS)/.ready
	$(TOOLS)/bin/uv pip compile --quiet pyproject.toml --upgrade --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --no-annotate --output-file requirements.lock

check-deploy: $(TOOLS)/.ready
	$(TOOLS)/bin/python deploy/check.py

$(TOOLS)/.ready: deploy/requirements.txt
	'$(PYTHON)' -m venv --clear $(TOOLS)
	$(TOOLS)/bin/pip install --quiet --disable-pip-version-check -r deploy/requirements.txt
	@touch $@

# A real Mailman for tests/live, on its own: it needs an older SQLAlchemy than the bridge.
$(MAILMAN)/.ready: | $(BIN)/pip
	'$(PYTHON)' -m venv --clear $(MAILMAN)
	$(MAILMAN)/bin/pip install --quiet --disable-pip-version-check 'mailman==3.3.10' 'SQLAlchemy<2.1'
	@touch $@

soak: $(VENV)/.dev
	$(BIN)/python -m benchmarks.soak --seconds $(or $(SECONDS),120)

# A new language: first its code in bridge/languages.py, then with --init-missing --locale CODE added to the update.
catalogs: $(VENV)/.dev
	$(BIN)/pybabel --quiet extract --mapping pyproject.toml --no-default-keywords \
		--keyword "Message gettext gettext_noop" --add-location file --no-wrap --output $(VENV)/bridge.pot bridge providers
	$(BIN)/pybabel --quiet update --domain bridge --input-file $(VENV)/bridge.pot --output-dir bridge/locale \
		--no-fuzzy-matching --ignore-obsolete --ignore-pot-creation-date --no-wrap

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) $(TOOLS) $(MAILMAN) .example build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# pip is the last thing that a new environment gets: when it is there, the rest is.
$(BIN)/pip:
	@'$(PYTHON)' -c '$(USABLE)' 2>/dev/null || { \
		echo "No usable Python: it must be 3.11 or newer, with venv (on Debian and Ubuntu: apt-get install python3-venv)."; \
		echo "If it is not on the PATH: make PYTHON=/path/to/python3"; \
		exit 1; } >&2
	'$(PYTHON)' -m venv --clear $(VENV)

$(VENV)/.runtime: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

# After .runtime, so that two targets at one time (make -j) never install at one time.
$(VENV)/.dev: $(VENV)/.runtime
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 13))' || { \
		echo "Tests need Python 3.11 or 3.12: pgserver is packaged for no newer one. make clean, then make PYTHON=python3.12 ..."; \
		exit 1; } >&2
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@
