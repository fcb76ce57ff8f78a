"""Measures goodput, the share of a run's wall time spent on new steps, and the other shares.

Every second of a start counts to one cause, so the shares sum to 1. The counts continue over the
starts of a run; the time between two starts does not count.
"""

import contextlib
import datetime
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from trainer.storage import atomic

FILE = "goodput.json"
CAUSES = {  # with their words in the last line of a training
    "steps": "steps",
    "start_up": "start-up",
    "compile": "compiling",
    "data": "waiting for data",
    "checkpoint": "checkpoints",
    "validation": "validation",
    "repeated": "repeated steps",  # after a crash or a roll-back
    "other": "other",
}
_MIN_WRITE_SECONDS = 5  # between two writes of the file, unless a checkpoint is written

_T = TypeVar("_T")


class Clock:
    """Counts the seconds of a run by cause."""

    def __init__(
        self, began_seconds: float | None = None, now: Callable[[], float] = time.monotonic
    ):
        """Counts the start-up from `began_seconds` of the clock `now`, by default from now."""
        self._now = now
        self._since = now() if began_seconds is None else began_seconds
        self._written = self._since
        self._cause = "start_up"
        self._seconds = dict.fromkeys(CAUSES, 0.0)
        self._starts = 1
        self._repeated_until = 0  # steps below this one were taken before, and lost
        self._step = 0
        self._compiled = False

    def resume(self, workdir: Path) -> None:
        """Adds the seconds that earlier starts of the run have written, if any."""
        earlier = _read(workdir / FILE)
        if earlier:
            self._starts += earlier["starts"]
            self._repeated_until = self._step = earlier["step"]
            for cause, seconds in earlier["seconds"].items():
                self._seconds[cause] += seconds

    def go_back(self) -> None:
        """Counts the steps up to the newest as repeated when they are taken again."""
        self._repeated_until = self._step

    @contextlib.contextmanager
    def spent_on(self, cause: str) -> Iterator[None]:
        """Counts the time inside the block to `cause` instead of the cause around the block."""
        before = self._switch_to(cause)
        try:
            yield
        finally:
            self._switch_to(before)

    @contextlib.contextmanager
    def spent_on_steps(self, first_step: int, count: int) -> Iterator[None]:
        """Counts the time of a training call; the first call of a start counts as compiling."""
        cause = "repeated" if first_step < self._repeated_until else "steps"
        with self.spent_on(cause if self._compiled else "compile"):
            yield
        self._compiled = True
        self._step = max(self._step, int(first_step + count))

    def expect_compilation(self) -> None:
        """Counts the next training call as compiling."""
        self._compiled = False

    def waits_for(self, batches: Iterator[_T]) -> Iterator[_T]:
        """Yields the batches, and counts the wait for each to "data"; ends the start-up."""
        self._switch_to("other")
        while True:
            with self.spent_on("data"):
                try:
                    batch = next(batches)
                except StopIteration:
                    return
            yield batch

    def shares(self) -> dict[str, float]:
        """Returns each cause's share of the wall time until now."""
        self._switch_to(self._cause)
        return _shares(self._seconds)

    def write(self, workdir: Path) -> None:
        """Writes the seconds until now for the next start; a disk error is ignored."""
        self._switch_to(self._cause)
        self._written = self._since
        content = {"starts": self._starts, "step": self._step, "seconds": self._seconds}
        with contextlib.suppress(OSError):  # the next checkpoint reports it
            atomic.write_json(workdir / FILE, content, synced=False)  # steps wait for the write

    def write_if_due(self, workdir: Path) -> None:
        """Writes the seconds unless they were written less than five seconds ago."""
        if self._now() >= self._written + _MIN_WRITE_SECONDS:
            self.write(workdir)

    def __str__(self) -> str:
        shares = self.shares()
        whole = datetime.timedelta(seconds=round(sum(self._seconds.values())))
        starts = f"{self._starts} start{'s' if self._starts > 1 else ''}"
        shown = [
            f"{words} {shares[cause]:.1%}"
            for cause, words in CAUSES.items()
            if cause != "steps" and shares[cause] >= 0.0005
        ]
        return f"goodput {shares['steps']:.1%} of {whole} in {starts}: {', '.join(shown)}"

    def _switch_to(self, cause: str) -> str:
        """Counts the time until now to the current cause, then changes it; returns the former."""
        now = self._now()
        self._seconds[self._cause] += now - self._since
        self._since = now
        before, self._cause = self._cause, cause
        return before


def metrics(workdir: Path) -> dict[str, float]:
    """Returns a run's `wall_seconds` and its shares, `goodput/<cause>`; {} without the file."""
    written = _read(workdir / FILE)
    if written is None:
        return {}
    shares = {f"goodput/{cause}": share for cause, share in _shares(written["seconds"]).items()}
    return {"wall_seconds": sum(written["seconds"].values())} | shares


def _shares(seconds: dict[str, float]) -> dict[str, float]:
    whole = sum(seconds.values())
    return {cause: spent / whole if whole else 0.0 for cause, spent in seconds.items()}


def _read(path: Path) -> dict | None:
    """Reads a run's file; None if it is missing or, with a line on stderr, damaged."""
    if not path.exists():
        return None
    try:
        written = json.loads(path.read_text())
        return {
            "starts": int(_finite(written["starts"])),
            "step": int(_finite(written["step"])),
            "seconds": {cause: _finite(written["seconds"][cause]) for cause in CAUSES},
        }
    except (OSError, *atomic.JSON_ERRORS) as error:
        print(
            f"GOODPUT DAMAGED: {path} cannot be read ({type(error).__name__}); "
            "the times of earlier starts are not counted",
            file=sys.stderr,
        )
        return None


def _finite(number: float) -> float:
    if not 0 <= number < math.inf:
        raise ValueError(number)
    return number
