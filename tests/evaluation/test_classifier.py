"""The classifier's step: its loss, its dropout, and that every execution and replica agree."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.all_configs import settings_of, tiny
from tests.models.small import context, images_like
from tests.steps import adam_steps
from tests.verbs.refusals import refused
from trainer import models
from trainer.distribution import xla
from trainer.distribution.variables import values_of
from trainer.evaluation.classifier import Classifier, SoftmaxLayer, cross_entropy_nats
from trainer.evaluation.finetuning_options import FineTuning
from trainer.models.dropout import dropout
from trainer.positions import Noise

BATCH = 8
CLASSES = 3
PLAIN = FineTuning()
DROPPED = FineTuning(input_dropout=0.2, code_dropout=0.5)
REGULARISED = FineTuning(
    input_dropout=0.2, hidden_dropout=0.25, code_dropout=0.5, label_smoothing=0.1
)


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


@pytest.mark.slow
def test_a_batch_in_parts_on_the_device_has_the_labels_and_the_noise_of_the_whole(monkeypatch):
    monkeypatch.setattr(xla, "CUT_SIZE", 3)  # images at a time, of products
    learnt = []
    for execution in ("graph", "xla_products"):
        _, steps, images, indices, labels = steps_and_batches(1, execution, "conv", 4, DROPPED)
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "execution"), [(2, "graph"), (2, "xla"), (1, "xla_update"), (1, "xla")]
)
def test_replicas_and_executions_learn_the_same_under_noise(devices, execution):
    for one, other in zip(learnt(), learnt(devices, execution), strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("execution", ["graph", "xla"])
def test_replicas_teach_a_softmax_layer_alone_the_same(execution):
    create = lambda: SoftmaxLayer(classifier_of("dense", REGULARISED))  # noqa: E731
    *_, images, indices, labels = steps_and_batches(1, "graph", "dense", 2)
    learnt = []
    for devices in (1, 2):
        _, steps = adam_steps(create, devices, execution)
        before = values_of(steps.variables())
        steps.train(0, images[indices], labels=labels[indices])
        after = values_of(steps.variables())
        learnt.append(after)
        for path in (path for path in before if "/encoder/" in path):
            np.testing.assert_array_equal(after[path], before[path])
        assert (after["model/softmax/kernel"] != before["model/softmax/kernel"]).any()
    for path, one in learnt[0].items():
        np.testing.assert_allclose(learnt[1][path], one, rtol=0, atol=1e-5)


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
    for name in ("input_dropout", "hidden_dropout", "code_dropout"):
        one: dict[str, Any] = {name: 0.3}
        assert (loss(classifier_of("dense", FineTuning(**one))) != expected).any(), name
    np.testing.assert_array_equal(regularised(images), plain(images))


def test_dropout_of_hidden_units_is_that_of_their_outputs():
    classifier = classifier_of("dense", FineTuning(hidden_dropout=0.5))
    images, labels = tf.constant(images_like(BATCH, (12, 12, 1))), tf.range(BATCH) % CLASSES
    rows = images
    for layer in classifier.encoder.layers:
        rows = layer(rows)
        if layer.name.startswith("hidden"):
            rows = dropout(rows, 0.5, Noise(0, 0, BATCH), f"{layer.name}_dropout")
    expected = cross_entropy_nats(classifier.softmax(rows), labels)
    terms = classifier.loss_terms(images, context(BATCH, labels=labels))
    np.testing.assert_allclose(terms["cross_entropy"], expected, rtol=1e-6)


def test_without_hidden_dense_layers_there_is_no_hidden_dropout():
    with refused("hidden_dropout=0.5 is not allowed"):
        classifier_of("conv", FineTuning(hidden_dropout=0.5))


def test_label_smoothing_mixes_the_cross_entropy_with_that_of_all_classes():
    logits, labels = tf.constant(images_like(BATCH, (CLASSES,))), tf.range(BATCH) % CLASSES
    every = [cross_entropy_nats(logits, tf.fill([BATCH], label)) for label in range(CLASSES)]
    expected = 0.8 * cross_entropy_nats(logits, labels) + 0.2 * tf.add_n(every) / CLASSES
    np.testing.assert_allclose(cross_entropy_nats(logits, labels, 0.2), expected, rtol=1e-5)
