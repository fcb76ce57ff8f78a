"""A long run takes no more than a short one: memory, files, threads, disk.

Two minutes in make test-faults; LONG_RUN_SECONDS=3600 makes it an hour.
"""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.runs import charts, logged, report
from trainer.errors import Preempted
from trainer.run import workdir
from trainer.training.logger import has_figures

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parent.parent.parent
SECONDS = float(os.environ.get("LONG_RUN_SECONDS") or 120)
EVERY_STEPS = 1000  # a validation with figures and a checkpoint
KEPT = 2
SETTINGS = {
    "data.name": "digits",
    "num_epochs": 1e9,
    "optimizer.schedule": "constant",
    "log_every_steps": EVERY_STEPS // 5,
    "validate_every_steps": EVERY_STEPS,
    "checkpoint_every_steps": EVERY_STEPS,
    "keep_checkpoints": KEPT,
    "histograms": True,
}
MOST_GROWTH_BYTES = 24 * 2**20  # of memory, once it is warm; the allocators' breath is half of it
MOST_PICTURED_BYTES = 2**20  # of one validation
MOST_LOGGED_BYTES = 2**13  # of one row of the log, in the event files and in metrics.jsonl


def measured(process):
    """What a process has of the machine: memory in bytes, open files, threads."""
    with process.oneshot():
        return process.memory_info().rss, process.num_fds(), process.num_threads()


def size_bytes(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_long_run_takes_no_more_than_a_short_one(tmp_path):
    run, samples = tmp_path / "run", []
    flags = [f"--config.{key}={value}" for key, value in SETTINGS.items()]
    command = [sys.executable, "-m", "trainer", "--config=configs/dense.py", f"--workdir={run}"]
    with (tmp_path / "console").open("w") as console:
        process = psutil.Popen([*command, *flags], cwd=ROOT, stdout=console, stderr=console)
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and process.poll() is None:
            samples.append(measured(process))
            time.sleep(SECONDS / 1000)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == Preempted.exit_status, (tmp_path / "console").read_text()[-2000:]

    quarters = np.array_split(np.array(samples), 4)
    warm, last = (np.median(quarter, axis=0) for quarter in (quarters[1], quarters[3]))
    most, most_last = (quarter.max(axis=0) for quarter in (quarters[1], quarters[3]))
    rows = logged(run)
    validations = sum(row["split"] == "validation" for row in rows)
    print(f"{rows[-1]['step']:,} steps, {validations:,} validations; bytes, files and threads:")
    print(f"{warm} then {last}, at most {most} then {most_last}; {size_bytes(run):,} bytes on disk")
    assert last[0] - warm[0] < MOST_GROWTH_BYTES
    assert (most_last[1:] <= most[1:]).all()
    lines, damaged = report(run)
    assert damaged == 0
    assert len(lines) <= KEPT + 1  # the best
    pictured = [number for number in range(1, validations + 1) if has_figures(number)]
    shown = charts(run, "validation")["reconstructions"]
    assert shown == [number * EVERY_STEPS for number in pictured]
    allowed = MOST_LOGGED_BYTES * len(rows) + MOST_PICTURED_BYTES * (len(pictured) + 1)
    assert size_bytes(run) - size_bytes(run / workdir.CHECKPOINTS) < allowed
