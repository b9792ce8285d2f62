# Short commands. Each makes its own virtual environment first if there is none: PYTHON= and VENV= choose.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: train test test-full lint aot bench env clean

train: $(VENV)/.train  ## train on the embedded synthetic data: make train ARGS="--max-epochs 2"
	$(BIN)/python train.py configs/synthetic.yaml $(ARGS)

test: $(VENV)/.test  ## all tests that need no GPU: make test ARGS="-k golden"
	$(BIN)/python -m pytest $(ARGS)

test-full: $(VENV)/.test  ## these, and every form of the kernels in Triton's interpreter: two hours
	$(BIN)/python -m pytest -m "full or not full" $(ARGS)

lint: $(VENV)/.test  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

aot: $(VENV)/.test  ## compile the kernels for every architecture, without a GPU: make aot ARGS=--renew
	$(BIN)/python bench/aot.py $(ARGS)

bench: $(VENV)/.test  ## time and memory of every loss beside PyTorch: make bench ARGS=--quick
	$(BIN)/python bench/speed.py $(ARGS)

env: $(VENV)/.train  ## what this machine can run, and why
	$(BIN)/python -m depthloss.env

$(VENV)/.train $(VENV)/.test: $(VENV)/.%: pyproject.toml setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
