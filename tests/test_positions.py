import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from trainer import positions
from trainer.positions import Noise


@given(seed=st.integers(0, 2**31), epoch=st.integers(0, 1000), size=st.integers(1, 300))
def test_an_epoch_is_a_permutation(seed, epoch, size):
    assert sorted(positions.permutation(seed, epoch, size)) == list(range(size))


def test_seeds_and_epochs_have_orders_of_their_own():
    orders = {tuple(positions.permutation(seed, epoch, 50)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


def test_the_order_is_fixed_for_ever():
    # A change here would break the resume of every run there is.
    assert positions.permutation(0, 0, 8).tolist() == [2, 6, 5, 7, 4, 3, 0, 1]


@given(size=st.integers(1, 40), batch=st.integers(1, 17), epochs=st.integers(1, 4))
def test_batches_across_epoch_borders_draw_each_example_once_an_epoch(size, batch, epochs):
    steps = -(-size * epochs // batch)
    drawn = np.concatenate([positions.examples(3, k * batch, batch, size) for k in range(steps)])
    for epoch in range(epochs):
        assert sorted(drawn[epoch * size : (epoch + 1) * size]) == list(range(size))


@pytest.mark.parametrize("draw", ["normal", "uniform"])
def test_noise_belongs_to_the_position_and_not_to_the_batch(draw):
    for elements in ((1,), (7,), (8,), (2, 3, 1)):
        whole = getattr(Noise(5, 100, 8), draw)("z", elements)
        parts = [getattr(Noise(5, first, 4), draw)("z", elements) for first in (100, 104)]
        np.testing.assert_array_equal(whole, tf.concat(parts, 0))


def test_one_of_the_positions_has_its_noise():
    noise = Noise(5, 100, 8, stream="evaluation")
    np.testing.assert_array_equal(noise.of(3).uniform("z", (7,)), noise.uniform("z", (7,))[3:4])


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("count", [1, 4, 7])
def test_shared_noise_has_a_row_for_each_group_that_positions_can_touch(count, size):
    shared = [Noise(0, first, count).shared(size) for first in range(size)]
    most = max(int(own[-1]) + 1 for _, own in shared)
    assert {len(groups.uniform("z", (1,))) for groups, _ in shared} == {most}


def test_noise_is_the_same_compiled():
    def draw(first):
        return Noise(5, first, 8).uniform("z", (7,))

    first = tf.constant(2**40 + 3, tf.int64)
    for jit_compile in (False, True):
        compiled = tf.function(draw, jit_compile=jit_compile)
        np.testing.assert_array_equal(draw(first), compiled(first))


def test_positions_purposes_seeds_and_streams_draw_different_numbers():
    draws = [Noise(*key).normal("z", (4,)) for key in ((0, 0, 2), (0, 2, 2), (1, 0, 2))]
    draws += [Noise(0, 0, 2).normal("corruption", (4,))]
    draws += [Noise(0, 0, 2, stream="evaluation").normal("z", (4,))]
    assert len(np.unique(np.stack(draws))) == 5 * 8


def test_noise_has_the_distribution_that_it_names():
    normal = Noise(0, 0, 1000).normal("z", (101,)).numpy()
    uniform = Noise(0, 0, 1000).uniform("z", (101,)).numpy()
    gumbel = Noise(0, 0, 1000).gumbel("z", (101,)).numpy()
    # 101,000 draws: the standard error of the means is .0031, .0009 and .0040.
    assert abs(normal.mean()) < 0.015
    assert abs(normal.std() - 1) < 0.01
    assert abs(uniform.mean() - 0.5) < 0.005
    assert 0 <= uniform.min() < uniform.max() < 1
    assert abs(gumbel.mean() - np.euler_gamma) < 0.02
    assert abs(gumbel.std() - np.pi / np.sqrt(6)) < 0.02
    np.testing.assert_allclose(np.exp(-np.exp(-gumbel.astype(np.float64))), uniform, atol=1e-6)


def test_gumbel_numbers_are_finite_at_both_ends(monkeypatch):
    ends = tf.constant([[0.0, 1 - 2.0**-24]])
    monkeypatch.setattr(Noise, "uniform", lambda *_: ends)
    # -log(25 log 2), and -log of what log(1 - 2**-24) is but for a millionth
    drawn = Noise(0, 0, 1).gumbel("z", (2,))
    np.testing.assert_allclose(drawn, [[-2.8523, 24 * np.log(2)]], rtol=1e-4)
