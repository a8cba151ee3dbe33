# Two commands set everything up: `make demo` and `make test`. Needs python3.11 or newer; no GPU, no model hub.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test slow check docs bench torture fix

demo: $(READY)
	$(BIN)/outgrow run

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

slow: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal -m slow

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[bench]"
	$(BIN)/python benchmarks/many_students.py
	$(BIN)/python benchmarks/planning.py
	$(BIN)/python benchmarks/finetuning.py
	$(BIN)/python benchmarks/finetuning.py --what predict
	$(BIN)/python benchmarks/finetuning.py --what extract

torture: $(READY)
	$(BIN)/python benchmarks/torture.py --kills 300 --cases 100000

fix: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Torch first, by exact version: a CPU build where the index has one for it, and nothing newer is drawn in later.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(READY)
