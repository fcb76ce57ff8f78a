"""Batches are the examples of their positions, on one worker and on several."""

import numpy as np
import pytest

from trainer import positions
from trainer.data.batches import training_batches

IMAGES = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)


@pytest.mark.parametrize("as_indices", [True, False])
def test_batches_hold_the_examples_of_their_positions(as_indices):
    batches = training_batches(IMAGES, [(0, 3), (3, 4)], 3, 4, seed=7, as_indices=as_indices)
    elements = list(batches.as_numpy_iterator())
    assert [(first, steps) for first, steps, _ in elements] == [(0, 3), (3, 1)]
    for *_, rows in elements:
        assert rows.shape == ((3, 4) if as_indices else (3, 4, 1, 1, 1))
        assert rows.dtype == (np.int32 if as_indices else np.uint8)
    used = np.concatenate([rows[:steps].ravel() for _, steps, rows in elements])
    np.testing.assert_array_equal(used, positions.examples(7, 0, 16, 10))
    assert (elements[1][2][1:] == 0).all()


def test_the_workers_together_draw_each_position_once():
    shares = []
    for worker in range(2):
        rows = slice(2 * worker, 2 * worker + 2)
        batches = training_batches(IMAGES, [(5, 8)], 3, 4, 7, as_indices=True, local_rows=rows)
        shares.append(next(batches.as_numpy_iterator())[2])
    np.testing.assert_array_equal(np.hstack(shares).ravel(), positions.examples(7, 20, 12, 10))
