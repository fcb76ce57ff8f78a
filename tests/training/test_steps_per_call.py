"""How many steps a call takes, and where it ends; neither changes a bit."""

import itertools

import pytest

from tests.all_configs import load_config
from tests.runs import assert_same_bits
from trainer.training.steps_per_call import StepsPerCall, due, log_windows, step_ranges
from trainer.training.train import train


def test_what_is_due_is_due_at_its_multiples_and_at_the_end():
    for every, expected in ((1, [1, 2, 3, 4, 5, 6]), (4, [4, 6]), (0, [6])):
        assert [step for step in range(1, 7) if due(step, every, last_step=6)] == expected


def test_calls_end_wherever_the_weights_are_needed(digits_config):
    pace = StepsPerCall(steps_per_call=4, step_bytes=1)
    ranges = list(step_ranges(0, 11, digits_config, pace))
    assert ranges == [(0, 4), (4, 5), (5, 9), (9, 10), (10, 11)]
    assert list(step_ranges(5, 11, digits_config, pace)) == ranges[2:]
    assert list(step_ranges(11, 11, digits_config, pace)) == []
    with_border = step_ranges(5, 11, digits_config, pace, borders=(7,))
    assert list(with_border) == [(5, 7), (7, 10), (10, 11)]


def test_a_call_is_logged_in_windows_that_end_wherever_a_row_is_due(digits_config):
    digits_config.log_every_steps = 100
    windows = list(log_windows(50, 400, digits_config, end_step=10_000))
    assert windows == [(50, 100), (100, 200), (200, 300), (300, 400)]
    for end_step in (450, 10_000):
        assert list(log_windows(400, 450, digits_config, end_step)) == [(400, 450)]


def test_calls_grow_until_they_take_half_a_second():
    pace = StepsPerCall(steps_per_call=0, step_bytes=2**18)
    assert pace.max_steps == 64
    lengths = []
    for first, last in itertools.islice(step_ranges(0, 10_000, load_config("dense"), pace), 16):
        lengths.append(last - first)
        # The first call compiles; a step takes 0.02 seconds. Plans are made four calls ahead.
        pace.plan(pace.next_count(last - first, 5.0 if first == 0 else 0.02 * (last - first)))
    assert lengths == [1, 1, 1, 1, 1, 4, 4, 4, 4, 16, 16, 16, 16, 25, 25, 25]


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"steps_per_call": 1}, {"validate_every_steps": 1}])
def test_calls_of_one_step_change_no_bit(digits_config, tmp_path, changes):
    digits_config.update({"execution": "xla", "steps_per_call": 5})
    train(digits_config, str(tmp_path / "long"))
    digits_config.update(changes)
    train(digits_config, str(tmp_path / "short"))
    assert_same_bits(tmp_path / "short", tmp_path / "long")
