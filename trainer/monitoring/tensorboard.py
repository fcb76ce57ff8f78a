"""TensorBoard: one value a step, however often a run was interrupted."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as layout_summary
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import summary as session_summary

from trainer.errors import StorageError, writing

PARTS = ("train", "validation")  # two runs in TensorBoard, so that a tag of both is one chart
TEST = "test"  # the third, which an evaluation writes
_EVENTS = "events.out.tfevents."  # begins the names of event files; the time comes next
_SESSION = "_hparams_/"  # begins the tags of what the HParams tab knows of a run
_MOST_SIDE_PIXELS = 1200  # of a picture, whatever the size of the images

# The charts of the Custom Scalars tab: by title, the tags as regular expressions.
_LAYOUT = {
    "losses": {"loss, training beside validation": ["loss$"], "terms of the loss": ["loss/"]},
    "optimisation": {
        "learning rate": ["training/learning_rate$"],
        "gradient norm": ["training/gradient_norm$"],
    },
    "speed": {
        "images per second": ["training/images_per_second$"],
        "goodput, the share of the wall time that steps have": ["training/goodput$"],
        "where the rest goes": ["goodput/(?!steps)"],
    },
}


class Summaries:
    """Writes the event files of a workdir; each part has a folder of its own.

    Every method raises StorageError where they cannot be written.
    """

    def __init__(self, workdir: Path, parts: Iterable[str] = PARTS):
        with _storage_errors():
            self._writers = {
                part: tf.summary.create_file_writer(str(workdir / part)) for part in parts
            }

    def scalars(self, part: str, step: int, values: Mapping[str, float]) -> None:
        """One point on the chart of each tag."""
        with self._writing(part, step):
            for tag, value in values.items():
                tf.summary.scalar(tag, value)

    def image(self, part: str, step: int, tag: str, picture: np.ndarray) -> None:
        """A picture, uint8 [H, W, 3], made smaller where a side has more than 1,200 pixels."""
        with self._writing(part, step):
            tf.summary.image(tag, _bounded(picture)[np.newaxis])

    def text(self, part: str, step: int, tag: str, markdown: str) -> None:
        """A text in Markdown."""
        with self._writing(part, step):
            tf.summary.text(tag, markdown)

    def histograms(self, part: str, step: int, values: Mapping[str, np.ndarray]) -> None:
        """The distribution of the numbers in each array."""
        with self._writing(part, step):
            for tag, array in values.items():
                tf.summary.histogram(tag, array)

    def graph(self, graph: tf.Graph) -> None:
        """What a model computes."""
        with self._writing("train", 0):
            tf.summary.graph(graph)

    def layout(self) -> None:
        """How the charts are grouped."""
        layout = layout_pb2.Layout()
        for category, charts in _LAYOUT.items():
            added = layout.category.add(title=category)
            for chart, tags in charts.items():
                added.chart.add(title=chart, multiline=layout_pb2.MultilineChartContent(tag=tags))
        self._raw("train", layout_summary.pb(layout))

    def begin(self, hyperparameters: Mapping[str, Any]) -> None:
        """Puts the run in the table of the HParams tab, beside the last scalars of validation."""
        self._raw("validation", session_summary.session_start_pb(dict(hyperparameters)))

    def end(self, *, succeeded: bool) -> None:
        """Says in that table how the run came to its end."""
        status = api_pb2.STATUS_SUCCESS if succeeded else api_pb2.STATUS_FAILURE
        self._raw("validation", session_summary.session_end_pb(status))

    def flush(self) -> None:
        """Hands everything to the disk."""
        with _storage_errors():
            for writer in self._writers.values():
                writer.flush()

    def close(self) -> None:
        """Flushes and closes the files."""
        with _storage_errors():
            for writer in self._writers.values():
                writer.close()

    @contextlib.contextmanager
    def _writing(self, part: str, step: int) -> Iterator[None]:
        with _storage_errors(), self._writers[part].as_default(step):
            yield

    def _raw(self, part: str, summary: Any) -> None:
        with self._writing(part, 0):
            tf.summary.experimental.write_raw_pb(summary.SerializeToString())


def forget_after(workdir: Path, step: int) -> None:
    """Rewrites the event files without what they say of later steps, which come again.

    After step 0 that is everything: a run that begins writes step 0 itself. What `begin` and `end`
    wrote goes too, since whoever goes on with the run says it anew.
    """
    for part in PARTS:
        for number, path in enumerate(sorted((workdir / part).glob(f"{_EVENTS}*"))):
            with _storage_errors():
                _forget_after(path, step, number)


def _forget_after(path: Path, step: int, number: int) -> None:
    if step == 0:
        path.unlink()
        return
    aside = path.with_name(f".{path.name}")
    with tf.io.TFRecordWriter(str(aside)) as writer:
        for record in _records(path):
            event = tf.compat.v1.Event.FromString(record)
            if event.step <= step and not _is_of_session(event):
                writer.write(record)
    with aside.open() as written:
        os.fsync(written.fileno())
    aside.replace(path)
    # TensorBoard reads them by the times in their names. The clock may have been set back since:
    # a number instead, which is below any time, has it read the next file after this one.
    rest = path.name.removeprefix(_EVENTS).partition(".")[2]
    path.rename(path.with_name(f"{_EVENTS}{number:010d}.{rest}"))


@contextlib.contextmanager
def _storage_errors() -> Iterator[None]:
    """Raises StorageError for what TensorFlow or the system raises of a disk."""
    try:
        with writing("an event file"):
            yield
    except tf.errors.OpError as error:
        why = " ".join(error.message.splitlines()[:1]).rpartition("; ")[2]
        raise StorageError(f"an event file cannot be written: {why}") from error


def _is_of_session(event: Any) -> bool:
    return any(value.tag.startswith(_SESSION) for value in event.summary.value)


def _bounded(picture: np.ndarray) -> np.ndarray:
    """A picture of the same proportions whose sides have no more pixels than is useful."""
    longest = max(picture.shape[:2])
    if longest <= _MOST_SIDE_PIXELS:
        return picture
    size = [max(1, side * _MOST_SIDE_PIXELS // longest) for side in picture.shape[:2]]
    return np.round(tf.image.resize(picture, size, method="area")).astype(np.uint8)


def _records(path: Path) -> Iterator[bytes]:
    """The records of an event file, up to where a kill cut it short."""
    records = iter(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    while True:
        try:
            yield next(records)
        except (StopIteration, tf.errors.DataLossError):
            return
