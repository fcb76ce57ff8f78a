"""Kills one of two workers, and measures the seconds until the other one ends."""

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from benchmarks.gpu_check.children import ROOT
from benchmarks.gpu_check.plan import UNINTERRUPTED
from trainer.run.metrics_log import MetricsLog
from trainer.run.workdir import METRICS_LOG

_WAIT_SECONDS = 60.0
_PAUSE_SECONDS = 0.1


def seconds_to_end(workdir: str, changes: Mapping[str, Any]) -> float:
    """Returns how long worker 0 runs after a SIGKILL of worker 1 in the middle of a training."""
    endless = {"data.name": "digits", "batch_size": 128, "num_epochs": 1e5}
    with _launched(workdir, endless | UNINTERRUPTED | dict(changes)) as launcher:
        survivor, victim = _workers(launcher)
        victim.kill()
        began = time.monotonic()
        survivor.wait(_WAIT_SECONDS)
        return time.monotonic() - began


@contextlib.contextmanager
def _launched(workdir: str, settings: Mapping[str, Any]) -> Iterator[psutil.Process]:
    """Starts a training on two workers; enters the block after its first log row, then kills it."""
    command = [
        *(sys.executable, "-m", "launch.local", "--workers=2", "--max_restarts=0", "--"),
        *(f"--config={ROOT}/configs/dense.py", f"--workdir={workdir}"),
        *(f"--config.{key}={value}" for key, value in settings.items()),
    ]
    log = MetricsLog(Path(workdir) / METRICS_LOG)
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors)
        launcher = psutil.Process(process.pid)
        try:
            while not any(row["split"] == "train" for row in log.rows()):
                if process.poll() is not None:
                    errors.seek(0)
                    last = next(reversed(errors.read().splitlines()), "no message")
                    raise RuntimeError(f"launch.local ended with status {process.poll()}: {last}")
                time.sleep(_PAUSE_SECONDS)
            yield launcher
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in launcher.children():
                    child.kill()
            process.send_signal(signal.SIGKILL)
            process.wait()


def _workers(launcher: psutil.Process) -> list[psutil.Process]:
    """Returns the workers in order; other children of the launcher have no TF_CONFIG."""
    found = [child for child in launcher.children() if "TF_CONFIG" in child.environ()]
    return sorted(found, key=lambda worker: '"index": 1' in worker.environ()["TF_CONFIG"])
