# Two commands do everything: `make quickstart` and `make test`. Both make a virtual environment of their own.

PYTHON ?= python3
VENV ?= .venv
WORKDIR ?= runs/quickstart
BIN := $(VENV)/bin

.PHONY: quickstart test
.DELETE_ON_ERROR:

quickstart: $(VENV)/.run
	$(BIN)/python -m experiments.train --config=configs/quickstart.py --workdir=$(WORKDIR)

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy gpg_jax experiments
	@$(BIN)/python -c "import torch, transformers" 2>/dev/null \
		&& echo "torch and transformers are here: the parity tests run" \
		|| echo "torch or transformers is missing: the parity tests are skipped (pip install '.[parity]')"
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --durations=15

$(VENV)/bin/python:
	@$(PYTHON) -c "import sys; sys.exit('gpg_jax needs Python 3.11 or newer; set PYTHON=...') \
		if sys.version_info < (3, 11) else None"
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: setup.cfg | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[run]'
	touch $@

$(VENV)/.test: setup.cfg | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[run,test]'
	touch $@
