"""Where the wall time goes: exact under a clock that the test moves, and over restarts."""

import json
import os
import signal

import pytest

from tests.runs import stop_after
from trainer.errors import Preempted
from trainer.evaluation.evaluate import evaluate
from trainer.monitoring import goodput
from trainer.monitoring.goodput import CAUSES, FILE, Clock
from trainer.training.train import train


class Time:
    """A clock that the test moves."""

    seconds = 1000.0

    def __call__(self):
        return self.seconds

    def spend(self, seconds):
        self.seconds += seconds


def train_calls(time, clock, calls):
    """Spends (first step, steps, seconds) per call, after a wait of a second for its batch."""

    def batches():
        for call in calls:
            time.spend(1)
            yield call

    for first, count, seconds in clock.waits_for(batches()):
        with clock.spent_on_steps(first, count):
            time.spend(seconds)


def shares_of(**seconds):
    whole = sum(seconds.values())
    return dict.fromkeys(CAUSES, 0.0) | {cause: spent / whole for cause, spent in seconds.items()}


def test_each_second_counts_once_to_the_cause_that_it_was_spent_on():
    time = Time()
    clock = Clock(now=time, began_seconds=time() - 4)
    time.spend(6)
    train_calls(time, clock, [(0, 1, 5), (1, 10, 20), (11, 10, 30)])
    with clock.spent_on("validation"):
        time.spend(3)
        with clock.spent_on("checkpoint"):
            time.spend(2)
        time.spend(4)
    time.spend(23)
    assert clock.shares() == shares_of(
        start_up=10, compile=5, steps=50, data=3, validation=7, checkpoint=2, other=23
    )
    assert str(clock) == (
        "goodput 50.0% of 0:01:40 in 1 start: start-up 10.0%, compiling 5.0%, "
        "waiting for data 3.0%, checkpoints 2.0%, validation 7.0%, other 23.0%"
    )


def test_the_time_of_a_call_that_fails_counts_and_its_steps_do_not(tmp_path):
    time = Time()
    clock = Clock(now=time)
    with pytest.raises(ZeroDivisionError), clock.spent_on_steps(0, 5):
        time.spend(2)
        raise ZeroDivisionError
    assert clock.shares() == shares_of(compile=2)
    clock.write(tmp_path)
    assert json.loads((tmp_path / FILE).read_text())["step"] == 0


def test_three_starts_add_up_and_repeated_steps_are_no_goodput(tmp_path):
    time = Time()

    def start(start_up_seconds, calls):
        clock = Clock(now=time)
        clock.resume(tmp_path)
        time.spend(start_up_seconds)
        train_calls(time, clock, calls)
        clock.write(tmp_path)
        time.spend(500)  # until somebody starts it again
        return clock

    start(2, [(0, 10, 3), (10, 10, 10), (20, 10, 10)])  # to step 30
    start(2, [(10, 5, 3), (15, 15, 14), (30, 10, 10)])  # from a checkpoint of step 10
    last = start(0, [(20, 1, 3), (21, 19, 16), (40, 10, 10)])  # from step 20, of 40 steps taken
    written = goodput.metrics(tmp_path)
    assert "in 3 starts" in str(last)
    assert written.pop("wall_seconds") == 92
    expected = shares_of(start_up=4, compile=9, data=9, steps=40, repeated=30)
    assert written == pytest.approx({f"goodput/{cause}": x for cause, x in expected.items()})


def test_steps_that_are_repeated_after_a_roll_back_are_no_goodput():
    time = Time()
    clock = Clock(now=time)
    train_calls(time, clock, [(0, 10, 3), (10, 10, 10)])
    clock.go_back()
    train_calls(time, clock, [(5, 10, 7), (15, 5, 4), (20, 10, 10)])
    assert clock.shares() == shares_of(compile=3, steps=20, repeated=11, data=5)


def test_log_rows_in_quick_succession_do_not_each_write_the_file(tmp_path):
    time = Time()
    clock = Clock(now=time)
    time.spend(1)
    clock.write_if_due(tmp_path)
    assert not (tmp_path / FILE).exists()
    time.spend(60)
    clock.write_if_due(tmp_path)
    assert goodput.metrics(tmp_path)["wall_seconds"] == 61


@pytest.mark.parametrize(
    "content", ["", "[]", '{"starts": 1}', '{"starts": NaN, "step": 0, "seconds": {}}']
)
def test_a_damaged_file_is_reported_and_counts_as_missing(tmp_path, capsys, content):
    (tmp_path / FILE).write_text(content)
    clock = Clock(now=Time())
    clock.resume(tmp_path)
    assert "GOODPUT DAMAGED" in capsys.readouterr().err
    assert "in 1 start" in str(clock)
    assert goodput.metrics(tmp_path) == {}


def test_a_run_that_crashed_and_was_stopped_says_where_its_time_went(
    digits_config, tmp_path, monkeypatch, capsys
):
    def crash():
        raise ZeroDivisionError

    def stop():
        os.kill(os.getpid(), signal.SIGTERM)

    # The crash is within the call from step 4 to 5, after the row of step 4.
    for calls, how, error in ((3, crash, ZeroDivisionError), (2, stop, Preempted)):
        with monkeypatch.context() as patch, pytest.raises(error):
            stop_after(patch, calls, how)
            train(digits_config, str(tmp_path))
        assert json.loads((tmp_path / FILE).read_text())["step"] == 4
    assert json.loads((tmp_path / FILE).read_text())["seconds"]["repeated"] > 0
    train(digits_config, str(tmp_path))
    printed = capsys.readouterr().out.splitlines()[-1]
    assert printed.startswith("goodput ")
    assert "in 3 starts" in printed

    measured = evaluate(str(tmp_path))
    shares = [measured[f"goodput/{cause}"] for cause in CAUSES]
    assert sum(shares) == pytest.approx(1)
    assert min(shares) > 0
