# make train: a trained autoencoder, from nothing.  make train DATA=mnist: on MNIST through TFDS.
DATA ?= digits
CONFIG ?= conv
PYTHON ?= python3
WORKDIR ?= runs/$(CONFIG)-$(DATA)
BIN := .venv/bin

# The embedded digits are few: as many steps as MNIST would give need more epochs.
EPOCHS_digits := --config.num_epochs=150

.PHONY: train test lint benchmark tensorboard clean

train: .venv/installed
	$(BIN)/python -m trainer --config=configs/$(CONFIG).py --config.data.name=$(DATA) \
		$(EPOCHS_$(DATA)) --workdir=$(WORKDIR)
	$(BIN)/python -m trainer.evaluate --workdir=$(WORKDIR)
	@echo "charts     $(BIN)/tensorboard --logdir=$(dir $(WORKDIR))"

test: .venv/installed
	$(BIN)/python -m pytest

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: .venv/installed
	$(BIN)/python -m benchmarks.throughput

tensorboard: .venv/installed
	$(BIN)/tensorboard --logdir=runs

.venv/installed: setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11 to 3.13 is needed; set PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .[dev]
	touch $@

clean:
	rm -rf .venv build *.egg-info
