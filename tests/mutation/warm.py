"""Runs tests of a copy of the tree in a fork of this process, which has imported what is slow.

TensorFlow and its like are imported once, and nothing is computed here: a fork has no threads but
those that a library's import begins, and such libraries begin them anew.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "",
    "TF_ENABLE_ONEDNN_OPTS": "1",  # as in tests/conftest.py, which TensorFlow's import precedes
    "PYTHONDONTWRITEBYTECODE": "1",  # a fault may leave a file's size and second as they were
}

import pytest

_SLOW_IMPORTS = (
    *("numpy", "tensorflow", "keras", "ml_collections", "absl.app", "matplotlib.pyplot"),
    *("sklearn.decomposition", "sklearn.ensemble", "sklearn.linear_model", "sklearn.neighbors"),
    *("scipy.linalg", "scipy.stats", "hypothesis", "pyarrow", "PIL.Image"),
)
_OWN = ("trainer", "tests", "configs", "launch", "benchmarks", "docs")


@dataclasses.dataclass
class Outcome:
    """What a run of tests came to."""

    failed: list[str] = dataclasses.field(default_factory=list)
    found_by: str = ""  # the first test that failed, or how the process ended


class _Recorder:
    """Puts the tests marked slow last, leaves some out, and records which fail.

    A fault must meet the tests in the order in which they passed without one, since some depend on
    what TensorFlow was asked before.
    """

    def __init__(self, left_out: list[str]):
        self._left_out = left_out
        self.outcome = Outcome()

    def pytest_collection_modifyitems(self, items):
        items[:] = [item for item in items if item.nodeid not in self._left_out]
        items.sort(key=lambda item: bool(item.get_closest_marker("slow")))

    def pytest_collectreport(self, report):
        self._keep(report)

    def pytest_runtest_logreport(self, report):
        self._keep(report)

    def _keep(self, report):
        if report.failed and report.nodeid not in self.outcome.failed:
            self.outcome.failed.append(report.nodeid)


def run_tests(
    root: Path, tests: list[str], left_out: list[str], *, stop: bool, seconds: float
) -> Outcome:
    """Runs the tests of a tree, to the first that fails if told to stop."""
    for name in _SLOW_IMPORTS:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "outcome"
        pid = os.fork()
        if pid == 0:
            os.setsid()
            recorder = _Recorder(left_out)
            flags = ["-q", "--no-header", "-p", "no:cacheprovider", f"--basetemp={folder}/tmp"]
            flags += ["-m", "not workers and not faults and not gpu_compile"]  # slow ones too
            status = 3
            try:
                _enter(root, Path(folder) / "output")
                status = pytest.main([*flags, *(["-x"] if stop else []), *tests], [recorder])
            finally:
                answer.write_text(json.dumps([int(status), dataclasses.asdict(recorder.outcome)]))
                os._exit(0)
        ended = _wait(pid, seconds)
        if not answer.exists():
            return Outcome(found_by=ended)
        status, fields = json.loads(answer.read_text())
        outcome = Outcome(**fields)
        if status != pytest.ExitCode.OK and stop:
            outcome.found_by = outcome.failed[0] if outcome.failed else f"pytest's status {status}"
        if status == pytest.ExitCode.NO_TESTS_COLLECTED:
            raise FileNotFoundError(f"no tests in {tests}")
        return outcome


def _enter(root: Path, output: Path) -> None:
    """Makes this process one of the tree, as if it had been started there."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.chdir(root)
    os.environ["PYTHONPATH"] = str(root)
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(root))
    for name in [name for name in sys.modules if name.split(".")[0] in _OWN]:
        del sys.modules[name]


def _wait(pid: int, seconds: float) -> str:
    """Waits for a process, kills its session when it takes longer, and says how it ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        time.sleep(0.05)
    else:
        status = 0
    _kill_session(pid)
    if not ended:
        os.waitpid(pid, 0)
        return "the time limit"
    return f"the end of the process, {os.waitstatus_to_exitcode(status)}"


def _kill_session(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # and what its tests have started and left
