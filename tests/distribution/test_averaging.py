"""The average of the weights is that of the weights after each step, in closed form."""

import numpy as np
import pytest

from tests.distribution.noisy_steps import BATCH, SHAPE, images_like, make_steps, weights_of
from tests.marks import slow
from trainer.config import Averaging

EXPONENTIAL, UNIFORM = Averaging(decay=0.9), Averaging(last_share=0.45)
PATH = "encoder/code/kernel"


def each_step(steps, images):
    """Takes a step at a time; yields the metrics, the weights and their average after each."""
    for step in range(len(images)):
        metrics = steps.train(step, images[step : step + 1])
        state = weights_of(steps)
        yield metrics, state[f"model/{PATH}"], state[f"average/{PATH}"]


def exponential(history, decay):
    powers = decay ** np.arange(len(history))[::-1]
    return np.tensordot(powers / powers.sum(), np.array(history), axes=1)


@pytest.mark.parametrize(
    ("devices", "execution"),
    [(1, "graph"), (1, "xla"), (2, "graph"), slow(1, "xla_update"), slow(2, "xla")],
)
def test_an_exponential_average_weighs_each_step_and_forgets_the_initial_weights(
    devices, execution
):
    _, steps = make_steps(devices, execution, averaging=EXPONENTIAL, learning_rate=0.1)
    history = []
    for _, weights, average in each_step(steps, images_like(6, BATCH, *SHAPE)):
        history.append(weights)
        np.testing.assert_allclose(average, exponential(history, 0.9), atol=1e-6)
        if len(history) == 1:
            np.testing.assert_array_equal(average, weights)
    assert np.abs(average - weights).max() > 1e-3


@pytest.mark.parametrize(("devices", "execution"), [(1, "graph"), (2, "xla")])
def test_a_uniform_average_is_the_mean_over_the_last_steps_and_the_weights_before(
    devices, execution
):
    settings = {"averaging": UNIFORM, "last_step": 7, "learning_rate": 0.1}  # the last three
    _, steps = make_steps(devices, execution, **settings)
    history = []
    for _, weights, average in each_step(steps, images_like(7, BATCH, *SHAPE)):
        history.append(weights)
        if len(history) <= 5:
            np.testing.assert_array_equal(average, weights)
        else:
            np.testing.assert_allclose(average, np.mean(history[4:], axis=0), atol=1e-6)


def test_an_average_over_all_steps_or_the_last_begins_there():
    for share, first in ((1.0, 0), (1e-9, 6)):
        settings = {"averaging": Averaging(last_share=share), "last_step": 7}
        _, steps = make_steps(**settings)
        history = [weights for _, weights, _ in each_step(steps, images_like(7, BATCH, *SHAPE))]
        average = weights_of(steps)[f"average/{PATH}"]
        np.testing.assert_allclose(average, np.mean(history[first:], axis=0), atol=1e-6)
        assert weights_of(steps)["averaged_steps"] == 7 - first


@pytest.mark.parametrize("devices", [1, 2])
def test_a_step_that_float16_skips_does_not_enter_the_average(devices):
    _, steps = make_steps(devices, precision="float16", averaging=EXPONENTIAL)
    steps.optimizer.dynamic_scale.assign(2.0**30)
    history, skipped = [], 0
    for metrics, weights, average in each_step(steps, images_like(30, BATCH, *SHAPE)):
        if metrics["skipped_steps"][0]:
            skipped += 1
        else:
            history.append(weights)
        if history:
            np.testing.assert_allclose(average, exponential(history, 0.9), atol=1e-6)
    assert skipped
    assert weights_of(steps)["averaged_steps"] == len(history) > 3


def test_an_evaluation_is_of_the_average_and_leaves_the_weights():
    images = images_like(9, *SHAPE)
    model, steps = make_steps(2, averaging=EXPONENTIAL, learning_rate=0.1)
    _, plain = make_steps(2)
    steps.train(0, images_like(4, BATCH, *SHAPE))
    before = weights_of(steps)
    losses = steps.evaluate(images)
    with steps.average.in_use():
        assert steps.evaluate(images) == losses
        kernel = model.encoder.get_layer("code").kernel
        np.testing.assert_array_equal(kernel, before[f"average/{PATH}"])
    for path, weights in weights_of(steps).items():
        np.testing.assert_array_equal(weights, before[path])
    for path, variable in plain.variables().items():
        if path.startswith("model/"):
            variable.assign(before[path.replace("model/", "average/", 1)])
    assert losses == plain.evaluate(images)
    with pytest.raises(ZeroDivisionError), steps.average.in_use():
        raise ZeroDivisionError
    np.testing.assert_array_equal(model.encoder.get_layer("code").kernel, before[f"model/{PATH}"])
