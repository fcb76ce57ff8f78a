"""A fork of a process that has used TensorFlow is told so, and does not hang."""

import multiprocessing

import numpy as np
import pytest
import tensorflow as tf

from trainer.distribution.inference import in_batches, map_batches
from trainer.distribution.strategy import make_inference_strategy, make_strategy
from trainer.errors import UserError

USES = (
    lambda: make_strategy("cpu:1"),
    make_inference_strategy,
    lambda: map_batches(tf.identity, np.zeros((2, 3), np.float32)),
    lambda: in_batches(tf.identity, (3,), 2),
)


def lines_of(uses):
    """Returns the line with which each use is refused."""
    for use in uses:
        with pytest.raises(UserError) as error:
            use()
        yield str(error.value)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_is_refused_before_its_first_operation():
    assert int(tf.constant(1) + 1) == 2  # here TensorFlow goes on to work
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=lambda: answers.put([*lines_of(USES)]), daemon=True)
    child.start()
    lines = answers.get(timeout=60)
    child.join()
    assert len(lines) == len(USES)
    assert all("get_context('spawn')" in line and "'loky'" in line for line in lines)
    assert [use() is not None for use in USES] == [True] * len(USES)
