"""python -m benchmarks.throughput: images per second while training, beside the article's script.

Each measurement is a process of its own, the two sides take turns, and medians are compared. Both
train on the same images in memory, 28x28x1, for the same number of steps, with oneDNN's kernels;
compilation is left out.
The article's side is its Keras script with an optimizer that learns (Adam); the trainer's is its
own pipeline and step with the settings of `configs/`.
"""

import importlib
import os
import statistics
import subprocess
import sys
import time

import numpy as np
from absl import app, flags

NETS = ("dense", "conv")
BATCH_SIZES = (64, 512)

_ROUNDS = flags.DEFINE_integer("rounds", 5, "Measurements of each side; medians are compared.", 1)
_IMAGES = flags.DEFINE_integer("images", 102_400, "Images that one measurement trains on.", 20_480)
_SIDE = flags.DEFINE_string("side", None, "Measures one side alone, as article/dense/64.")


def main(argv: list[str]) -> None:
    """Measures one side where it is named, and all of them otherwise."""
    del argv
    if _SIDE.value:
        side, net, batch_size = _SIDE.value.split("/")
        measure = {"article": article, "trainer": trainer}[side]
        print(measure(net, int(batch_size), _IMAGES.value))
        return
    print("| net | batch | article, images/s | trainer, images/s | ratio |")
    print("|---|---|---|---|---|")
    for net in NETS:
        for size in BATCH_SIZES:
            rates: dict[str, list[float]] = {"article": [], "trainer": []}
            for _ in range(_ROUNDS.value):
                for side, measured in rates.items():
                    measured.append(_in_a_process(f"{side}/{net}/{size}"))
            theirs, ours = (statistics.median(measured) for measured in rates.values())
            row = f"| {net} | {size} | {theirs:,.0f} | {ours:,.0f} | {ours / theirs:.2f} |"
            print(row, flush=True)


def article(net: str, batch_size: int, count: int) -> float:
    """Images per second of the article's script."""
    import keras
    from keras import layers

    def conv(channels: int, activation: str | None = "relu") -> layers.Layer:
        return layers.Conv2D(channels, 3, padding="same", activation=activation)

    stacks = {
        "conv": [
            *(conv(16), layers.MaxPooling2D(2, padding="same")),
            *(conv(1), layers.MaxPooling2D(2, padding="same")),
            *(conv(1), layers.UpSampling2D(2)),
            *(conv(16), layers.UpSampling2D(2)),
            conv(1, None),
        ],
        "dense": [
            *(layers.Dense(units, "relu") for units in (128, 64, 32, 64, 128)),
            layers.Dense(784, "sigmoid"),
        ],
    }
    images = _images(count) / np.float32(255)
    if net == "dense":
        images = images.reshape(count, -1)
    model = keras.Sequential([keras.Input(images.shape[1:]), *stacks[net]])
    model.compile(optimizer="adam", loss="mean_squared_error")
    model.fit(images[:1024], images[:1024], batch_size=batch_size, verbose=0)
    began = time.perf_counter()
    model.fit(images, images, batch_size=batch_size, verbose=0)
    return count / (time.perf_counter() - began)


def trainer(net: str, batch_size: int, count: int) -> float:
    """Images per second of this trainer."""
    from trainer import cli

    cli.import_tensorflow()
    import keras
    import tensorflow as tf

    from trainer import data, models, replicas
    from trainer.train import make_steps

    config = importlib.import_module(f"configs.{net}").get_config()
    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    strategy = replicas.make_strategy(config.strategy)
    model = replicas.build_model(
        strategy, config.precision, lambda: models.create((28, 28, 1), **config.model)
    )
    # So many calls that the two prefetched while the first one compiles do not count.
    steps_per_call = max(1, min(config.steps_per_call, count // batch_size // 20))
    last_step = count // batch_size // steps_per_call * steps_per_call
    config.batch_size = batch_size
    steps = make_steps(config, strategy, model, last_step + steps_per_call)
    ranges = [(first, first + steps_per_call) for first in range(0, last_step + 1, steps_per_call)]
    batches = iter(data.batches(_images(count), ranges, batch_size, config.seed))
    steps.train(0, next(batches)[1])  # compiles
    began = time.perf_counter()
    for first, images in batches:
        steps.train(int(first), images)
    return last_step * batch_size / (time.perf_counter() - began)


def _images(count: int) -> np.ndarray:
    """The embedded digits over and over, uint8 [count, 28, 28, 1]."""
    from trainer import data

    digits = data.load("digits", image_size=0, validation_fraction=0.05).train.images
    return np.resize(digits, (count, *digits.shape[1:]))


def _in_a_process(side: str) -> float:
    command = [sys.executable, "-m", "benchmarks.throughput", f"--side={side}"]
    command.append(f"--images={_IMAGES.value}")
    done = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"TF_ENABLE_ONEDNN_OPTS": "1"},
    )
    return float(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    app.run(main)
