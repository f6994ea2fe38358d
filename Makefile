# The two commands: `make run` and `make test`. Everything else is a part of them.
PYTHON ?= python3.11
EXTRAS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet

comma := ,
extras = $(if $(strip $(1)),[$(strip $(1))])
install = $(PIP) install -c requirements.lock -e '.$(call extras,$(1))'

.PHONY: run test setup ui up deploy worker coverage lint lock

## The demo: makes the environment, and fine-tunes the built-in model without a network
run: $(VENV)/.base
	$(BIN)/python -m flows.finetune demo name=demo

## The whole test suite; three at a time on two cores, for a part of it waits
test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

## Only the environment, with `EXTRAS=gpu,eval` where they are wanted
setup: $(VENV)/.base
	$(if $(strip $(EXTRAS)),$(call install,$(EXTRAS)))

## Prefect's pages over the local runs, until Ctrl-C
ui: $(VENV)/.base
	$(BIN)/smollm3-ft ui

## Server, pools, deployments and the workers of this machine, until Ctrl-C
up: $(VENV)/.base
	$(BIN)/python -m flows.up

## Pools, deployments and automations, at the server that `PREFECT_API_URL` names
deploy: $(VENV)/.base
	$(BIN)/python -m flows.up deploy

## The workers of this machine, for the server that `PREFECT_API_URL` names, until Ctrl-C
worker: $(VENV)/.base
	$(BIN)/python -m flows.up worker

## The test suite with what of the code it ran, as a table and as `coverage.xml`
coverage: $(VENV)/.dev
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered --cov-report=xml

## Style and types
lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: $(BIN)/python pyproject.toml requirements.lock
	@echo "The packages of requirements.lock go into $(VENV): some minutes, once."
	@$(call install,)
	touch $@

$(VENV)/.dev: $(VENV)/.base
	@$(call install,dev$(comma)eval)
	touch $@

## Exact pins of every extra, from a fresh environment
# torch brings its own triton and CUDA packages, by platform.
lock:
	rm -rf .lock && $(PYTHON) -m venv .lock && .lock/bin/pip install --quiet -e '.[gpu,eval,quantize,dev]'
	.lock/bin/pip freeze --exclude-editable | sed 's/+cpu$$//; s/+cu[0-9]*$$//' | grep -viE '^(triton|nvidia-[a-z0-9]+-cu|cuda-)' > requirements.lock
	rm -rf .lock
