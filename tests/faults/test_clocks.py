"""A clock that is set back or forward during a run costs it no bit, and no chart."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.faults import kills
from tests.faults.test_kills import tiny_config
from tests.runs import assert_same_record, charts
from trainer.monitoring.goodput import metrics
from trainer.training.train import train

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parent.parent.parent
HOUR, DAY = 3600, 24 * 3600
STARTS = (  # the clock at first, after the third step, and whether the start is killed in the end
    (DAY, 0, True),
    (-HOUR, 0, True),
    (-DAY, 0, True),
    (HOUR, 0, False),
)


def faked(folder):
    """The environment of processes whose clock goes wrong by the seconds in a file, and that file.

    The monotonic clock, which nobody can set, goes on as ever.
    """
    libraries = list(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not libraries:
        pytest.skip("Debian's libfaketime is needed")
    offset = folder / "offset"
    offset.write_text("+0")
    return os.environ | {
        "LD_PRELOAD": str(libraries[0]),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }, offset


def set_clock(offset, seconds):
    before = time.time() - float(offset.read_text())
    offset.write_text(f"{seconds:+}")
    assert abs(time.time() - seconds - before) < 60


def child(run, offset, first, later, killed):
    """A training whose clock is set before it and after its third step, and that may be killed."""
    set_clock(Path(offset), int(first))
    calls = "trainer.distribution.step.Steps.train"
    kills.within(calls, 3, lambda: set_clock(Path(offset), int(later)))
    if killed == "True":
        kills.within(calls, 5)
    train(tiny_config("dense", steps=16), run)


def test_a_clock_that_jumps_costs_nothing(tmp_path):
    environment, offset = faked(tmp_path)
    train(tiny_config("dense", steps=16), str(tmp_path / "alone"))
    run = tmp_path / "run"
    for first, later, killed in STARTS:
        program = "import sys; from tests.faults.test_clocks import child; child(*sys.argv[1:])"
        arguments = map(str, (run, offset, first, later, killed))
        ended = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == (-signal.SIGKILL if killed else 0), ended.stderr
    assert_same_record(run, tmp_path / "alone")
    for part in ("train", "validation"):
        shown = EventAccumulator(str(run / part), size_guidance={"tensors": 0}).Reload()
        steps = [event.step for event in shown.Tensors("loss")]
        assert steps == charts(tmp_path / "alone", part)["loss"]
    assert 0 < metrics(run)["wall_seconds"] < HOUR
