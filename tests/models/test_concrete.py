"""The concrete kind: how its selectors draw, cool, choose and settle, on any number of replicas."""

import numpy as np
import pytest
import tensorflow as tf

from configs import base
from tests.models import small
from tests.runs import assert_a_stop_changes_no_bit, assert_same_bits, final_state, logged
from tests.steps import adam_steps
from trainer.distribution.strategy import build_model, make_strategy
from trainer.models.concrete.model import distinct_choice
from trainer.positions import Noise
from trainer.training.train import train

SHAPE = (6, 5, 1)
PIXELS = 30
BATCH = 8


def create(image_shape=SHAPE, **settings):
    defaults = {"code_size": 4, "hidden_units": (7,), "images_per_draw": 3}
    return small.create("concrete", image_shape, **defaults | settings)


def choose(model, pixels, certainty=20.0):
    """Gives each selector of a model its pixel of the flattened image."""
    rows = np.zeros((len(pixels), model.logits.shape[1]), np.float32)
    rows[np.arange(len(pixels)), pixels] = certainty
    weights = model.encoder.get_layer("code").weights[0]
    weights.assign(rows / 10.0)  # the selector_rate


def test_positions_of_a_group_share_its_noise_whoever_draws_it():
    def rows(first, count, size):
        groups, own = Noise(0, first, count).shared(size)
        return groups.uniform("x", (2,)).numpy()[own.numpy()]

    for size in (1, 3, 100):
        whole, group_of = rows(5, 12, size), np.arange(5, 17) // size
        _, first, inverse = np.unique(group_of, return_index=True, return_inverse=True)
        assert len(np.unique(whole, axis=0)) == len(first)
        np.testing.assert_array_equal(whole, whole[first][inverse])
        parts = [rows(5, 4, size), rows(9, 7, size), rows(16, 1, size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_the_temperature_falls_exponentially():
    # 10 * (1/1000)**.5 = 10**-.5; before a settled half, the temperature falls twice as fast.
    for share, expected in ((0.0, (10, 10**-0.5, 0.01)), (0.5, (10, 0.01, 0.01))):
        model = create(settled_share=share)
        falling = [float(model.temperature(tf.constant(progress))) for progress in (0.0, 0.5, 1.0)]
        np.testing.assert_allclose(falling, expected, rtol=1e-5)


def test_mixtures_are_near_the_mean_pixel_when_hot_and_single_pixels_when_cold():
    model = create()
    images = small.images_like(BATCH, SHAPE)
    noise = Noise(0, 5, BATCH)
    means = images.reshape(BATCH, -1).mean(axis=1)
    hot = model.mixtures(images, noise, 1e6)
    np.testing.assert_allclose(hot, np.repeat(means[:, None], 4, axis=1), atol=1e-4)
    groups, own = noise.shared(3)
    drawn = model.logits + groups.gumbel("selectors", (4, PIXELS))
    pixels = np.argmax(drawn, axis=-1)[own.numpy()]  # [B, k]
    cold = model.mixtures(images, noise, 1e-6)
    np.testing.assert_allclose(
        cold, np.take_along_axis(images.reshape(BATCH, -1), pixels, axis=1), rtol=1e-6
    )


def test_the_choice_is_the_greedy_one_of_distinct_columns():
    random = np.random.default_rng(0)
    for logits in (  # of all but the last an argmax of each row repeats itself
        np.tile(random.normal(size=9).astype(np.float32), (9, 1)),
        np.zeros((6, 9), np.float32),
        random.integers(0, 2, (6, 9)).astype(np.float32),
        1e30 * random.choice([-1, 1], (6, 9)).astype(np.float32),
        random.normal(size=(6, 9)).astype(np.float32),
    ):
        left, expected = logits.copy(), np.zeros(len(logits), int)
        for _ in expected:
            row, column = np.unravel_index(left.argmax(), left.shape)
            expected[row] = column
            left[row], left[:, column] = -np.inf, -np.inf
        for choose_columns in (distinct_choice, tf.function(distinct_choice, jit_compile=True)):
            np.testing.assert_array_equal(choose_columns(tf.constant(logits)), expected)


def test_a_row_that_is_nan_gets_a_column_that_is_left():
    chosen = distinct_choice(tf.constant([[np.nan] * 3, [0, 1, 0], [2, np.nan, 0]]))
    assert chosen.numpy().tolist() == [2, 1, 0]


def test_the_code_is_the_pixels_and_the_reconstruction_knows_no_others():
    model = build_model(make_strategy("cpu:1"), "bfloat16", create)
    pixels = [7, 0, 29, 13]
    choose(model, pixels)
    images = small.images_like(BATCH, SHAPE)
    np.testing.assert_array_equal(model.encode(images), images.reshape(BATCH, -1)[:, pixels])
    others = small.images_like(BATCH, SHAPE, seed=1).reshape(BATCH, -1)
    others[:, pixels] = images.reshape(BATCH, -1)[:, pixels]
    np.testing.assert_array_equal(model(others.reshape(images.shape)), model(images))
    others[:, pixels[2]] += 0.5
    assert not np.array_equal(model(others.reshape(images.shape)), model(images))


def test_an_evaluation_and_the_settled_steps_take_the_pixels_and_draw_nothing():
    model = create(settled_share=0.25)
    images = small.images_like(BATCH, SHAPE)
    expected = model.error(model.decoder(model.encode(images)), images).numpy()
    for when in (
        small.context(BATCH, progress=0.1, training=False),
        small.context(BATCH, progress=0.75),
        small.context(BATCH, first=99, progress=0.75),
    ):
        np.testing.assert_allclose(model.loss_terms(images, when)["mse"], expected, rtol=1e-5)
    earlier = [small.context(BATCH, first, progress=0.7) for first in (0, 99)]
    one, other = (model.loss_terms(images, when)["mse"] for when in earlier)
    assert not np.allclose(one, other, rtol=1e-3)


def test_a_settled_step_leaves_the_logits_and_teaches_the_decoder():
    model, steps = adam_steps(lambda: create(settled_share=0.5))
    images = np.random.default_rng(0).integers(0, 256, (1, BATCH, *SHAPE)).astype(np.uint8)
    logits, kernel = model.logits.numpy(), model.decoder.get_layer("logits").kernel.numpy()
    steps.train(6, images)  # of 10 steps
    np.testing.assert_array_equal(model.logits, logits)
    assert not np.array_equal(model.decoder.get_layer("logits").kernel, kernel)
    steps.train(4, images)
    assert not np.array_equal(model.logits, logits)


def test_the_logits_step_as_far_as_their_rate_says():
    # Adam's first step is the learning rate, whatever the gradient, but for an epsilon.
    rate = 100.0
    model, steps = adam_steps(lambda: create(selector_rate=rate))
    before = model.logits.numpy()
    assert before.std() == pytest.approx((2 / 34) ** 0.5, rel=0.2)
    images = np.random.default_rng(0).integers(0, 256, (1, BATCH, *SHAPE)).astype(np.uint8)
    steps.train(0, images)
    moved = np.abs(model.logits.numpy() - before)
    assert np.median(moved) == pytest.approx(rate * 1e-3, rel=0.1)
    assert moved.max() <= rate * 1e-3 * 1.001


def test_the_mean_largest_probability_is_that_of_softmax():
    model = create(stop_when_settled=True)
    choose(model, [0, 1, 2, 3], certainty=np.log(29.0))
    assert model.mean_largest_probability() == pytest.approx(1 / 2)  # 29 against 29 of 1
    assert not model.has_converged()
    choose(model, [0, 1, 2, 3], certainty=20.0)
    assert model.has_converged()
    alike = create(stop_when_settled=False)
    choose(alike, [0, 1, 2, 3], certainty=20.0)
    assert not alike.has_converged()


def test_a_run_that_settles_ends_at_its_validation_also_after_a_stop(
    digits_config, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("trainer.models.concrete.model.SETTLED_ABOVE", 0.0)
    digits_config.model = base.get_config("concrete").model
    digits_config.model.update({"code_size": 6, "hidden_units": (8,), "stop_when_settled": True})
    losses = assert_a_stop_changes_no_bit(digits_config, tmp_path, monkeypatch, calls=1, step=2)
    uninterrupted, settled = (
        tmp_path / "alone",
        "ended early at step 5: ",
    )  # of 10: the first validation
    assert capsys.readouterr().out.count(settled) == 2
    assert train(digits_config, str(uninterrupted)) == pytest.approx(losses)
    assert settled in capsys.readouterr().out
    assert_same_bits(uninterrupted, tmp_path / "stopped")
    assert final_state(uninterrupted)[0] == 5
    assert [row["step"] for row in logged(uninterrupted) if row["split"] == "validation"] == [5]


def test_the_selected_pixels_are_marked_where_they_are():
    shape = (6, 5, 3)
    model = create(shape, code_size=3)
    # Row 1, column 2, two of its channels; row 5, column 4, one.
    choose(model, [(1 * 5 + 2) * 3, (1 * 5 + 2) * 3 + 1, (5 * 5 + 4) * 3 + 2])
    images = small.images_like(4, shape)
    grid = model.validation_images(images, Noise(0, 0, len(images)))["selected_pixels"]
    np.testing.assert_array_equal(grid.images, images.mean(axis=0)[np.newaxis])
    assert np.argwhere(grid.marks).tolist() == [[0, 1, 2], [0, 5, 4]]
    assert create((20,)).marked_pixels(small.images_like(4, (20,))) is None
