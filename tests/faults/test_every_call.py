"""A training that is killed at each of its calls that change the disk, start after start."""

import itertools

import pytest

from tests.faults import kills
from tests.faults.test_kills import (
    KILLED,
    ended,
    newest_step,
    tiny_config,
)
from tests.runs import assert_same_record


def kill_at(numbers, folder):
    """Kills one start after the other, each at the next of these numbers of its calls.

    A run that comes to its end before is held to one left alone, and another is begun; the last is
    left to its end. Returns how many starts were killed.
    """
    config = tiny_config("dense", steps=4)
    config.model.hidden_units = (8,)
    config.validate_every_steps = 2
    config.figures = False
    assert ended(config, folder / "alone") == 0
    names = map(str, itertools.count())
    run, killed = folder / next(names), 0
    for number in numbers:
        begun = run.exists()
        before = newest_step(run)
        status = ended(config, run, kills.at_call, number)
        assert status in (0, *KILLED), number
        assert newest_step(run) >= before, number
        killed += status != 0
        if status == 0:
            assert_same_record(run, folder / "alone")
            run = folder / next(names)
            if not begun:  # of a whole run, all are done
                return killed
    assert ended(config, run) == 0
    assert_same_record(run, folder / "alone")
    return killed


@pytest.mark.slow
def test_a_run_killed_at_one_call_after_the_other_ends_as_one_left_alone(tmp_path, drawn):
    assert kill_at([int(drawn.integers(low, low + 12)) for low in (1, 13, 25)], tmp_path) == 3


@pytest.mark.faults
@pytest.mark.parametrize("first", [1, 2])
def test_a_run_killed_at_each_of_its_calls_ends_as_one_left_alone(tmp_path, first):
    assert kill_at(itertools.count(first, 2), tmp_path) >= 40
