"""Run cases in child processes that may fail, crash or hang, within a budget of time."""

import contextlib
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

from benchmarks.gpu_check.child import MARK

ROOT = Path(__file__).parents[2]
_CASE_SECONDS = 150.0  # that one case may take, compilation included
_LEAST_SECONDS = 5.0  # below which no process is started any more

_T = TypeVar("_T")


class Case(NamedTuple):
    """A call of `module:function` in a child process; `name` is for people."""

    name: str
    call: str
    arguments: Mapping[str, Any]


class Outcome(NamedTuple):
    """What a case returned, or the one line on why it failed; neither if no time was left."""

    value: Any = None
    error: str | None = None

    @property
    def left_out(self) -> bool:
        """Return whether the budget ended before the case did."""
        return self.value is None and self.error is None


class Budget:
    """The time that the whole check may take; `now` returns seconds of a monotonic clock."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic):
        self._now = now
        self._start = now()
        self._end = self._start + seconds
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen] = set()

    def left_seconds(self) -> float:
        """Return the seconds that are left, 0 at least."""
        return max(0.0, self._end - self._now())

    def spent_seconds(self) -> float:
        """Return the seconds since the start."""
        return self._now() - self._start

    def end(self) -> None:
        """Leave no time, and kill every child process that runs."""
        with self._lock:
            self._end = self._now()
            for process in self._processes:
                _kill_group(process)

    @contextlib.contextmanager
    def holding(self, process: subprocess.Popen) -> Iterator[None]:
        """Kill a process and those that it started when the block ends, or by `end`."""
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
    """Run cases in one child process, and after a crash the remaining ones in another.

    `environment` is added to this process's. Returns an outcome a case, in their order.
    """
    outcomes: list[Outcome] = []
    variables = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | dict(environment or {})
    while len(outcomes) < len(cases) and budget.left_seconds() > _LEAST_SECONDS:
        rest = cases[len(outcomes) :]
        found = _one_process(rest, budget, variables, python, case_seconds)
        for case, outcome in zip(rest, found, strict=False):  # a crash leaves cases without one
            outcomes.append(outcome)
            result = "no time left" if outcome.left_out else outcome.error or "ok"
            say(budget, f"{case.name}: {result}")
    return outcomes + [Outcome()] * (len(cases) - len(outcomes))


def in_parallel(calls: Sequence[Callable[[], _T]], budget: Budget, processes: int) -> list[_T]:
    """Make calls that each run child processes, at most `processes` of them at a time."""
    with ThreadPoolExecutor(processes) as pool:
        futures = [pool.submit(call) for call in calls]
        try:
            return [future.result() for future in futures]
        except KeyboardInterrupt:
            budget.end()
            raise


def say(budget: Budget, text: str) -> None:
    """Print a line of progress with the seconds since the start."""
    print(f"[{budget.spent_seconds():4.0f} s] {text}", file=sys.stderr, flush=True)


def _kill_group(process: subprocess.Popen) -> None:
    """Kill a child and what it has started, as a trial of a GPU, unless its end is known."""
    if process.returncode is None:  # else the number may be another group's by now
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _status(process: subprocess.Popen) -> int:
    """Return the exit status of a child that ends by itself, and kill what it has started."""
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    _kill_group(process)
    return process.wait()


def _one_process(
    cases: Sequence[Case],
    budget: Budget,
    variables: Mapping[str, str],
    python: str,
    case_seconds: float,
) -> Iterator[Outcome]:
    """Yield the outcomes of a process, the last of them that of the case which ended it."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [python, "-m", "benchmarks.gpu_check.child"],
            cwd=ROOT,
            env=dict(variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # Ctrl-C is for the parent, which ends their groups
        )
        assert process.stdin and process.stdout
        with budget.holding(process), process.stdin, process.stdout:
            with contextlib.suppress(BrokenPipeError):
                asked = [{"call": case.call, "arguments": case.arguments} for case in cases]
                process.stdin.write(json.dumps(asked) + "\n")
                process.stdin.flush()
            for _ in cases:
                limit_seconds = min(case_seconds, budget.left_seconds())
                killer = threading.Timer(limit_seconds, _kill_group, [process])
                killer.start()
                began = time.monotonic()
                line = next((text for text in process.stdout if text.startswith(MARK)), None)
                killer.cancel()
                if line is not None:
                    yield Outcome(**json.loads(line.removeprefix(MARK)))
                    continue
                if budget.left_seconds() <= 0:
                    yield Outcome()
                elif time.monotonic() - began >= limit_seconds:
                    yield Outcome(error=f"no answer within {limit_seconds:.0f} s")
                else:
                    errors.seek(0)
                    last = next(reversed([row for row in errors if row.strip()]), "").strip()
                    yield Outcome(error=f"ended with status {_status(process)}: {last[:300]}")
                return
