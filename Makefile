# make demo: the whole way on synthetic X-rays.  make test: lint, types and tests.  make help: the rest.
PYTHON ?= python3
# Passed to every pip install, for example PIP_ARGS="--extra-index-url URL" for PyTorch's CPU build.
PIP_ARGS ?=
BIN := .venv/bin
DEMO_STUDIES ?= 120

# What a command left half done when it failed is not there.
.DELETE_ON_ERROR:
.PHONY: help demo test lint types unit bare test-slow soak clean

help:
	@echo "make demo       environment, demo archive, engine bundle, scores, a summary"
	@echo "make test       environment with the test tools, lint, types, all tests with coverage"
	@echo "make test-slow  make demo, and what must hold of speed and memory"
	@echo "make soak       an hour of kills, bad files and disks; goes on where it was stopped"
	@echo "make clean      removes the demo, the soak, other results and the environments"

# --- environments; a stamp file says what is installed ---
.venv/scoring: pyproject.toml constraints.txt mura_trt/_gray.c
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt -e '.[build,rtx]'
	touch $@

.venv/testing: .venv/scoring
	$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt -e '.[build,rtx,dicom,s3,http,ray,train,evaluate,dev]'
	touch $@

# Nothing heavy: the package alone, and what its modules import at their top.
.venv-bare/ready: pyproject.toml constraints.txt
	test -x .venv-bare/bin/pip || $(PYTHON) -m venv .venv-bare
	.venv-bare/bin/python -m pip install -q $(PIP_ARGS) -c constraints.txt typer numpy
	.venv-bare/bin/python -m pip install -q $(PIP_ARGS) -c constraints.txt --no-deps -e .
	touch $@

# --- the demo ---
demo/archive: | .venv/scoring
	$(BIN)/mura-trt demo demo/archive --studies $(DEMO_STUDIES) --seed 7

demo/engine/bundle.json: engines/demo/model.safetensors | .venv/scoring
	$(BIN)/mura-trt build-engine engines/demo-fp16.toml --checkpoint $< -o demo/engine --overwrite

demo: .venv/scoring demo/archive demo/engine/bundle.json
	$(BIN)/mura-trt score demo/archive --engine demo/engine -o demo/out --overwrite
	$(BIN)/mura-trt demo-summary demo/archive demo/out

# --- tests ---
test: lint types bare unit

lint: .venv/testing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/testing
	$(BIN)/mypy

bare: .venv-bare/ready
	.venv-bare/bin/python tests/import_everything.py

unit: .venv/testing
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder --durations=25
	$(BIN)/coverage combine -q
	$(BIN)/coverage report --fail-under=90

# Of three, one mostly waits for nodes of a cluster that die.
test-slow: .venv/testing demo
	$(BIN)/pytest -m "slow and not measures" -n 3 --dist loadfile --no-loadscope-reorder --timeout=900 --durations=30
	$(BIN)/pytest -m measures --durations=10

soak: .venv/testing demo
	$(BIN)/python -m benchmarks.soak soak --engine demo/engine

clean:
	rm -rf acceptance demo soak .coverage* .venv .venv-bare
