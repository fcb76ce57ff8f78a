from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from trainer.summaries import Summaries, forget_after


def write(run: Path, steps):
    summaries = Summaries(run)
    for step in steps:
        summaries.scalars("train", step, {"loss": float(step)})
        summaries.image("validation", step, "picture", np.zeros((4, 4, 3), np.uint8))
    summaries.close()


def read(run: Path, part):
    values = []
    for path in sorted((run / part).glob("events*")):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            values += [(value.tag, event.step) for value in event.summary.value]
    return sorted(values)


def test_later_steps_are_forgotten_in_every_file(tmp_path):
    write(tmp_path, [1, 2, 3])
    forget_after(tmp_path, 2)
    write(tmp_path, [3, 4])
    assert read(tmp_path, "train") == [("loss", step) for step in (1, 2, 3, 4)]
    assert read(tmp_path, "validation") == [("picture", step) for step in (1, 2, 3, 4)]


@pytest.mark.parametrize("lost_bytes", [1, 7, 30])
def test_a_file_that_a_kill_cut_short_keeps_what_is_whole(tmp_path, lost_bytes):
    write(tmp_path, [1, 2, 3])
    (path,) = (tmp_path / "train").glob("events*")
    path.write_bytes(path.read_bytes()[:-lost_bytes])
    forget_after(tmp_path, 5)
    assert read(tmp_path, "train") == [("loss", 1), ("loss", 2)]


def test_a_workdir_without_event_files_has_nothing_to_forget(tmp_path):
    forget_after(tmp_path, 0)
    assert not list(tmp_path.iterdir())
