"""Writes the HLO of a training loop as TensorFlow passes it to XLA for a GPU.

    python -m tests.gpu_compile.dump --net=conv --execution=auto --precision=float32 --folder=DIR

A process of its own: XLA reads its flags once, and op determinism cannot be turned off again.
Writes `module.txt` and `about.json`, which holds the batch size, the execution and XLA's flags.
"""

import argparse
import importlib
import json
import os
import shutil
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tests.gpu_branch import gpu_branch, gpu_strategy
from trainer.config import parse
from trainer.distribution import xla
from trainer.distribution.strategy import build_autoencoder, build_model
from trainer.distribution.workers import Workers
from trainer.evaluation.classifier import Classifier
from trainer.training.setup import make_steps

FINETUNE = "finetune"  # the classifier on the dense net's encoder

_IMAGE_SHAPE = (28, 28, 1)
_IMAGES = 1024
_STEPS = 100  # that a call has room for; one of them is run
_CLASSES = 10
_BATCH_SIZES = {"deep": 64}  # other than the config's


def _take_one_step(net: str, execution: str, precision: str) -> dict[str, object]:
    """Compiles a call of the training loop and runs a step of it; returns what was run."""
    keys = importlib.import_module(f"configs.{'dense' if net == FINETUNE else net}").get_config()
    keys.precision = precision
    keys.batch_size = _BATCH_SIZES.get(net, keys.batch_size)
    config = parse(keys)
    keras.utils.set_random_seed(config.seed)
    tf.config.experimental.enable_op_determinism()
    images = np.random.default_rng(0).integers(0, 256, (_IMAGES, *_IMAGE_SHAPE), np.uint8)
    indices = np.zeros((_STEPS, config.batch_size), np.int64)
    with gpu_branch():
        strategy = gpu_strategy(1)
        autoencoder = build_autoencoder(strategy, precision, _IMAGE_SHAPE, config.model)
        if execution == "auto":
            execution = xla.candidate_executions(strategy, autoencoder, config.batch_size)[0]
        model, labels = autoencoder, None
        if net == FINETUNE:
            model = build_model(strategy, precision, lambda: Classifier(autoencoder, _CLASSES))
            labels = indices % _CLASSES
        steps = make_steps(config, Workers(strategy), model, last_step=10**6)
        assert steps.cache_on_device(images)
        steps.set_execution(execution)
        steps.train(0, indices, count=1, labels=labels)
    return {"batch_size": config.batch_size, "execution": execution}


def main() -> None:
    """Writes the two files."""
    parser = argparse.ArgumentParser()
    for name in ("net", "execution", "precision"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    os.environ.pop("XLA_FLAGS", None)
    xla.set_gpu_flags()
    flags = os.environ["XLA_FLAGS"]
    dumps = arguments.folder / "xla"
    dump_flags = (
        f"--xla_dump_to={dumps} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=.*_train_.*"
    )
    # What the CPU's compiler makes of it afterwards need not be fast.
    os.environ["XLA_FLAGS"] = f"{flags} {dump_flags} --xla_backend_optimization_level=0"
    about = _take_one_step(arguments.net, arguments.execution, arguments.precision)
    (module,) = dumps.glob("*.before_optimizations.txt")
    module.rename(arguments.folder / "module.txt")
    shutil.rmtree(dumps)  # the rest is about CPUs
    (arguments.folder / "about.json").write_text(json.dumps(about | {"xla_flags": flags}))


if __name__ == "__main__":
    main()
