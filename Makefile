# Everything a newcomer or a developer types. Each target does its whole set-up itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NEXT := .venv-next

.PHONY: help demo test load soak check format bench clean

help:
	@echo "make demo    train two models in containers and show them side by side"
	@echo "make test    the checks and all tests, on a real engine"
	@echo "make load    four launchers on one engine, 100 jobs each; their waits and what was promised"
	@echo "make soak    faults of all kinds, for 40 minutes; the figures in docs/faults.md"
	@echo "make check   ruff and mypy"
	@echo "make format  let ruff format the code"
	@echo "make bench   the figures in docs/benchmarks.md"
	@echo "make clean   remove what these targets have made (virtual environment, engine, images)"

demo: $(VENV)/.installed
	scripts/with-engine scripts/demo

test:
	$(MAKE) --no-print-directory --jobs=2 $(VENV)/.installed $(NEXT)/.installed
	$(MAKE) --no-print-directory check
	scripts/with-engine scripts/test

load: $(VENV)/.installed
	scripts/with-engine scripts/load

soak: $(VENV)/.installed
	scripts/with-engine scripts/soak

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed
	scripts/with-engine scripts/bench

clean:
	scripts/clean

$(VENV)/.installed: setup.py requirements-dev.txt scripts/venv
	scripts/venv $(PYTHON) $(VENV) 'hydra-core<1.4' hydra-optuna-sweeper

# The next line of Hydra, for tests/hydra.
$(NEXT)/.installed: setup.py requirements-dev.txt scripts/venv
	scripts/venv $(PYTHON) $(NEXT) 'hydra-core>=1.4.0rc1,<1.5'
