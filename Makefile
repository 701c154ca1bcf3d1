# make demo: set up and run the main job. make test: set up and run the tests.
PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python
# Tests in as many processes as there are cores, four at most: a file's in one of them, files with slow tests first.
TEST   := $(RUN) -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
.DEFAULT_GOAL := help
.PHONY: help demo test test-fast campaign coverage mutation bench check format lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

# One stamp per lock file: the environment is made again when the lock changes.
# pip checks every file against the lock's hashes; bytecode is compiled once, which halves the start of every training.
$(VENV)/stamp: requirements.lock
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --no-compile -r requirements.lock
	$(RUN) -m compileall -q -j 0 $(VENV)/lib > /dev/null 2>&1 || true
	@touch $@

data/digits: | $(VENV)/stamp
	$(RUN) prepare_data.py --source digits --out data/digits

demo: $(VENV)/stamp data/digits  ## set up, train experiments/digits, evaluate it on the test split
	$(RUN) train.py --data_dir data/digits --model_dir experiments/digits --overwrite
	$(RUN) evaluate.py --data_dir data/digits --model_dir experiments/digits
	@echo "learning curves: experiments/digits/train_history.png"

test: $(VENV)/stamp  ## set up and run the tests, slow ones too
	$(TEST) -m "not campaign"

test-fast: $(VENV)/stamp  ## the tests that take at most seconds each
	$(TEST) -m "not campaign and not slow"

campaign: $(VENV)/stamp  ## the full counts behind docs/, by hand: hours
	$(RUN) -m pytest -m campaign

coverage: $(VENV)/stamp  ## every line and branch of what writes files, keeps checkpoints and reads params.json, or fail
	$(RUN) -m coverage run -m pytest -q -m "not slow and not campaign" tests/test_utils.py tests/config tests/training/test_checkpoint.py
	$(RUN) -m coverage report

mutation: $(VENV)/stamp  ## changes the same modules in a copy, one thing at a time: do the tests notice? Minutes
	$(RUN) bench/mutation.py

bench: $(VENV)/stamp data/digits  ## training side by side with a plain loop and other programs, a short form: minutes
	$(RUN) -m bench.peers --data_dir data/digits --im_sz 64 --train 320 --valid 80 --pairs 1 --tries 1

check: $(VENV)/stamp  ## format, lint, types, layout; changes nothing
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy .
	$(RUN) -m pytest -q tests/test_layout.py

format: $(VENV)/stamp  ## format the code
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

lock:  ## resolve pyproject.toml into requirements.lock for every platform (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate \
		--group dev --extra timm --extra optuna --extra ray --extra export --extra tensorboard --extra mlflow \
		pyproject.toml -o requirements.lock

clean:  ## remove the environment and caches, never data or experiments
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis
