"""TensorBoard: one value a step, however often a run was interrupted."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

PARTS = ("train", "validation")  # two runs in TensorBoard, so that a tag of both is one chart


class Summaries:
    """Writes the event files of a workdir; each part has a folder of its own."""

    def __init__(self, workdir: Path):
        self._writers = {part: tf.summary.create_file_writer(str(workdir / part)) for part in PARTS}

    def scalars(self, part: str, step: int, values: Mapping[str, float]) -> None:
        """One point on the chart of each tag."""
        with self._writers[part].as_default(step):
            for tag, value in values.items():
                tf.summary.scalar(tag, value)

    def image(self, part: str, step: int, tag: str, picture: np.ndarray) -> None:
        """A picture, uint8 [H, W, 3]."""
        with self._writers[part].as_default(step):
            tf.summary.image(tag, picture[np.newaxis])

    def text(self, part: str, step: int, tag: str, markdown: str) -> None:
        """A text in Markdown."""
        with self._writers[part].as_default(step):
            tf.summary.text(tag, markdown)

    def histograms(self, part: str, step: int, values: Mapping[str, np.ndarray]) -> None:
        """The distribution of the numbers in each array."""
        with self._writers[part].as_default(step):
            for tag, array in values.items():
                tf.summary.histogram(tag, array)

    def flush(self) -> None:
        """Hands everything to the disk."""
        for writer in self._writers.values():
            writer.flush()

    def close(self) -> None:
        """Flushes and closes the files."""
        for writer in self._writers.values():
            writer.close()


def forget_after(workdir: Path, step: int) -> None:
    """Rewrites the event files without what they say of later steps, which come again.

    After step 0 that is everything: a run that begins writes step 0 itself.
    """
    for part in PARTS:
        for path in (workdir / part).glob("events.out.tfevents.*"):
            if step == 0:
                path.unlink()
                continue
            aside = path.with_name(f".{path.name}")
            with tf.io.TFRecordWriter(str(aside)) as writer:
                for record in _records(path):
                    if tf.compat.v1.Event.FromString(record).step <= step:
                        writer.write(record)
            aside.replace(path)


def _records(path: Path) -> Iterator[bytes]:
    """The records of an event file, up to where a kill cut it short."""
    records = iter(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    while True:
        try:
            yield next(records)
        except (StopIteration, tf.errors.DataLossError):
            return
