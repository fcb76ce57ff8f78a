"""Several workers that are killed or stopped, again and again, end as workers left alone."""

import contextlib
import itertools
import re
import signal
import time

import psutil
import pytest

from tests.launched import LAUNCHER, Launched
from tests.runs import assert_same_bits, assert_same_charts, await_step, logged
from trainer.run import workdir

pytestmark = pytest.mark.faults

EVERY_STEPS = 20  # a validation and a checkpoint
MOMENTS = ("start-up", "steps", "validation", "save")
SETTINGS = {
    "data.name": "digits",
    "batch_size": 64,
    "num_epochs": 15.0,  # 321 steps
    "optimizer.warmup_steps": 0,
    "execution": "graph",
    "steps_per_call": 4,
    "log_every_steps": 10,
    "validate_every_steps": EVERY_STEPS,
    "checkpoint_every_steps": EVERY_STEPS,
    "startup_timeout_seconds": 40.0,  # that one waits for another that a signal has ended
    "figures": False,
}


def await_moment(moment, run, launched, start_seconds, random):
    """Returns in the start-up, or in later steps, a later validation or save than is logged."""
    if moment == "start-up":
        time.sleep(random.uniform(0, start_seconds))
        return
    rows = logged(run) if (run / workdir.METRICS_LOG).exists() else []
    last = max([row["step"] for row in rows], default=0)
    await_step(run, last + int(random.integers(1, 2 * EVERY_STEPS)), launched)
    while moment == "validation":  # its row follows that of training at the same step
        assert launched.poll() is None
        row = logged(run)[-1]
        if row["split"] == "train" and row["step"] % EVERY_STEPS == 0:
            return
    while moment == "save" and not list((run / workdir.CHECKPOINTS).glob(".writing-*")):
        assert launched.poll() is None
    if moment == "steps":
        time.sleep(random.uniform(0, 0.1))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run that nobody disturbs, and how long its start took."""
    run = tmp_path_factory.mktemp("alone") / "run"
    began = time.monotonic()
    with Launched(run, SETTINGS) as launched:
        await_step(run, 1, launched)
        start_seconds = time.monotonic() - began
        assert launched.end() == 0, launched.output()
    return run, start_seconds


def assert_ends_alike(run, alone):
    assert_same_bits(alone, run)
    assert_same_charts(run, alone)


@pytest.mark.parametrize(
    ("who", "number"),
    [
        *itertools.product((0, 1), (signal.SIGKILL, signal.SIGTERM)),
        (LAUNCHER, signal.SIGKILL),
    ],
)
def test_a_process_is_stopped_or_killed_at_any_moment(who, number, alone, tmp_path, drawn):
    run, (undisturbed, start_seconds) = tmp_path / "run", alone
    with contextlib.ExitStack() as scope:
        launched = scope.enter_context(Launched(run, SETTINGS))
        workers = launched.workers_after({})
        for moment in MOMENTS:
            await_moment(moment, run, launched, start_seconds, drawn)
            launched.send(who, number)
            workers = launched.workers_after(workers)
            if not workers:
                assert launched.end() in (75, -number), launched.output()
                launched = scope.enter_context(Launched(run, SETTINGS))
                workers = launched.workers_after({})
        assert launched.end() == 0, launched.output()
    assert_ends_alike(run, undisturbed)


@pytest.mark.parametrize(("who", "seconds", "restarts"), [(0, 5, 0), (1, 5, 0), (1, 60, 1)])
def test_a_worker_that_stands_still_for_a_while(who, seconds, restarts, alone, tmp_path):
    run = tmp_path / "run"
    with Launched(run, SETTINGS) as launched:
        await_step(run, 2 * EVERY_STEPS, launched)
        stopped = launched.workers()[who]
        stopped.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        with contextlib.suppress(psutil.NoSuchProcess):
            stopped.send_signal(signal.SIGCONT)
        assert launched.end() == 0, launched.output()
        assert launched.output().count("restarting all workers") == restarts
        if restarts:
            line = f"worker {1 - who} .* ends, since another worker has ended or does not answer"
            assert re.search(line, launched.output())
    assert_ends_alike(run, alone[0])
