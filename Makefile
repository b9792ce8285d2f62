# Short commands. Each makes its own virtual environment first if there is none: PYTHON= and VENV= choose.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --constraint constraints.txt
# Test processes: one per core, each with one thread.
JOBS ?= auto
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --maxprocesses 8 --dist worksteal
# One part of `make test-all`: SHARD=3/24. Tests of a file take about as long: they are dealt out in turn.
SPLIT = $(if $(SHARD),--splitting-algorithm least_duration --splits $(lastword $(subst /, ,$(SHARD))) --group $(firstword $(subst /, ,$(SHARD))))

.PHONY: train test test-all coverage lint docs aot bench env clean

train: $(VENV)/.train  ## train on the embedded synthetic data: make train ARGS="--max-epochs 2"
	@$(BIN)/python train.py configs/synthetic.yaml $(ARGS)

test: $(VENV)/.test  ## the tests that need no GPU: make test ARGS="-k golden"
	@$(PYTEST) $(ARGS)

test-all: $(VENV)/.test  ## these and the long ones, an hour or more: make test-all SHARD=3/24
	@$(PYTEST) -m "full or not full" $(SPLIT) $(ARGS)

coverage: $(VENV)/.test  ## the lines of Python that `make test` does not reach; fails below 95 %
	@rm -f .coverage.*  # of processes that were killed
	@$(PYTEST) --cov $(ARGS)

lint: $(VENV)/.test  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs  ## the documentation site, in build/site: warnings are errors
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build $(ARGS)
	@echo "Written: build/site. To read it: $(BIN)/python -m http.server --directory build/site"

aot: $(VENV)/.test  ## compile the kernels for every architecture, without a GPU: make aot ARGS=--renew
	$(BIN)/python -m bench.gpu.aot $(ARGS)

bench: $(VENV)/.test  ## time and memory of every loss beside PyTorch: make bench ARGS=--quick
	$(BIN)/python -m bench.speed.run $(ARGS)

env: $(VENV)/.train  ## what this machine can run, and why
	$(BIN)/python -m depthloss doctor

$(VENV)/.train $(VENV)/.test: $(VENV)/.%: pyproject.toml setup.py constraints.txt
	@test -x $(BIN)/python || { echo "Creating the virtual environment $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing PyTorch and the packages of the extra '$*' into $(VENV): up to 1 GB to download, a few minutes"
	@echo "The native CPU engine is compiled on the way, in silence: a minute or two"
	@$(PIP) --editable ".[$*]"
	@test -e kernels/cpu/_engine.so && echo "Installed, with the native CPU engine" || \
		echo "Installed, without the native CPU engine, as there is no C++ compiler: the reference takes its place"
	@touch $@

# Beside either environment, as another editable installation would compile the engine again.
$(VENV)/.docs: $(if $(wildcard $(VENV)/.test),$(VENV)/.test,$(VENV)/.train) website/requirements.txt constraints.txt
	@$(PIP) --quiet --requirement website/requirements.txt
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
