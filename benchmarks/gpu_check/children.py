"""Runs cases in child processes, which may fail, crash or hang, within a budget of time.

`python -m benchmarks.gpu_check.children` is a child. The first line of its stdin is a JSON list of
cases, each `{"call": "module:function", "arguments": {...}}`. For each case, the child prints a
line of `MARK` and JSON, either `{"value": ...}` or `{"error": "one line"}`. This module imports
only the standard library, so a Python without TensorFlow can run it.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

ROOT = Path(__file__).parents[2]
MARK = "gpu-check-result "
_CASE_SECONDS = 150.0  # for one case, compilation included
_MIN_SECONDS = 5.0  # of the budget, to start another process
_MAX_ERROR_CHARACTERS = 300
# Beginnings of lines in TensorFlow's messages that say where a graph was built, not what failed.
_ORIGINS = ("Graph execution error", "Detected at node", "<stack traces", "File ", "in user code")

_T = TypeVar("_T")


class Case(NamedTuple):
    """Describes a call of `module:function` in a child process; the report shows `name`."""

    name: str
    call: str
    arguments: Mapping[str, Any]


class Outcome(NamedTuple):
    """Holds the value of a case, or one line on its failure; neither if no time was left."""

    name: str
    value: Any = None
    error: str | None = None

    @property
    def left_out(self) -> bool:
        """Returns whether the budget ended before the case did."""
        return self.value is None and self.error is None


class Budget:
    """Limits the time for the whole check, by `now`, a clock of monotonic seconds."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic):
        self._now = now
        self._start = now()
        self._end = self._start + seconds
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen] = set()

    def left_seconds(self) -> float:
        """Returns the seconds that are left, at least 0."""
        return max(0.0, self._end - self._now())

    def spent_seconds(self) -> float:
        """Returns the seconds since the start."""
        return self._now() - self._start

    def end(self) -> None:
        """Ends the budget now, and kills every child process."""
        with self._lock:
            self._end = self._now()
            for process in self._processes:
                _kill_group(process)

    @contextlib.contextmanager
    def holding(self, process: subprocess.Popen) -> Iterator[None]:
        """Kills a process and its descendants at the end of the block, or when `end` is called."""
        with self._lock:
            self._processes.add(process)
        try:
            yield
        finally:
            _kill_group(process)
            process.wait()
            with self._lock:
                self._processes.remove(process)


def run(
    cases: Sequence[Case],
    budget: Budget,
    *,
    environment: Mapping[str, str] | None = None,
    python: str = sys.executable,
    case_seconds: float = _CASE_SECONDS,
) -> list[Outcome]:
    """Runs cases in one child process, and after a crash the remaining cases in another.

    `environment` is added to this process's. Returns the outcomes in the order of the cases.
    """
    outcomes: list[Outcome] = []
    variables = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | dict(environment or {})
    while len(outcomes) < len(cases) and budget.left_seconds() > _MIN_SECONDS:
        rest = cases[len(outcomes) :]
        for outcome in _run_in_process(rest, budget, variables, python, case_seconds):
            outcomes.append(outcome)
            result = "no time left" if outcome.left_out else outcome.error or "ok"
            line = f"[{budget.spent_seconds():4.0f} s] {outcome.name}: {result}"
            print(line, file=sys.stderr, flush=True)
    return outcomes + [Outcome(case.name) for case in cases[len(outcomes) :]]


def in_parallel(calls: Sequence[Callable[[], _T]], budget: Budget, processes: int) -> list[_T]:
    """Makes calls that run child processes, at most `processes` calls at a time."""
    with ThreadPoolExecutor(processes) as pool:
        futures = [pool.submit(call) for call in calls]
        try:
            return [future.result() for future in futures]
        except KeyboardInterrupt:
            budget.end()
            raise


def one_line(error: BaseException) -> str:
    """Returns the type of an error and the first relevant line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    relevant = [line for line in lines if not line.startswith(_ORIGINS)]
    text = f"{type(error).__name__}: {(relevant or lines or ['no message'])[0]}"
    return text[:_MAX_ERROR_CHARACTERS]


def _kill_group(process: subprocess.Popen) -> None:
    """Kills a child and its descendants, such as a trial of a GPU, unless the child was reaped."""
    if process.returncode is None:  # otherwise another group may have the number by now
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _run_in_process(
    cases: Sequence[Case],
    budget: Budget,
    variables: Mapping[str, str],
    python: str,
    case_seconds: float,
) -> Iterator[Outcome]:
    """Yields the outcomes of one process; a case that ends the process is the last of them."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [python, "-m", "benchmarks.gpu_check.children"],
            cwd=ROOT,
            env=dict(variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # a group of its own; Ctrl-C reaches only the parent
        )
        assert process.stdin and process.stdout
        with budget.holding(process), process.stdin, process.stdout:
            with contextlib.suppress(BrokenPipeError):
                asked = [{"call": case.call, "arguments": case.arguments} for case in cases]
                process.stdin.write(json.dumps(asked) + "\n")
                process.stdin.flush()
            for case in cases:
                limit_seconds = min(case_seconds, budget.left_seconds())
                began = time.monotonic()
                killer = threading.Timer(limit_seconds, _kill_group, [process])
                killer.start()
                line = next((text for text in process.stdout if text.startswith(MARK)), None)
                killer.cancel()
                if line is not None:
                    yield Outcome(case.name, **json.loads(line.removeprefix(MARK)))
                    continue
                if budget.left_seconds() <= 0:
                    yield Outcome(case.name)
                elif time.monotonic() - began >= limit_seconds:
                    yield Outcome(case.name, error=f"no answer within {limit_seconds:.0f} s")
                else:
                    yield Outcome(case.name, error=_ending(process, errors))
                return


def _ending(process: subprocess.Popen, errors: Any) -> str:
    """Returns the status of a child that ended by itself, and its last line on stderr."""
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    _kill_group(process)  # before the child is waited for
    errors.seek(0)
    last = next(reversed([line for line in errors if line.strip()]), "").strip()
    return f"ended with status {process.wait()}: {last[:_MAX_ERROR_CHARACTERS]}"


def _be_child() -> None:
    """Runs the cases on stdin until the last one, or until the parent process ends."""
    cases = json.loads(sys.stdin.readline())
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    for case in cases:
        try:
            module, _, function = case["call"].partition(":")
            call = getattr(importlib.import_module(module), function)
            result = {"value": call(**case["arguments"])}
        except Exception as error:  # becomes a line of the report
            result = {"error": one_line(error)}
        print(MARK + json.dumps(result), flush=True)


def _exit_with_parent() -> None:
    """Ends this process when the parent's end closes the pipe."""
    while os.read(sys.stdin.fileno(), 1):  # not sys.stdin.read, whose lock would block the exit
        pass
    os._exit(1)


if __name__ == "__main__":
    _be_child()
