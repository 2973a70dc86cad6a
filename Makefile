# Two commands on a fresh machine: `make demo` and `make test`. Both make .venv and install what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-all test-slurm test-faults lint format docs benchmarks clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gentool needs Python 3.11 or newer: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(STAMP)

demo: $(STAMP) ## Train, sample and judge a small model of handwritten digits: under four minutes on two cores
	@set -e; PATH="$(CURDIR)/$(BIN):$$PATH"; \
	run=$$(gentool train quickstart); \
	picture=$$(gentool sample $$run -n 100 -o $$run/samples/digits.png); \
	gentool evaluate $$run; \
	echo; printf '%-9s %s\n' run $$run picture $$picture metrics $$run/evaluation.json report $$run/report.html

test test-all test-slurm test-faults: export OMP_NUM_THREADS ?= 1  # two workers at once, a file of tests to each: it prepares once

test: $(STAMP) ## The fast tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-all: $(STAMP) ## Every test, the slow ones and the demo too; but those of the next two
	$(BIN)/python -m pytest -m 'not slurm and not faults' -n 2 --dist loadfile

test-slurm: $(STAMP) ## Jobs on a real Slurm of one node, as root on a Debian; skipped elsewhere, with the reason
	$(BIN)/python -m pytest -m slurm tests/slurm -rs --timeout=900

test-faults: $(STAMP) ## Kills, full disks and damaged files; writes docs/reliability.md
	$(BIN)/python -m pytest -m faults tests/faults -rs --timeout=1800

lint: $(STAMP) ## Style, types and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMP) ## Regenerate the reference of recipes, the help texts and docs/claims.md
	$(BIN)/python docs/generate.py

benchmarks: $(STAMP) ## The quick settings; DATA names the folder with MNIST's IDX files
	for script in benchmarks/bench_*.py; do $(BIN)/python $$script --quick --data-dir $${DATA:-.data/mnist} || exit 1; done
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) dist build
