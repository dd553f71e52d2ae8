# Everything works in .venv at the top of the project; nothing but Python 3.11+ and make is
# needed beforehand.
PYTHON ?= python3
BIN := .venv/bin
# Images set it to be small; here every process would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-t5x bench fuzz plan-all study study-report chaos endurance matrix \
  lint format clean

demo: .venv/installed
	$(BIN)/hyperprompt demo

test: .venv/installed
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder

# With T5X's source on PYTHONPATH, or installed in .venv: docs/how_to/t5x.md.
test-t5x: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,t5x]'
	$(BIN)/python -m pytest -m t5x tests/test_t5x.py

# Speed and memory beside T5X and Transformers, where they can be imported: docs/reference/speed.md.
bench: .venv/installed
	$(BIN)/python -m benchmarks.bench

# Inputs made to break what reads files: a table, and tools/results/fuzz.json; about
# an hour. `make fuzz FUZZ='--cases=100 --target=glue'` for less.
fuzz: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,fuzz]'
	$(BIN)/python -m tools.fuzz $(FUZZ)

# What each size needs on TPU slices, written to docs/reference/sizing.md; about twenty minutes.
plan-all: .venv/installed
	$(BIN)/python -m benchmarks.plan_all docs/reference/sizing.md

# Every run of the study of interference that results.jsonl does not hold; about two hours.
study: .venv/installed
	$(BIN)/python -m studies.interference.study

# docs/study.md and its pictures, of the results.
study-report: .venv/installed
	$(BIN)/python -m studies.interference.report

# Kills, damaged checkpoints and broken disks, docs/reference/reliability.md; under half an hour. As root,
# or some disks are left out, which it says.
SEED ?= 0
chaos: .venv/installed
	$(BIN)/python -m tools.reliability.chaos --seed=$(SEED)

# Twenty thousand steps of a small run, watched; minutes.
endurance: .venv/installed
	$(BIN)/python -m tools.reliability.endurance

# The tests on Python 3.11, 3.12 and 3.13, with the newest packages and the oldest; an hour.
matrix: .venv/installed
	$(BIN)/python -m tools.reliability.matrix

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck --external-sources launch/*.sh tests/launch/*.sh

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The tested versions; without network for them, `make PYTHON=…` and a plain
# `pip install -e .[test]` in an environment of one's own do as well. Modules are compiled
# when they are first imported, which most never are.
.venv/installed: setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt \
	  --editable '.[test]'
	touch $@

clean:
	rm -rf .venv .matrix build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
