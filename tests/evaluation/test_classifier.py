"""The classifier's step: its loss, its dropout, and that every execution and replica agree."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.all_configs import settings_of, tiny
from tests.models.small import context, images_like
from tests.steps import adam_steps
from trainer import models
from trainer.distribution import xla
from trainer.evaluation.classifier import Classifier, dropout
from trainer.evaluation.finetuning_options import FineTuning
from trainer.positions import Noise

BATCH = 8
CLASSES = 3
PLAIN = FineTuning()
REGULARISED = FineTuning(input_dropout=0.2, code_dropout=0.5)


def classifier_of(kind, settings):
    keras.utils.set_random_seed(0)
    autoencoder = models.create((12, 12, 1), settings_of(kind, **tiny(kind)))
    return Classifier(autoencoder, CLASSES, settings)


def steps_and_batches(devices, execution, kind, count, settings=PLAIN, precision="float32"):
    """A classifier of a kind, its steps, and random images with batches of indices and labels."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (50, 12, 12, 1)).astype(np.uint8)
    indices = random.integers(0, 50, (count, BATCH)).astype(np.int32)
    labels = random.integers(0, CLASSES, 50)
    create = lambda: classifier_of(kind, settings)  # noqa: E731
    return *adam_steps(create, devices, execution, precision=precision), images, indices, labels


def test_a_batch_in_parts_on_the_device_has_the_labels_and_the_noise_of_the_whole(monkeypatch):
    monkeypatch.setattr(xla, "CUT_SIZE", 3)  # images at a time, of products
    learnt = []
    for execution in ("graph", "xla_products"):
        _, steps, images, indices, labels = steps_and_batches(1, execution, "conv", 4, REGULARISED)
        assert steps.cache_on_device(images)
        metrics = steps.train(0, indices, labels=labels[indices])
        learnt.append([metrics["loss"], *(v.numpy() for v in steps.variables().values())])
    for whole, parts in zip(*learnt, strict=True):
        np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("devices", [1, 2])
def test_the_step_minimises_the_mean_cross_entropy(devices):
    classifier, steps, images, indices, labels = steps_and_batches(devices, "graph", "dense", 1)
    unit = images[indices[0]] / np.float32(255)
    rows, targets = np.arange(BATCH), labels[indices[0]]
    with tf.GradientTape() as tape:
        probabilities = tf.nn.softmax(classifier(unit))
        chosen = tf.gather_nd(probabilities, np.stack([rows, targets], axis=1))
        loss = -tf.reduce_mean(tf.math.log(chosen))
    norm = tf.linalg.global_norm(tape.gradient(loss, classifier.trainable_variables))
    metrics = steps.train(0, images[indices], labels=labels[indices])
    assert metrics["loss/cross_entropy"][0] == pytest.approx(float(loss), rel=1e-5)
    assert metrics["gradient_norm"][0] == pytest.approx(float(norm), rel=1e-4)


def learnt(devices=1, execution="graph", precision="float32"):
    """The losses of four regularised steps, and the weights after them."""
    _, steps, images, indices, labels = steps_and_batches(
        devices, execution, "dense", 4, REGULARISED, precision
    )
    metrics = steps.train(0, images[indices], labels=labels[indices])
    return [metrics["loss"], *(variable.numpy() for variable in steps.variables().values())]


@pytest.mark.parametrize(
    ("devices", "execution"), [(2, "graph"), (2, "xla"), (1, "xla_update"), (1, "xla")]
)
def test_replicas_and_executions_learn_the_same_under_noise(devices, execution):
    for one, other in zip(learnt(), learnt(devices, execution), strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_learns_about_the_same_under_noise(precision):
    losses, *_ = learnt(precision=precision)
    np.testing.assert_allclose(losses, learnt()[0], rtol=0.05)


def test_dropout_keeps_the_mean_and_depends_on_the_position_alone():
    rows = tf.constant(images_like(4000, (3, 2)) + 1)
    dropped = dropout(rows, 0.25, Noise(0, 7, 4000), "test").numpy()
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], rows.numpy()[kept] / 0.75, rtol=1e-6)
    assert kept.mean() == pytest.approx(0.75, abs=0.01)
    later = dropout(rows[1000:], 0.25, Noise(0, 1007, 3000), "test")
    np.testing.assert_array_equal(later, dropped[1000:])
    np.testing.assert_array_equal(dropout(rows, 0.0, Noise(0, 7, 4000), "test"), rows)


def test_the_loss_has_noise_in_training_alone():
    plain, regularised = (classifier_of("dense", s) for s in (PLAIN, REGULARISED))
    images, labels = tf.constant(images_like(BATCH, (12, 12, 1))), tf.range(BATCH) % CLASSES

    def loss(classifier, **changes):
        terms = classifier.loss_terms(images, context(BATCH, labels=labels, **changes))
        return terms["cross_entropy"].numpy()

    expected = loss(plain)
    np.testing.assert_array_equal(loss(regularised, training=False), expected)
    assert (loss(regularised) != expected).all()
    np.testing.assert_array_equal(regularised(images), plain(images))
