# Every target works in .venv at the top of the project, and needs nothing but Python 3.11+
# and make.
PYTHON ?= python3
BIN := .venv/bin
# Container images set this variable; every process would then compile all its imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all test-t5x bench fuzz plan-all study study-report chaos endurance matrix \
  packages docs lint format clean

demo: .venv/installed
	$(BIN)/hyperprompt demo

# All tests but the slow ones, of which CONTRIBUTING.md has the rule.
test: .venv/installed
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder

test-all: .venv/installed
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder -m ''

# Needs T5X's source on PYTHONPATH, or T5X in .venv: docs/how_to/t5x.md.
test-t5x: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,t5x]'
	$(BIN)/python -m pytest -m t5x tests/test_t5x.py

# Measures speed and memory beside T5X and Transformers: docs/reference/speed.md.
bench: .venv/installed
	$(BIN)/python -m benchmarks.bench

# Fuzzes the readers of files for about an hour; prints a table, writes
# tools/results/fuzz.json. `make fuzz FUZZ='--cases=100 --target=glue'` does less.
fuzz: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,fuzz]'
	$(BIN)/python -m tools.fuzz $(FUZZ)

# Plans each size on TPU slices in twenty minutes, and writes docs/reference/sizing.md.
plan-all: .venv/installed
	$(BIN)/python -m benchmarks.plan_all docs/reference/sizing.md

# Every run of the studies that has no result yet, on one core; hours, stop it at any time.
# `make study STUDY='--minutes=60'` for less.
study: .venv/installed
	$(BIN)/python -m studies.run $(STUDY)

# docs/study.md, of the results.
study-report: .venv/installed
	$(BIN)/python -m studies.report

# Tries kills, damaged checkpoints and broken disks for about an hour, and writes
# docs/reference/reliability.md. Some disks need root and are left out otherwise.
SEED ?= 0
chaos: .venv/installed
	$(BIN)/python -m tools.reliability.chaos --seed=$(SEED)

# Watches twenty thousand steps of a small run, which takes minutes.
endurance: .venv/installed
	$(BIN)/python -m tools.reliability.endurance

# Runs the tests on Python 3.11, 3.12 and 3.13, with newest and oldest packages; an hour.
matrix: .venv/installed
	$(BIN)/python -m tools.reliability.matrix

# Builds the distributions in dist/, and resolves every extra on every platform, in minutes:
# docs/how_to/install.md. `make packages PACKAGES='--install 3.12'` also installs the wheel.
packages: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,release]'
	$(BIN)/python -m tools.packaging $(PACKAGES)

# Executes the notebook, and builds the documents as a site in build/site, with warnings as
# errors.
docs: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,docs]'
	$(BIN)/python -m tools.notebook
	$(BIN)/python -m mkdocs build --quiet --strict

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tools.prose
	$(BIN)/shellcheck --external-sources launch/*.sh tests/launch/*.sh

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Installs the tested versions. `pip install -e .[test]` in another environment does as well.
# Modules are compiled when they are first imported, which most never are.
.venv/installed: setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt \
	  --editable '.[test]'
	touch $@

clean:
	rm -rf .venv .matrix build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
