"""The largest losses of a batch, left out of its gradient."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests.distribution.noisy_steps import (
    BATCH,
    SHAPE,
    assert_close,
    images_like,
    make_steps,
    small,
    trained,
)
from tests.marks import slow
from trainer.distribution import xla
from trainer.distribution.gradients import trimming_weights
from trainer.models.base import Autoencoder


@pytest.mark.parametrize(
    ("devices", "execution"), [(1, "graph"), (4, "graph"), slow(2, "xla"), slow(1, "xla_products")]
)
def test_trimming_leaves_the_largest_losses_of_the_global_batch_out_of_the_gradient(
    devices, execution, monkeypatch
):
    monkeypatch.setattr(xla, "CUT_SIZE", 3)
    create = functools.partial(small, Autoencoder)
    images = images_like(1, BATCH, *SHAPE)
    images[0, 5:] = 255 * (images[0, 5:] > 127)  # the largest errors are on the last replicas
    model, _ = make_steps(create=create)
    unit = images[0] / np.float32(255)
    with tf.GradientTape() as tape:
        errors = tf.reduce_mean(tf.square(model(unit) - unit), [1, 2, 3])
        kept = np.argsort(errors)[:-3]
        loss = tf.reduce_mean(tf.gather(errors, kept))
    assert set(kept) == set(range(5))
    norm = tf.linalg.global_norm(tape.gradient(loss, model.trainable_variables))
    _, steps = make_steps(devices, execution, create=create, trim_share=0.4)  # 3 of 8
    metrics = steps.train(0, images)
    assert metrics["loss"][0] == pytest.approx(float(loss), rel=1e-5)
    assert metrics["gradient_norm"][0] == pytest.approx(float(norm), rel=1e-4)


def test_many_replicas_trim_the_same_examples_of_a_noisy_model_as_one_does():
    images = images_like(20, BATCH, *SHAPE)
    one, many = (trained(images, devices, trim_share=0.3) for devices in (1, 4))
    assert_close(many, one)


def test_a_share_of_a_batch_is_rounded_down_but_for_the_rounding_of_floats():
    for share, left_out in ((0.29, 29), (0.57, 57), (0.295, 29)):
        weights = trimming_weights(tf.range(100, dtype=tf.float32), share)
        assert np.count_nonzero(weights == 0) == left_out


def test_of_equal_losses_the_first_are_kept():
    weights = trimming_weights(tf.constant([2.0, 1.0, 2.0, 2.0]), 0.5)
    np.testing.assert_array_equal(weights, [2, 2, 0, 0])
