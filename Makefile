# Set-up and two calls; everything else is snakemake itself (see README.md).
#
#   make demo     the pipeline on the built-in corpus
#   make status   how far a run is: RUN=demo, WATCH=1 to stay and look on
#   make test     lint, types and tests: at most ten minutes on two cores
#   make test-all     these, and what needs SLURM, a browser or more time
#   make check    only lint, format and types
#   make bench    every stage against a plain implementation: cost, growth, memory; CPU only
#   make calibrate   what snakemake plan needs to know of this machine, in a few minutes;
#                    CONFIG=FILE and PROFILE=FOLDER as in the run
#   make env      only the environment (.venv): CPU build of torch
#   make env CUDA=1     on a GPU machine: CUDA build of torch, faiss-gpu
#   make link-profiles  so that `snakemake --profile slurm` finds profiles/slurm
#   make slurm-up       a small SLURM on this machine, to try profiles/slurm; make slurm-down ends it

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Once the CUDA build is installed, later calls keep it.
BUILD := $(if $(CUDA)$(wildcard $(VENV)/.installed-cuda),cuda,cpu)
STAMP := $(VENV)/.installed-$(BUILD)

.PHONY: demo status test test-long test-all check bench calibrate env link-profiles slurm-up slurm-down clean

RUN ?= demo
PROFILE ?= profiles/local

demo: env
	$(BIN)/snakemake --profile profiles/local
	@$(BIN)/python -m groupmates headline results/demo

# Without `env`: looking on changes nothing, least of all packages under running jobs.
status:
	@workflow/run status results/$(RUN) $(if $(WATCH),--watch)

PYTEST := $(BIN)/python -m pytest --dist loadgroup -n
LONG := long or slurm or browser

test: check
	$(PYTEST) 2 -m "not ($(LONG))"

test-long: env
	$(PYTEST) 4 -m "$(LONG)"

test-all: test test-long

bench: env
	PYTHONPATH=workflow:tests $(BIN)/python -m benchmarks.bench

calibrate: env
	$(BIN)/python -m groupmates calibrate --profile $(PROFILE) $(addprefix --configfile ,$(CONFIG))

check: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow/Snakefile workflow/rules
	$(BIN)/snakemake --lint

env: $(STAMP)

$(STAMP): pyproject.toml envs/constraints.txt envs/install.sh
	PYTHON=$(PYTHON) bash envs/install.sh $(BUILD) $(VENV)
	@touch $@

# Where snakemake looks for the names of profiles.
CONFIG_HOME := $(if $(XDG_CONFIG_HOME),$(XDG_CONFIG_HOME),$(HOME)/.config)/snakemake

link-profiles:
	@bash envs/link-profiles.sh $(CURDIR)/profiles $(CONFIG_HOME)

slurm-up: env
	@$(BIN)/python tests/slurm/cluster.py up

slurm-down: env
	@$(BIN)/python tests/slurm/cluster.py down

# Results stay: they may be weeks of computing.
clean:
	rm -rf $(VENV)
