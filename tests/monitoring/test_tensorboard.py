import contextlib
import re

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.metadata import parse_session_end_info_plugin_data

from tests.runs import charts
from trainer.config import parse
from trainer.errors import NonFiniteError, Preempted
from trainer.monitoring.goodput import Clock
from trainer.monitoring.tensorboard import SPLITS, Summaries
from trainer.training.logger import Logger, has_figures
from trainer.training.loss_spikes import SpikeGuard
from trainer.training.setup import set_up

START, END = "_hparams_/session_start_info", "_hparams_/session_end_info"


def write(run, start_step, steps):
    summaries = Summaries(run, start_step=start_step)
    summaries.begin({"batch_size": 64, "model.hidden_units": (16, 8)})
    if start_step == 0:
        summaries.text("train", 0, "config", "a text")
    for step in steps:
        summaries.scalars("train", step, {"loss": float(step)})
        summaries.image("validation", step, "image", np.zeros((4, 4, 3), np.uint8))
    summaries.close()


def interrupted_run(run, clock="steady"):
    """Writes the steps 1 to 7 in four starts, the first of them cut short by a kill."""
    for start_step, steps in ((0, [1, 2, 3]), (0, [1, 2, 3, 4]), (2, [3, 4, 5, 6]), (5, [6, 7])):
        write(run, start_step, steps)
        for split in SPLITS:
            newest = max((run / split).glob("events*v2"))
            if steps == [1, 2, 3]:
                newest.write_bytes(newest.read_bytes()[:-7])
            if clock == "set back":  # by 100 s after every start
                for path in (run / split).glob("events.out.tfevents.[1-9]*"):
                    stamp = re.findall(r"\d+", path.name)[0]
                    path.rename(path.with_name(path.name.replace(stamp, str(int(stamp) + 100))))


def values(run, split):
    """Each value in the event files, whether a loader shows it or not."""
    for path in sorted((run / split).glob("events*")):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            yield from tf.compat.v1.Event.FromString(record).summary.value


@pytest.mark.parametrize("clock", ["steady", "set back"])
def test_an_interrupted_run_has_one_value_a_step(tmp_path, clock):
    interrupted_run(tmp_path, clock)
    steps = list(range(1, 8))
    assert charts(tmp_path, "train") == {"config": [0], "loss": steps}
    assert charts(tmp_path, "validation") == {"image": steps, START: [0]}


def test_a_new_start_replaces_the_row_of_the_hparams_tab_and_no_chart(tmp_path):
    write(tmp_path, 0, [1, 2])
    before = charts(tmp_path, "validation")
    summaries = Summaries(tmp_path, start_step=2)
    summaries.begin({"batch_size": 32})
    summaries.end(succeeded=True)
    summaries.close()
    tags = [value.tag for value in values(tmp_path, "validation")]
    assert (tags.count(START), tags.count(END)) == (1, 1)
    assert charts(tmp_path, "validation") == before | {END: [0]}


def test_a_large_image_is_shrunk_to_1200_pixels(tmp_path):
    summaries = Summaries(tmp_path)
    for step, shape in enumerate([(1200, 40, 3), (2400, 600, 3)]):
        summaries.image("validation", step, "image", np.full(shape, 7, np.uint8))
    summaries.close()
    images = [
        tf.io.decode_png(value.tensor.string_val[2]).numpy()
        for value in values(tmp_path, "validation")
    ]
    assert [image.shape for image in images] == [(1200, 40, 3), (1200, 300, 3)]
    assert all((image == 7).all() for image in images)


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
        contextlib.suppress(NonFiniteError, Preempted),
        set_up(config, str(tmp_path)) as setup,
        Logger(setup, SpikeGuard(config.spikes, setup.workers), Clock(), None, 10),
    ):
        if error:
            raise error
    written = [
        parse_session_end_info_plugin_data(value.metadata.plugin_data.content).status
        for value in values(tmp_path, "validation")
        if value.tag == END
    ]
    assert written == statuses


def test_a_longer_run_has_hardly_more_images():
    shown = [number for number in range(1, 2**13) if has_figures(number)]
    assert shown[:127] == list(range(1, 128))
    for doubling in range(7, 13):
        assert sum(2**doubling <= number < 2 ** (doubling + 1) for number in shown) == 64
