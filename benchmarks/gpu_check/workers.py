"""Two workers, one of which is killed: the seconds until the other one ends."""

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
from trainer.run.metrics_log import MetricsLog
from trainer.run.workdir import METRICS_LOG

_WAIT_SECONDS = 60.0
_PAUSE_SECONDS = 0.1


def seconds_to_end(folder: str, changes: Mapping[str, Any]) -> float:
    """Return how long worker 0 runs on after a SIGKILL of worker 1, in the midst of a training."""
    settings = {
        "data.name": "digits",
        "batch_size": 128,
        "num_epochs": 1e5,
        "validate_every_steps": 0,
        "checkpoint_every_steps": 0,
        "pictures": False,
    }
    with _launched(folder, settings | dict(changes)) as launcher:
        survivor, victim = _workers(launcher)
        victim.kill()
        began = time.monotonic()
        survivor.wait(_WAIT_SECONDS)
        return time.monotonic() - began


@contextlib.contextmanager
def _launched(folder: str, settings: Mapping[str, Any]) -> Iterator[psutil.Process]:
    """Start a training by two workers; begin once it has logged, and end all of its processes."""
    command = [
        *(sys.executable, "-m", "launch.local", "--workers=2", "--max_restarts=0", "--"),
        *(f"--config={ROOT}/configs/dense.py", f"--workdir={folder}"),
        *(f"--config.{key}={value}" for key, value in settings.items()),
    ]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors)
        launcher = psutil.Process(process.pid)
        try:
            while not _has_logged(Path(folder)):
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


def _has_logged(run: Path) -> bool:
    return any(row["split"] == "train" for row in MetricsLog(run / METRICS_LOG).rows())


def _workers(launcher: psutil.Process) -> list[psutil.Process]:
    """Return the workers in their order; what guards them has no TF_CONFIG."""
    found = [child for child in launcher.children() if "TF_CONFIG" in child.environ()]
    return sorted(found, key=lambda worker: '"index": 1' in worker.environ()["TF_CONFIG"])
