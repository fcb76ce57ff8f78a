import contextlib
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.metadata import parse_session_end_info_plugin_data

from tests.runs import stop_after
from trainer.config import parse
from trainer.errors import NonFiniteError, Preempted
from trainer.monitoring.goodput import Clock
from trainer.monitoring.tensorboard import PARTS, Summaries, forget_after
from trainer.train import train
from trainer.training.logger import Logger, has_figures
from trainer.training.loss_spikes import LossSpikes
from trainer.training.setup import set_up


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


def test_a_clock_that_is_set_back_between_two_starts_mixes_no_steps(tmp_path):
    for number, steps in enumerate(([1, 2, 3], [4, 5], [6]), start=1):
        forget_after(tmp_path, steps[0] - 1 or 1)
        write(tmp_path, steps)
        for path in (tmp_path / "train").glob("events.out.tfevents.1*"):
            path.rename(path.with_name(f"events.out.tfevents.{9 * 10**9 - number}.host"))
    shown = EventAccumulator(str(tmp_path / "train")).Reload()
    assert [event.step for event in shown.Tensors("loss")] == [1, 2, 3, 4, 5, 6]


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


def test_a_longer_run_has_hardly_more_pictures():
    shown = [number for number in range(1, 2**20) if has_figures(number)]
    assert shown[:127] == list(range(1, 128))
    for doubling in range(7, 19):
        assert sum(2**doubling <= number < 2 ** (doubling + 1) for number in shown) == 64


def count_of(run, *tags):
    """How often each tag is written in a run's event files, at whatever step."""
    written = [tag for part in PARTS for tag, _ in read(run, part)]
    return [written.count(tag) for tag in tags]


START, END = "_hparams_/session_start_info", "_hparams_/session_end_info"


def test_what_the_table_of_runs_knows_is_forgotten_and_the_charts_are_not(tmp_path):
    write(tmp_path, [1, 2])
    summaries = Summaries(tmp_path)
    summaries.begin({"batch_size": 64, "model.hidden_units": (16, 8)})
    summaries.end(succeeded=True)
    summaries.close()
    assert count_of(tmp_path, START, END) == [1, 1]
    forget_after(tmp_path, 2)
    assert count_of(tmp_path, START, END, "loss", "picture") == [0, 0, 2, 2]


@pytest.mark.parametrize(
    ("shape", "expected"), [((1200, 40, 3), (1200, 40)), ((2400, 600, 3), (1200, 300))]
)
def test_a_picture_has_no_more_pixels_than_is_useful(tmp_path, shape, expected):
    summaries = Summaries(tmp_path)
    summaries.image("validation", 1, "picture", np.full(shape, 7, np.uint8))
    summaries.close()
    (value,) = (
        value
        for path in (tmp_path / "validation").glob("events*")
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
        for value in tf.compat.v1.Event.FromString(record).summary.value
    )
    picture = tf.io.decode_png(value.tensor.string_val[2]).numpy()
    assert picture.shape == (*expected, 3)
    assert (picture == 7).all()


@pytest.mark.parametrize(
    ("error", "statuses"),
    [
        (None, [api_pb2.STATUS_SUCCESS]),
        (NonFiniteError("the loss is NaN"), [api_pb2.STATUS_FAILURE]),
        (Preempted("stopped"), []),
    ],
)
def test_a_run_says_how_it_ended_unless_it_goes_on_later(tmp_path, digits_config, error, statuses):
    digits_config.strategy = "cpu:1"
    config = parse(digits_config)
    with (
        set_up(config, str(tmp_path)) as setup,
        contextlib.suppress(NonFiniteError, Preempted),
        Logger(setup, LossSpikes(config.spikes, setup.workers), Clock(), 0, 10),
    ):
        if error:
            raise error
    said = [
        parse_session_end_info_plugin_data(value.metadata.plugin_data.content).status
        for path in (tmp_path / "validation").glob("events*")
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
        for value in tf.compat.v1.Event.FromString(record).summary.value
        if value.tag == END
    ]
    assert said == statuses


def test_a_run_that_is_stopped_and_goes_on_leaves_no_gap_and_nothing_twice(
    tmp_path, digits_config, monkeypatch
):
    train(digits_config, str(tmp_path / "alone"))
    stop_after(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Preempted):
        train(digits_config, str(tmp_path / "stopped"))
    assert count_of(tmp_path / "stopped", START, END) == [1, 0]
    train(digits_config, str(tmp_path / "stopped"))
    for part in PARTS:
        assert read(tmp_path / "stopped", part) == read(tmp_path / "alone", part)
    assert count_of(tmp_path / "stopped", START, END) == [1, 1]
