PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.PHONY: help train test test-fast lint docs bench clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

.venv/core: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/test: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[cpu,dev]'
	# vLLM asks for these three, never needs them for text, and their builds do not load beside a CPU torch.
	$(BIN)/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch .venv/core $@

train: .venv/core  ## install, then the default run (a few minutes on two cores): make train ARGS="reward=lenient"
	$(BIN)/python train.py $(ARGS)

test: .venv/test lint  ## install the test and CPU-cluster extras, then lint and run every test (ARGS=-n0: one by one)
	$(BIN)/python -m pytest -n 3 $(ARGS)

test-fast: .venv/test  ## the unit tests, two minutes on two cores
	$(BIN)/python -m pytest -n 2 -m "not slow" $(ARGS)

lint: .venv/test  ## ruff, mypy and the layers of the house
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/core  ## the documentation as a site in build/site, with broken links as errors
	$(BIN)/pip install --quiet --editable '.[docs]'
	$(BIN)/python -m simplerl.config.reference --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: .venv/test  ## our sampler and RL step against transformers, vLLM and TRL
	$(BIN)/pip install --quiet --editable '.[bench]'
	$(BIN)/python -m simplerl.bench $(ARGS)

clean:  ## remove the environment and caches, never runs
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
