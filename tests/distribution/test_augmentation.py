"""Augmentation of training images: closed forms, and the same bits by position."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests.models import small
from tests.runs import assert_a_stop_changes_no_bit, small_config
from tests.steps import adam_steps
from tests.verbs.refusals import refused
from trainer.config import Augment, defaults, parse
from trainer.distribution import xla
from trainer.distribution.augmentation import augmented
from trainer.errors import UserError
from trainer.positions import Noise
from trainer.training.train import train

SHAPE = (6, 8, 3)
ALL = Augment(True, 2, 0.3, 0.2, 0.4, 0.3)


def changed(images, first=0, **keys):
    return augmented(tf.constant(images), Augment(**keys), Noise(0, first, len(images))).numpy()


def shifted(image, down, right):
    """An image moved by whole pixels, its border repeated."""
    k = max(abs(down), abs(right))
    padded = np.pad(image, ((k, k), (k, k), (0, 0)), mode="edge")
    return np.roll(padded, (down, right), axis=(0, 1))[k : k + SHAPE[0], k : k + SHAPE[1]]


def test_without_augmentation_images_are_passed_on():
    images = tf.constant(small.images_like(3, SHAPE))
    assert augmented(images, Augment(), Noise(0, 0, 3)) is images


def test_a_flip_is_the_mirror_of_half_the_images():
    images = small.images_like(400, SHAPE)
    flipped = changed(images, flip=True)
    mirrored = (flipped == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert ((flipped == images).all(axis=(1, 2, 3)) != mirrored).all()
    assert 150 < mirrored.sum() < 250  # 5 standard deviations


def test_a_shift_moves_whole_pixels_and_repeats_the_border():
    images = np.repeat(small.images_like(1, SHAPE), 300, axis=0)
    candidates = {by: shifted(images[0], *by) for by in itertools.product(range(-2, 3), repeat=2)}
    counts = dict.fromkeys(candidates, 0)
    for seen in changed(images, shift_pixels=2):
        (by,) = [by for by, one in candidates.items() if np.array_equal(seen, one)]
        counts[by] += 1
    assert min(counts.values()) > 0


def test_a_zoom_magnifies_about_the_centre():
    # Linear interpolation of a ramp is a ramp: its slope is scaled, and its centre stays.
    ramp = np.broadcast_to(np.linspace(0.1, 0.9, 8, dtype=np.float32)[:, np.newaxis], SHAPE)
    zoomed = changed(np.repeat(ramp[np.newaxis], 100, axis=0), zoom=0.5)
    slopes = np.diff(zoomed, axis=2)
    scales = slopes[:, 0, 0, 0] / (0.8 / 7)
    np.testing.assert_allclose(
        slopes, np.broadcast_to(slopes[:, :1, :1, :1], slopes.shape), 0, 1e-6
    )
    np.testing.assert_allclose(zoomed.mean(axis=(1, 2, 3)), 0.5, atol=1e-6)
    assert 0.5 < scales.min() < 0.55 < 0.95 < scales.max() <= 1
    flat = np.full((5, *SHAPE), 0.7, np.float32)
    np.testing.assert_array_equal(changed(flat, zoom=0.5, shift_pixels=3), flat)


def test_brightness_contrast_and_channel_gain_change_means_and_differences():
    images = 0.4 + 0.2 * small.images_like(300, SHAPE)  # no pixel is clipped
    means = images.mean(axis=(1, 2), keepdims=True)
    added = changed(images, brightness=0.3) - images
    np.testing.assert_allclose(added, added[:, :1, :1, :1] + 0 * images, atol=1e-6)
    scaled = changed(images, contrast=0.3)
    np.testing.assert_allclose(scaled.mean(axis=(1, 2), keepdims=True), means, atol=1e-6)
    factors = (scaled.std(axis=(1, 2)) / images.std(axis=(1, 2)))[:, :1]
    expected = means + factors[:, np.newaxis, np.newaxis] * (images - means)
    np.testing.assert_allclose(scaled, expected, atol=1e-6)
    gains = changed(images, channel_gain=0.3) / images
    np.testing.assert_allclose(gains, gains[:, :1, :1] + 0 * images, atol=1e-5)
    assert np.ptp(gains, axis=3).max() > 0.1
    for drawn in (added[:, 0, 0, 0], factors - 1, gains[:, 0, 0] - 1):
        assert -0.3001 < drawn.min() < -0.28
        assert 0.28 < drawn.max() < 0.3001
        assert abs(drawn.mean()) < 5 * 0.3 / np.sqrt(3 * len(drawn))
    full = changed(np.ones((9, *SHAPE), np.float32), brightness=1.0, channel_gain=1.0)
    assert full.min() >= 0
    assert full.max() == 1


def test_an_example_is_changed_by_its_position_alone():
    images = np.repeat(small.images_like(1, SHAPE), 6, axis=0)
    keys = {name: getattr(ALL, name) for name in ("flip", "shift_pixels", "zoom", "contrast")}
    seen = changed(images, 10, **keys)
    assert len(np.unique(seen.reshape(6, -1), axis=0)) == 6
    np.testing.assert_array_equal(changed(images[:2], 13, **keys), seen[3:5])


def create():
    """A kind with a penalty on means over the batch."""
    settings = {"sparsity": "kl", "code_activation": "sigmoid", "code_size": 3}
    return small.create("sparse", SHAPE, **settings)


def batches_like(count):
    return np.random.default_rng(0).integers(0, 256, (count, 8, *SHAPE)).astype(np.uint8)


def trained(images, devices, execution, *, cached):
    _, steps = adam_steps(create, devices, execution, augment=ALL)
    batches = images
    if cached:
        assert steps.cache_on_device(images.reshape(-1, *SHAPE))
        batches = np.arange(len(images) * 8, dtype=np.int32).reshape(-1, 8)
    metrics = [steps.train(0, batches[:2], 2), steps.train(2, batches[2:], 1)]
    return {name: np.concatenate([one[name] for one in metrics]) for name in metrics[0]}


@pytest.fixture(scope="module")
def expected():
    return trained(batches_like(4), 1, "graph", cached=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "execution"), [(1, "xla"), (1, "xla_products"), (4, "graph"), (2, "xla")]
)
def test_every_execution_number_of_replicas_and_placement_augments_alike(
    devices, execution, expected, monkeypatch
):
    monkeypatch.setattr(xla, "CUT_SIZE", 3)  # of images at a time, by matrix products
    images = batches_like(4)
    found = trained(images, devices, execution, cached=False)
    cached = trained(images, devices, execution, cached=True)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4)
        np.testing.assert_array_equal(cached[name], found[name])


def test_a_step_learns_from_changed_images_and_an_evaluation_sees_them_as_they_are():
    images = batches_like(1)
    _, steps = adam_steps(create, augment=ALL)
    model, without = adam_steps(create)
    assert steps.evaluate(images[0]) == without.evaluate(images[0])
    seen = augmented(images[0] / np.float32(255), ALL, Noise(0, 0, 8))
    means = tf.reduce_mean(model.statistics(seen), axis=0)
    terms = model.loss_terms(seen, small.context(8, batch_means=means))
    metrics = steps.train(0, images)
    for name, term in terms.items():
        expected = pytest.approx(float(tf.reduce_mean(term)), rel=1e-5)
        assert metrics[f"loss/{name}"][0] == expected


@pytest.mark.slow
def test_a_run_that_is_stopped_augments_as_one_that_is_left_alone(tmp_path, monkeypatch):
    config = small_config()
    config.augment.update({"flip": True, "shift_pixels": 2, "zoom": 0.2, "brightness": 0.1})
    assert_a_stop_changes_no_bit(config, tmp_path, monkeypatch, calls=2, step=4)


def test_what_cannot_be_augmented_is_refused(tmp_path):
    config = small_config()
    config.augment.shift_pixels = 28
    with refused("augment.shift_pixels=28 is not allowed; the images have sides of 28", tmp_path):
        train(config, str(tmp_path / "run"))
    with pytest.raises(UserError, match=r"augment\.zoom=0\.2 is not allowed for vectors"):
        Augment(zoom=0.2).check_images((5,))
    binary = defaults()
    binary.data.binarise = True
    binary.augment.update({"flip": True, "shift_pixels": 1})
    parse(binary)
    binary.augment.contrast = 0.2
    with pytest.raises(UserError, match=r"augment\.contrast=0\.2 .*data\.binarise=True"):
        parse(binary)
