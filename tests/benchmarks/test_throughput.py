"""The benchmarks train the nets of the configs, and count their operations right."""

import keras
import pytest

from benchmarks import limit
from benchmarks.nets import IMAGE_SHAPE, NETS
from benchmarks.sides import with_keras
from tests.all_configs import load_config
from trainer import models
from trainer.config import parse


@pytest.mark.parametrize("net", NETS)
def test_a_net_has_the_layers_of_its_config(net):
    ours = models.create(IMAGE_SHAPE, parse(load_config(net)).model)
    stack = [keras.Input(IMAGE_SHAPE), *map(with_keras.keras_layer, NETS[net])]
    theirs = keras.Sequential(stack)
    shapes = [
        [variable.shape for variable in model.trainable_variables] for model in (ours, theirs)
    ]
    assert shapes[0] == shapes[1]
    assert limit.count(net)[2] == ours.count_params()


def test_the_limit_is_the_longer_of_arithmetic_and_bytes():
    # dense: 111,104 multiply-adds down and as many up; the first layer has no input gradient.
    forward = 2 * 784 * 128 + 2 * 128 * 64 + 2 * 64 * 32
    flops = 2 * (3 * forward - 784 * 128)
    assert limit.count("dense")[0] == flops
    slow = limit.Machine(flops_per_second=float(flops), bytes_per_second=1e12)
    assert limit.images_per_second("dense", 64, slow) == pytest.approx(1.0)
    narrow = limit.Machine(flops_per_second=1e15, bytes_per_second=1.0)
    activations, parameters = 2 * (128 + 64) + 32 + 784, forward + 2 * (128 + 64) + 32 + 784
    moved = 4 * (3 * activations + 7 * parameters / 64)
    assert limit.images_per_second("dense", 64, narrow) == pytest.approx(1 / moved)
