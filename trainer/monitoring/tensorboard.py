"""Writes TensorBoard's event files: one value per tag and step, through all interruptions."""

import contextlib
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as layout_summary
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import summary as hparams_summary

from trainer.errors import StorageError, writing

SPLITS = ("train", "validation")  # two runs in TensorBoard, so that both are in one chart of a tag
TEST = "test"  # a third run in TensorBoard, which an evaluation writes
_EVENTS = "events.out.tfevents."  # TensorFlow's prefix of event files, before the time
_FILE_VERSION = "brain.Event:2"  # the first record of each file
_HPARAMS_SUFFIX = ".hparams"  # of the file with a run's row in the HParams tab
_MAX_SIDE = 1200  # pixels of an image in TensorBoard

# The charts of the Custom Scalars tab: by title, the tags as regular expressions.
_LAYOUT = {
    "losses": {"loss, training and validation": ["loss$"], "terms of the loss": ["loss/"]},
    "optimisation": {
        "learning rate": ["training/learning_rate$"],
        "gradient norm": ["training/gradient_norm$"],
    },
    "speed": {
        "images per second": ["training/images_per_second$"],
        "goodput: the share of wall time spent on new steps": ["training/goodput$"],
        "the other shares of wall time": ["goodput/(?!steps)"],
    },
}


class Summaries:
    """Writes the event files of a workdir, each split in its own folder.

    Every method raises StorageError if a file cannot be written.
    """

    def __init__(
        self, workdir: Path, splits: Iterable[str] = SPLITS, *, start_step: int | None = None
    ):
        """Opens a file per split; `start_step` is the step from which a training starts or resumes.

        With `start_step`, TensorBoard drops what earlier starts wrote of later steps. Without
        splits nothing is written.
        """
        self._validation = workdir / "validation"
        with _storage_errors():
            if start_step is not None:
                for split in splits:
                    _mark_start(workdir / split, start_step)
            self._writers = {
                split: tf.summary.create_file_writer(str(workdir / split)) for split in splits
            }

    def scalars(self, split: str, step: int, values: Mapping[str, float]) -> None:
        """Writes one point on the chart of each tag."""
        with self._writing(split, step):
            for tag, value in values.items():
                tf.summary.scalar(tag, value)

    def image(self, split: str, step: int, tag: str, image: np.ndarray) -> None:
        """Writes an image, uint8 [H, W, 3], shrunk if a side has more than 1,200 pixels."""
        with self._writing(split, step):
            tf.summary.image(tag, _shrunk(image)[np.newaxis])

    def text(self, split: str, step: int, tag: str, markdown: str) -> None:
        """Writes a text in Markdown."""
        with self._writing(split, step):
            tf.summary.text(tag, markdown)

    def histograms(self, split: str, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Writes a histogram of each array."""
        with self._writing(split, step):
            for tag, array in values.items():
                tf.summary.histogram(tag, array)

    def graph(self, graph: tf.Graph) -> None:
        """Writes the graph of a model for the Graphs tab."""
        with self._writing("train", 0):
            tf.summary.graph(graph)

    def layout(self) -> None:
        """Writes how the Custom Scalars tab groups the charts."""
        layout = layout_pb2.Layout()
        for category, charts in _LAYOUT.items():
            added = layout.category.add(title=category)
            for chart, tags in charts.items():
                added.chart.add(title=chart, multiline=layout_pb2.MultilineChartContent(tag=tags))
        self._raw("train", layout_summary.pb(layout))

    def begin(self, hyperparameters: Mapping[str, Any]) -> None:
        """Adds the run to the HParams tab, with its last validation losses as metrics.

        The row has its own file, which replaces the file of an earlier start, since TensorBoard
        shows the first status and the first hyperparameters of a run.
        """
        if not self._writers:
            return
        with _storage_errors():
            for path in self._validation.glob(f"{_EVENTS}*{_HPARAMS_SUFFIX}"):
                path.unlink()
            self._writers[_HPARAMS_SUFFIX] = tf.summary.create_file_writer(
                str(self._validation), filename_suffix=_HPARAMS_SUFFIX
            )
        self._raw(_HPARAMS_SUFFIX, hparams_summary.session_start_pb(dict(hyperparameters)))

    def end(self, *, succeeded: bool) -> None:
        """Writes in the HParams tab whether the run succeeded or failed."""
        status = api_pb2.STATUS_SUCCESS if succeeded else api_pb2.STATUS_FAILURE
        self._raw(_HPARAMS_SUFFIX, hparams_summary.session_end_pb(status))

    def flush(self) -> None:
        """Flushes the files to the disk."""
        with _storage_errors():
            for writer in self._writers.values():
                writer.flush()

    def close(self) -> None:
        """Flushes and closes the files."""
        with _storage_errors():
            for writer in self._writers.values():
                writer.close()

    @contextlib.contextmanager
    def _writing(self, split: str, step: int) -> Iterator[None]:
        writers = self._writers
        writing = writers[split].as_default(step) if writers else tf.summary.record_if(False)
        with _storage_errors(), writing:
            yield

    def _raw(self, split: str, summary: Any) -> None:
        with self._writing(split, 0):
            tf.summary.experimental.write_raw_pb(summary.SerializeToString())


def _mark_start(folder: Path, start_step: int) -> None:
    """Marks a start of the training in a file that TensorBoard reads before the next one.

    TensorBoard's Python loader drops later steps at each mark but the first; TensorBoard's data
    server drops them whenever a step is repeated. Both read the files in the order of their names,
    which begin with times. If the clock was set back, or two starts fall in one second, the earlier
    files get numbers below any time instead.
    """
    folder.mkdir(parents=True, exist_ok=True)
    now = f"{_EVENTS}{int(time.time()):010d}"
    earlier = sorted(folder.glob(f"{_EVENTS}*"))
    if earlier and earlier[-1].name >= now:
        for number, path in enumerate(earlier):
            path.rename(folder / re.sub(r"\d+", f"{number:010d}", path.name, count=1))
    start = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
    # A start at step 0 writes the events of step 0 again; later starts keep their first step's.
    mark = tf.compat.v1.Event(step=start_step and start_step + 1, session_log=start)
    version = tf.compat.v1.Event(file_version=_FILE_VERSION)
    with tf.io.TFRecordWriter(str(folder / f"{now}-start")) as writer:  # "-" sorts before "."
        for event in (version, mark):
            writer.write(event.SerializeToString())


@contextlib.contextmanager
def _storage_errors() -> Iterator[None]:
    """Raises StorageError for a disk error of TensorFlow or of the operating system."""
    try:
        with writing("an event file"):
            yield
    except tf.errors.OpError as error:
        why = " ".join(error.message.splitlines()[:1]).rpartition("; ")[2]
        raise StorageError(f"an event file cannot be written: {why}") from error


def _shrunk(image: np.ndarray) -> np.ndarray:
    """Shrinks an image [H, W, 3] so that no side is longer than `_MAX_SIDE` pixels."""
    longest = max(image.shape[:2])
    if longest <= _MAX_SIDE:
        return image
    size = [max(1, side * _MAX_SIDE // longest) for side in image.shape[:2]]
    return np.round(tf.image.resize(image, size, method="area")).astype(np.uint8)
