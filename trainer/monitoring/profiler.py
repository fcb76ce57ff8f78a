"""Traces a few steps for TensorBoard's profiler."""

from pathlib import Path

import tensorflow as tf


class Profile:
    """Traces the steps from the first of `borders` to before the second; () traces none."""

    def __init__(self, borders: tuple[int, ...], folder: Path):
        self.borders = borders
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
