# Set-up and two calls; everything else is snakemake itself (see README.md).
#
#   make demo     the pipeline on the built-in corpus
#   make test     lint, types and tests
#   make check    only lint, format and types
#   make calibrate   what snakemake plan needs to know of this machine, in a few minutes;
#                    CONFIG=FILE and PROFILE=FOLDER as in the run
#   make env      only the environment (.venv): CPU build of torch
#   make env CUDA=1     on a GPU machine: CUDA build of torch, faiss-gpu

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Once the CUDA build is installed, later calls keep it.
BUILD := $(if $(CUDA)$(wildcard $(VENV)/.installed-cuda),cuda,cpu)
STAMP := $(VENV)/.installed-$(BUILD)

PROFILE ?= profiles/local

.PHONY: demo test check calibrate env clean

demo: env
	$(BIN)/snakemake --profile profiles/local
	@$(BIN)/python -m groupmates headline results/demo

test: env check
	$(BIN)/python -m pytest -n 2

calibrate: env
	$(BIN)/python -m groupmates calibrate --profile $(PROFILE) $(if $(CONFIG),--configfile $(CONFIG))

check: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/snakemake --lint

env: $(STAMP)

$(STAMP): pyproject.toml envs/constraints.txt envs/install.sh
	PYTHON=$(PYTHON) bash envs/install.sh $(BUILD) $(VENV)
	@touch $@

# Results stay: they may be weeks of computing.
clean:
	rm -rf $(VENV)
