# Two commands do everything: `make demo` and `make test`. Both set up the same virtual environment first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test fuzz lint bench results study stubs clean

demo: $(READY)
	$(BIN)/offramp run --out runs/demo
	$(BIN)/python study/short.py runs/demo

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

# Ten thousand broken inputs through the command line; those that fail are kept in runs/fuzz.
fuzz: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/run.py --count 10000 --seed 0 --jobs 2 --keep runs/fuzz

lint: $(READY)
	$(BIN)/ruff check src tests benchmarks examples study
	$(BIN)/ruff format --check src tests benchmarks examples study
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

# Runs the examples on the real recordings (DATA: where they are) and writes docs/results.md and README's table.
results: $(READY)
	$(BIN)/python examples/make_results.py

# Pretrains what the study compares and writes docs/study.md: hours, resumable.
study: $(READY)
	$(BIN)/python study/make_study.py

# Makes the Python module of the protocol's messages anew, with a compiler that is no newer than the library that runs it.
stubs: $(READY)
	$(PYTHON) -m venv runs/stubs-env
	runs/stubs-env/bin/python -m pip install --quiet grpcio-tools==1.74.0
	runs/stubs-env/bin/python -m grpc_tools.protoc -I src --python_out=src --pyi_out=src offramp/serving/protocol/inference.proto

clean:
	rm -rf $(VENV) runs build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(READY): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $(READY)
