"""Traces a few steps for TensorBoard's profiler."""

import re
from pathlib import Path

import tensorflow as tf

from trainer.errors import require


class Profile:
    """Traces the steps of a window "first:last", `last` excluded; "" traces none."""

    def __init__(self, window: str, folder: Path):
        """Parses the window; raises UserError if it has another form."""
        match = re.fullmatch(r"(\d+):(\d+)", window)
        require(
            window == "" or (match is not None and int(match[1]) < int(match[2])),
            f"profile={window!r} is not allowed; it takes first:last, as 100:120",
        )
        self.borders = (int(match[1]), int(match[2])) if match else ()
        self._folder = folder
        self._running = False

    def at(self, step: int) -> None:
        """Starts or stops the trace before the training call that begins with `step`."""
        if self.borders and self.borders[0] <= step < self.borders[1]:
            if not self._running:
                tf.profiler.experimental.start(str(self._folder))
                self._running = True
        else:
            self.close()

    def close(self) -> None:
        """Writes the trace if one is running."""
        if self._running:
            tf.profiler.experimental.stop()
            self._running = False
