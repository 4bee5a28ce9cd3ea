# From a fresh clone to the picture: `make fig1`.  Needs Python >= 3.10 with venv, and make; nothing else.
#
# make PYTHON=python3.12 ...   uses another interpreter (for a new .venv)
# make fig1 ARGS="..."         hands options on to the program
# pip's own settings hold, such as PIP_CONSTRAINT to choose a build of torch.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# The folder that holds the four original files of Fashion-MNIST; empty: they are downloaded.
SOURCE ?= $(FASHION_MNIST_DIR)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help fig1 fig6 figures docs test fuzz lint format bench data clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "make %-8s  %s\n", $$1, $$2}' Makefile

fig1: $(VENV)/.installed  ## draw Fig. 1 of the paper (the first time: install, train, measure)
	$(BIN)/python -m figures.fig1 $(ARGS)

fig6: $(VENV)/.installed  ## draw Fig. 6: SGD fast with dropout
	$(BIN)/python -m figures.fig6 $(ARGS)

figures: $(VENV)/.installed  ## draw the committed figures again from their stored results
	$(BIN)/python -m figures.fig1 --results figures/results/fig1-quick
	$(BIN)/python -m figures.fig1 --preset paper --results figures/results/fig1-paper
	$(BIN)/python -m figures.fig6 --preset paper --results figures/results/fig6-paper
	$(BIN)/python -m figures.estimators
	$(BIN)/python -m figures.posterior
	$(BIN)/python -m figures.binary
	$(BIN)/python -m figures.binary --n-train 200 --results figures/results/binary-200
	$(BIN)/python -m figures.conventions
	$(BIN)/python -m figures.draws
	$(BIN)/python -m figures.published_resnets
	$(BIN)/python -m figures.table1 --results figures/results/table1
	$(BIN)/python -m figures.table1 --results figures/results/table1-full
	$(BIN)/python -m figures.fig2 --results figures/results/table1-full --rows smallconvnet-cifar10
	$(BIN)/python -m figures.fig3 --results figures/results/table1-full --row smallconvnet-cifar10
	$(BIN)/python -m figures.fig3 --results figures/results/fig3-full --row smallconvnet-cifar10
	$(BIN)/python -m figures.fig2 --results figures/results/table1 --rows smallconvnet-cifar10
	$(BIN)/python -m figures.fig3 --results figures/results/fig3 --row smallconvnet-cifar10
	$(BIN)/python -m figures.fig7
	$(BIN)/python -m figures.fig7 --preset large
	$(BIN)/python -m figures.agreement
	$(BIN)/python -m figures.any_model

docs: $(VENV)/.installed-docs  ## build the manual: build/docs/index.html
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -q $(ARGS) docs build/docs
	@echo "the manual: build/docs/index.html"

# Workers share out the tests, one thread each; few of them, as each holds torch in memory.
test: $(VENV)/.installed-test  ## run the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal $(ARGS)

fuzz: $(VENV)/.installed-test  ## try every damaged or made-up file, wrong command line and interruption, not a sample (hours)
	BPFLAT_FUZZ=all $(BIN)/python -m pytest tests/fuzz $(ARGS)

lint: $(VENV)/.installed-test  ## check style, formatting and types
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

format: $(VENV)/.installed-test  ## mend style and formatting where a program can
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

bench: $(VENV)/.installed  ## run the benchmarks
	$(BIN)/python -m benchmarks $(ARGS)

data: $(VENV)/.installed  ## make the data file again (SOURCE=FOLDER: from files that are there)
	$(BIN)/python data/builder/reduced_fashion_mnist.py $(if $(SOURCE),--source "$(SOURCE)",--download)

clean:  ## remove the environment and what building left, but no results
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment whose interpreter is gone is made again from nothing; a stamp is set only after success, so that
# an interrupted installation is taken up again.
ifneq ($(shell test -x $(BIN)/python && echo whole),whole)
.PHONY: $(VENV)/.created
endif

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo >&2 \
	"bpflat needs Python 3.10 or later, and '$(PYTHON)' is not one; name another: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo >&2 \
	"'$(PYTHON)' comes without venv; install it (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	@test -x $(BIN)/python || rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created setup.cfg pyproject.toml
	@echo "Installing bpflat and what it needs into $(VENV); torch is large, this takes a minute or more"
	$(BIN)/python -m pip install --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.created setup.cfg pyproject.toml
	@echo "Installing bpflat and what its tests need into $(VENV); torch is large, this takes a minute or more"
	$(BIN)/python -m pip install --disable-pip-version-check --editable ".[test]"
	@touch $(VENV)/.installed $@

$(VENV)/.installed-docs: $(VENV)/.created setup.cfg pyproject.toml
	@echo "Installing bpflat and what its manual needs into $(VENV); torch is large, this takes a minute or more"
	$(BIN)/python -m pip install --disable-pip-version-check --editable ".[docs]"
	@touch $(VENV)/.installed $@
