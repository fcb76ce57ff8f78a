"""Goodput: the share of a run's wall time that new steps have, and where the rest goes.

A clock is at one cause at any moment, so that the shares sum to the whole. It goes on from one
start of a run to the next; the time between two starts is none's.
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
CAUSES = {  # by their names in words
    "steps": "steps",
    "start_up": "start-up",
    "compile": "compiling",
    "data": "waiting for data",
    "checkpoint": "checkpoints",
    "validation": "validation",
    "retaken": "steps retaken",  # that a crash or a roll-back lost
    "other": "other",
}
_WRITE_SECONDS = 5  # at least, between two rows of the log after which the file is written

_T = TypeVar("_T")


class Clock:
    """The seconds of a run by their causes; of this start from its beginning, by `now`."""

    def __init__(
        self, began_seconds: float | None = None, now: Callable[[], float] = time.monotonic
    ):
        self._now = now
        self._since = now() if began_seconds is None else began_seconds
        self._written = self._since
        self._cause = "start_up"
        self._seconds = dict.fromkeys(CAUSES, 0.0)
        self._starts = 1
        self._taken = 0  # steps that had been taken before the training went back
        self._step = 0
        self._compiled = False

    def resume(self, run: Path) -> None:
        """Adds what the earlier starts of a run have written down, if there were any."""
        earlier = _read(run / FILE)
        if earlier:
            self._starts += earlier["starts"]
            self._taken = self._step = earlier["step"]
            for cause, seconds in earlier["seconds"].items():
                self._seconds[cause] += seconds

    def go_back(self) -> None:
        """Takes the steps so far for lost: those that come again are retaken."""
        self._taken = self._step

    @contextlib.contextmanager
    def spent_on(self, cause: str) -> Iterator[None]:
        """Counts what is done inside to a cause, and no longer to the one round it."""
        before = self._turn_to(cause)
        try:
            yield
        finally:
            self._turn_to(before)

    @contextlib.contextmanager
    def spent_on_steps(self, first_step: int, count: int) -> Iterator[None]:
        """Counts a call of steps; the first of a start compiles, and counts as that."""
        cause = "retaken" if first_step < self._taken else "steps"
        with self.spent_on(cause if self._compiled else "compile"):
            yield
        self._compiled = True
        self._step = max(self._step, int(first_step + count))

    def waits_for(self, batches: Iterator[_T]) -> Iterator[_T]:
        """The batches, each waited for on the data's account; the first wait ends the start-up."""
        self._turn_to("other")
        while True:
            with self.spent_on("data"):
                try:
                    batch = next(batches)
                except StopIteration:
                    return
            yield batch

    def shares(self) -> dict[str, float]:
        """Of the wall time until now, by cause; they sum to 1."""
        self._turn_to(self._cause)
        return _shares(self._seconds)

    def write(self, run: Path) -> None:
        """Writes down the seconds until now, for the next start, where there is room for it."""
        self._turn_to(self._cause)
        self._written = self._since
        content = {"starts": self._starts, "step": self._step, "seconds": self._seconds}
        with contextlib.suppress(OSError):  # what matters more says that there is none
            atomic.write_json(run / FILE, content, synced=False)  # steps wait for it

    def write_at_times(self, run: Path) -> None:
        """The same, unless it was done a moment ago."""
        if self._now() >= self._written + _WRITE_SECONDS:
            self.write(run)

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

    def _turn_to(self, cause: str) -> str:
        """Counts the time until now to the cause that it was, which is returned."""
        now = self._now()
        self._seconds[self._cause] += now - self._since
        self._since = now
        before, self._cause = self._cause, cause
        return before


def metrics(run: Path) -> dict[str, float]:
    """The `wall_seconds` of a run and their shares, `goodput/<cause>`; nothing of an old run."""
    written = _read(run / FILE)
    if written is None:
        return {}
    shares = {f"goodput/{cause}": share for cause, share in _shares(written["seconds"]).items()}
    return {"wall_seconds": sum(written["seconds"].values())} | shares


def _shares(seconds: dict[str, float]) -> dict[str, float]:
    whole = sum(seconds.values())
    return {cause: spent / whole if whole else 0.0 for cause, spent in seconds.items()}


def _read(path: Path) -> dict | None:
    """What a run has written; what cannot be read is reported, and ends no run."""
    if not path.exists():
        return None
    try:
        written = json.loads(path.read_text())
        return {
            "starts": int(_checked(written["starts"])),
            "step": int(_checked(written["step"])),
            "seconds": {cause: _checked(written["seconds"][cause]) for cause in CAUSES},
        }
    except (OSError, *atomic.JSON_ERRORS) as error:
        print(
            f"GOODPUT DAMAGED: {path} cannot be read ({type(error).__name__}); "
            "the times of earlier starts are not counted",
            file=sys.stderr,
        )
        return None


def _checked(number: float) -> float:
    if not 0 <= number < math.inf:
        raise ValueError(number)
    return number
