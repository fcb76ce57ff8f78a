"""Keeps the metrics log of a run, `metrics.jsonl`: a row for each log line and validation."""

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer.errors import require, writing
from trainer.storage import atomic

METRICS_LOG = "metrics.jsonl"
METRICS = "metrics.json"  # what trainer.evaluate measured
_SPEED = "images_per_second"  # in most rows of training, above 0
_SPLITS = ("train", "validation")


class MetricsLog:
    """Appends and reads JSON rows, each with its `step` and its `split`, train or validation.

    A row of the pretraining of a layer has the number of the `layer`.
    """

    def __init__(self, path: Path):
        self.path = path

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row.

        Raises:
          StorageError: the row cannot be written, or only in part.
        """
        with writing(self.path), self.path.open("a") as log:
            log.write(json.dumps(row, allow_nan=False) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """Reads the rows, without a line that a kill has cut short.

        Raises:
          UserError: a row is not one that a training writes.
        """
        rows = [row for row in map(_row_of, self._lines()) if row is not None]
        for row in rows:
            numbers: tuple[Any, Any] = row.get("loss"), row.get(_SPEED, 1)
            require(
                isinstance(row["step"], int)
                and row.get("split") in _SPLITS
                and all(isinstance(number, int | float) for number in numbers)
                and all(abs(number) <= sys.float_info.max for number in numbers)
                and numbers[1] > 0,
                f"{self.path} is damaged: no training writes its row of step {row['step']}",
            )
        return rows

    def forget_after(self, step: int) -> None:
        """Drops the rows of later steps, which a resumed run repeats.

        Raises:
          StorageError: the log cannot be written, and is unchanged.
        """
        if self.path.exists():
            kept = [line for line in self._lines() if step_of(line) <= step]
            with writing(self.path):
                atomic.write_text(self.path, "".join(line + "\n" for line in kept))

    def _lines(self) -> list[str]:
        return self.path.read_text(errors="replace").splitlines() if self.path.exists() else []


def validations(rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yields the rows of validations, except those of the pretraining of a `layer`."""
    return (row for row in rows if row["split"] == "validation" and "layer" not in row)


def training_seconds(rows: Iterable[Mapping[str, Any]], batch_size: int) -> float:
    """Returns the seconds that the logged steps took, without restarts and validations."""
    before, seconds = 0, 0.0
    for row in rows:
        if row["split"] == "train":
            if _SPEED in row:
                seconds += (row["step"] - before) * batch_size / row[_SPEED]
            before = row["step"]
    return seconds


def step_of(line: str, key: str = "step") -> float:
    """Returns the integer under a key of a JSON object; infinity if the text is not whole."""
    row = _row_of(line, key)
    return math.inf if row is None else int(row[key])


def _row_of(line: str, key: str = "step") -> dict[str, Any] | None:
    """Parses a JSON object with a step; returns None if the line is not whole."""
    try:
        row = json.loads(line)
        int(row[key])
    except atomic.JSON_ERRORS:
        return None
    return row


def is_measured(workdir: Path, metrics: str = METRICS) -> bool:
    """Returns whether a file of metrics exists, written after the last step that the run logged.

    The metrics may be of an earlier checkpoint, such as the best.
    """
    path = workdir / metrics
    rows = MetricsLog(workdir / METRICS_LOG).rows()
    if not rows or not path.exists():
        return False
    return step_of(path.read_text(errors="replace"), "newest_step") == rows[-1]["step"]
