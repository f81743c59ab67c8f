# Each target works in a fresh clone: it makes the venv and installs what it needs.
PYTHON ?= python3
VENV ?= .venv
PORT ?= 8080
TASK_PORT ?= 12345
SECONDS ?= 600

BIN = $(VENV)/bin
CODE = taskd twisted tests examples bench tools docs/conf.py setup.py

.PHONY: demo test pythons check format share lowest soak attack fuzz conformance bench profile clean

demo: $(VENV)/.demo
	@$(BIN)/python examples/newsletter/demo.py --port $(PORT) --task-port $(TASK_PORT)

test: $(VENV)/.test
	@bash tests/programs.sh
	@$(BIN)/python tests/run.py $(ARGS)

# The unit tests on each other Python that the project promises and this machine has.
pythons: $(VENV)/.test
	@$(BIN)/python tests/run.py --pythons

check: $(VENV)/.check
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/prose.py
	$(BIN)/python -m tools.share --check
	$(BIN)/python -m tools.github
	$(BIN)/sphinx-build -q -n -W --keep-going -b html docs docs/_build/html

format: $(VENV)/.check
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

# What an installation puts below share/: the manual page and the completions, made from the commands' help.
share: $(VENV)/.check
	$(BIN)/python -m tools.share

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo "taskd needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Name another with: make PYTHON=…"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	|| { echo "Python's venv module is missing (on Debian: apt install python3-venv)."; exit 1; }

# One rule for each set of extras; a stamp says that it is installed.
$(VENV)/.demo: pyproject.toml setup.py | $(VENV)/bin/python
	@echo "installing taskd into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.test: pyproject.toml setup.py | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

$(VENV)/.check: pyproject.toml setup.py | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,check,docs]'
	@touch $@

$(VENV)/.conformance: pyproject.toml setup.py | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[conformance]'
	@touch $@

# The tests with the oldest versions of the dependencies that we promise to work with.
lowest:
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --disable-pip-version-check -c tests/lowest.txt -e '.[test]'
	$(VENV)-lowest/bin/python tests/run.py tests/live

# Half the load that a server can bear, and everything happens to it: SECONDS=60, SEED=7, ARGS='--haste 4', ARGS=--attackers.
# With ARGS='--kills 1000' a daemon with a store is killed so many times, and nothing acknowledged may be lost.
soak: $(VENV)/.test
	@$(BIN)/python -m tests.soak.run --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(ARGS)

# The attackers, with a well-behaved client beside them: ARGS='hold-order crowd', ARGS='--together --seconds 60'.
attack: $(VENV)/.test
	@$(BIN)/python -m tests.soak.attack $(ARGS)

# Spoiled messages of every kind, sent to both ports: SECONDS=60, SEED=7; ARGS=--tokens for a server that asks for tokens.
fuzz: $(VENV)/.test
	@$(BIN)/python -m tests.soak.fuzz --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(ARGS)

# The cases of Autobahn's test suite: ARGS='6.*', or ARGS='--wstest PATH' for its own client under Python 2.7.
conformance: $(VENV)/.conformance
	@$(BIN)/python -m tests.conformance.run $(ARGS)

# taskd beside its peers: ARGS='--quick', ARGS='--only pipelined'. The peers get environments of their own.
bench: $(VENV)/.demo
	@$(BIN)/python -m bench.run $(ARGS)

# Where the dispatcher's time goes under a load: SCENARIO=pipelined, single, each, websocket, one or naps.
profile: $(VENV)/.demo
	@$(BIN)/python -m bench.flame $(SCENARIO) $(ARGS)

clean:
	rm -rf $(VENV) $(VENV)-lowest .venv-3.* .venv-django-* .venv-bench .venv-frameworks build dist docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info _trial_temp* .trial* .coverage*
