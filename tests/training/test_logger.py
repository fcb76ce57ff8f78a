"""The metrics of a log row are the means over its steps, also after an interruption."""

import numpy as np
import pytest

from trainer.training.logger import MetricsWindow


def metrics_of(count, seed=0):
    drawn = np.random.default_rng(seed).random((2, count), np.float32)
    ones = np.ones(count, np.float32)
    norms = np.where(np.arange(count) % 2 == 0, drawn[1], np.nan).astype(np.float32)
    settings = {"learning_rate": 0.5 * ones, "loss_scale": ones, "skipped_steps": 0 * ones}
    return {"loss": drawn[0], "gradient_norm": norms, **settings}


@pytest.mark.parametrize("after", [0, 3])
def test_a_window_that_goes_on_from_a_checkpoint_has_the_same_row_but_for_the_speed(after):
    whole, begun = MetricsWindow(), MetricsWindow()
    for window in (whole, begun):
        window.add(metrics_of(5), seconds=2.0)
    resumed = MetricsWindow(before=begun.state())
    assert not resumed.is_empty
    if after:
        for window in (whole, resumed):
            window.add(metrics_of(after, seed=1), seconds=1.0)
    rows = [window.summarise(batch_size=10) for window in (whole, resumed)]
    speeds = [row.pop("images_per_second", None) for row in rows]
    assert rows[0] == rows[1]
    assert speeds == [10 * (5 + after) / (3.0 if after else 2.0), 10 * after / 1.0 or None]
