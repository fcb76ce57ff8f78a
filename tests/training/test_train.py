"""The loop: its walk, its files, and that an interruption leaves no trace."""

import itertools
import json
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.all_configs import CONFIG_OF, load_config
from tests.runs import (
    assert_a_stop_changes_no_bit,
    assert_same_bits,
    charts,
    files_in,
    final_state,
    found,
    logged,
    stop_after,
)
from trainer import data
from trainer.config import parse
from trainer.distribution.step import Steps
from trainer.errors import NonFiniteError, Preempted, UserError
from trainer.run import workdir
from trainer.run.checkpoints import Checkpoints
from trainer.storage import atomic
from trainer.train import train
from trainer.training.steps_per_call import StepsPerCall, due, log_windows, step_ranges

LAST_STEP = 10
# The losses of each kind's first four steps and of their validation, as trained by this version.
GOLDEN_LOSSES = json.loads(Path(__file__).with_name("golden_losses.json").read_text())


@pytest.mark.parametrize(
    ("step", "every", "expected"),
    [(1, 1, True), (4, 4, True), (5, 4, False), (3, 0, False), (10, 0, True), (10, 4, True)],
)
def test_what_is_due_is_due_at_its_multiples_and_at_the_end(step, every, expected):
    assert due(step, every, last_step=10) is expected


def test_calls_end_wherever_the_weights_are_needed(digits_config):
    pace = StepsPerCall(steps_per_call=4, step_bytes=1)
    ranges = list(step_ranges(0, 11, digits_config, pace))
    assert ranges == [(0, 4), (4, 5), (5, 9), (9, 10), (10, 11)]
    assert list(step_ranges(5, 11, digits_config, pace)) == ranges[2:]
    assert list(step_ranges(11, 11, digits_config, pace)) == []
    assert list(step_ranges(5, 11, digits_config, pace, borders=(7,))) == [
        (5, 7),
        (7, 10),
        (10, 11),
    ]


def test_a_call_is_logged_in_windows_that_end_wherever_a_line_is_due(digits_config):
    digits_config.log_every_steps = 100
    windows = list(log_windows(50, 400, digits_config, end_step=10_000))
    assert windows == [(50, 100), (100, 200), (200, 300), (300, 400)]
    assert list(log_windows(400, 450, digits_config, end_step=450)) == [(400, 450)]
    assert list(log_windows(400, 450, digits_config, end_step=10_000)) == [(400, 450)]


def test_calls_grow_until_they_take_half_a_second():
    pace = StepsPerCall(steps_per_call=0, step_bytes=2**18)
    assert pace.max_steps == 64
    ranges = step_ranges(0, 10_000, load_config("dense"), pace)
    lengths = []
    for first, last in itertools.islice(ranges, 16):
        lengths.append(last - first)
        # The first call compiles; a step takes 0.02 seconds. Plans are made four calls ahead.
        pace.plan(pace.next_count(last - first, 5.0 if first == 0 else 0.02 * (last - first)))
    assert lengths == [1, 1, 1, 1, 1, 4, 4, 4, 4, 16, 16, 16, 16, 25, 25, 25]


def test_calls_of_a_given_length_stay_so():
    pace = StepsPerCall(steps_per_call=7, step_bytes=1)
    assert (pace.steps(9), pace.next_count(7, 100.0), pace.max_steps) == (7, 7, 7)


def test_a_call_beyond_the_plan_is_an_error_and_never_a_guess():
    pace = StepsPerCall(steps_per_call=0, step_bytes=1)
    with pytest.raises(IndexError):
        pace.steps(4)


def test_a_call_is_never_longer_than_the_run_has_steps_between_two_cadences():
    assert StepsPerCall(steps_per_call=100_000, step_bytes=1, longest=50).max_steps == 50
    assert StepsPerCall(steps_per_call=0, step_bytes=1, longest=3).max_steps == 3


@pytest.mark.parametrize("execution", ["graph", "xla_update", "xla"])
def test_where_the_images_lie_and_how_calls_are_cut_change_no_bit(
    digits_config, tmp_path, execution
):
    digits_config.execution = execution
    train(digits_config, str(tmp_path / "device"))
    digits_config.data.placement = "host"
    digits_config.steps_per_call = 0
    digits_config.log_every_steps = 3
    train(digits_config, str(tmp_path / "host"))
    assert_same_bits(tmp_path / "host", tmp_path / "device")


def test_a_way_to_compute_that_was_chosen_once_is_kept(digits_config, tmp_path, monkeypatch):
    digits_config.execution = "measure"
    with monkeypatch.context() as patch:
        patch.setattr(Steps, "fastest", lambda *_: "graph")
        stop_after(patch, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Preempted):
            train(digits_config, str(tmp_path))
    assert workdir.read(tmp_path).executions == {"CPU x 1": "graph"}
    with monkeypatch.context() as patch:
        patch.setattr(Steps, "fastest", lambda *_: "xla")
        train(digits_config, str(tmp_path))
    assert workdir.read(tmp_path).executions == {"CPU x 1": "graph"}


def test_a_window_of_steps_is_traced(digits_config, tmp_path):
    digits_config.profile = "3:5"
    train(digits_config, str(tmp_path))
    assert list(tmp_path.glob("train/plugins/profile/*/*.xplane.pb"))


def test_what_the_data_draw_on_their_way_changes_no_weight(digits_config, tmp_path, monkeypatch):
    load = data.load

    def drawing(*arguments, **settings):
        random.random()  # as a download does
        return load(*arguments, **settings)

    train(digits_config, str(tmp_path / "prepared"))
    monkeypatch.setattr(data, "load", drawing)
    train(digits_config, str(tmp_path / "downloaded"))
    assert_same_bits(tmp_path / "prepared", tmp_path / "downloaded")


def test_a_run_leaves_its_config_its_metrics_and_its_checkpoints(digits_config, tmp_path):
    digits_config.histograms = True
    losses = train(digits_config, str(tmp_path))
    assert workdir.read(tmp_path).config == parse(digits_config)
    rows = logged(tmp_path)
    assert [row["step"] for row in rows if row["split"] == "train"] == [2, 4, 6, 8, 10]
    validated = [row for row in rows if row["split"] == "validation"]
    assert [row["step"] for row in validated] == [5, 10]
    assert validated[-1]["loss"] == losses["loss"]
    assert charts(tmp_path, "train")["loss/mse"] == [2, 4, 6, 8, 10]
    assert charts(tmp_path, "validation")["loss/mse"] == [5, 10]
    assert charts(tmp_path, "validation")["reconstructions"] == [5, 10]
    assert charts(tmp_path, "train")["model/encoder/code/kernel"] == [5, 10]
    assert charts(tmp_path, "train")["config"] == [0]
    train_row = rows[0]
    assert train_row.keys() > {"gradient_norm", "learning_rate", "loss_scale", "loss/mse"}
    assert train_row["images_per_second"] > 0
    assert 0 <= train_row["goodput"] < 1


def test_a_quiet_run_without_pictures_shows_nothing(digits_config, tmp_path, capfd):
    digits_config.quiet, digits_config.figures = True, False
    for _ in range(2):
        train(digits_config, str(tmp_path))
    assert capfd.readouterr() == ("", "")
    assert "reconstructions" not in charts(tmp_path, "validation")


def test_vectors_in_memory_are_trained_on_and_left_as_they_are(digits_config, tmp_path):
    digits_config.data.name = "memory"
    digits_config.data.standardise = True
    digits_config.model.output_activation = "linear"
    vectors = np.random.default_rng(0).normal(5, 2, (64, 6))
    before = vectors.copy()
    train(digits_config, str(tmp_path), vectors)
    assert np.array_equal(vectors, before)
    assert workdir.read(tmp_path).inputs["image_shape"] == [6]
    with pytest.raises(UserError, match="'memory' are vectors that a program held"):
        data.load(digits_config.data)


def test_a_finished_run_started_again_changes_nothing(digits_config, tmp_path):
    losses = train(digits_config, str(tmp_path))
    before = final_state(tmp_path)[1]
    assert train(digits_config, str(tmp_path)) == pytest.approx(losses)
    after = final_state(tmp_path)[1]
    assert all(before[path].tobytes() == after[path].tobytes() for path in before)


@pytest.mark.parametrize("number", [sent.value for sent in (signal.SIGTERM, signal.SIGINT)])
def test_a_signal_checkpoints_and_the_run_goes_on_from_there(
    digits_config, tmp_path, monkeypatch, number
):
    assert_a_stop_changes_no_bit(digits_config, tmp_path, monkeypatch, calls=2, step=4, by=number)


def test_a_crash_between_checkpoints_leaves_no_trace(digits_config, tmp_path, monkeypatch):
    def crash():
        raise ZeroDivisionError

    train(digits_config, str(tmp_path / "alone"))
    for calls in (1, 4, 3, 1):
        with monkeypatch.context() as patch:
            stop_after(patch, calls, crash)
            with pytest.raises(ZeroDivisionError):
                train(digits_config, str(tmp_path / "crashed"))
    train(digits_config, str(tmp_path / "crashed"))
    assert_same_bits(tmp_path / "alone", tmp_path / "crashed")
    for part in ("train", "validation"):
        assert charts(tmp_path / "crashed", part) == charts(tmp_path / "alone", part)
    rows = [
        [(row["split"], row["step"], row["loss"]) for row in logged(tmp_path / run)]
        for run in ("alone", "crashed")
    ]
    assert rows[0] == rows[1]


def test_an_epoch_sees_each_example_once_whatever_crashes(digits_config, tmp_path, monkeypatch):
    def crash():
        raise ZeroDivisionError

    seen = {}
    original = Steps.train

    def recorded(self, first_step, drawn, count):
        for number, batch in enumerate(drawn[:count]):
            seen[int(first_step) + number] = batch
        return original(self, first_step, drawn, count)

    monkeypatch.setattr(Steps, "train", recorded)
    digits_config.num_epochs = 1.0
    digits_config.data.placement = "host"
    for calls in (7, 5):
        with monkeypatch.context() as patch:
            stop_after(patch, calls, crash)
            with pytest.raises(ZeroDivisionError):
                train(digits_config, str(tmp_path))
    train(digits_config, str(tmp_path))
    images, _ = data.load(digits_config.data).train.read()
    walk = np.concatenate([seen[step] for step in sorted(seen)]).reshape(-1, 28 * 28)
    assert len(walk) == 22 * 64
    epoch = walk[: len(images)]
    order = np.lexsort(epoch.T), np.lexsort(images.reshape(len(images), -1).T)
    np.testing.assert_array_equal(epoch[order[0]], images.reshape(len(images), -1)[order[1]])


def test_a_run_that_ends_before_its_warmup_does_says_so(digits_config, tmp_path, capsys):
    digits_config.optimizer.warmup_steps = LAST_STEP
    train(digits_config, str(tmp_path))
    assert "only 10 steps, but optimizer.warmup_steps=10" in capsys.readouterr().out


def test_two_trainers_on_one_workdir_are_one_too_many(digits_config, tmp_path):
    with workdir.locked(tmp_path), pytest.raises(UserError, match="another trainer is at work"):
        train(digits_config, str(tmp_path))


def test_weights_that_are_lost_in_the_last_step_are_never_saved(digits_config, tmp_path):
    digits_config.optimizer.name = "sgd"
    digits_config.optimizer.schedule = "constant"
    digits_config.optimizer.learning_rate = 1e38
    digits_config.model.output_activation = "linear"
    digits_config.num_epochs = 64 / 1366
    with pytest.raises(NonFiniteError, match="validation loss at step 1 is nan; the last"):
        train(digits_config, str(tmp_path))
    step, state = final_state(tmp_path)
    assert step == 0
    assert all(np.isfinite(array).all() for array in state.values())


def test_steps_that_float16_skips_are_counted(digits_config, tmp_path, monkeypatch):
    original = Steps.__init__

    def with_a_scale_too_high(self, *arguments, **settings):
        original(self, *arguments, **settings)
        self.optimizer.dynamic_scale.assign(2.0**30)

    monkeypatch.setattr(Steps, "__init__", with_a_scale_too_high)
    digits_config.precision = "float16"
    train(digits_config, str(tmp_path))
    rows = [row for row in logged(tmp_path) if row["split"] == "train"]
    assert rows[0]["skipped_steps"] > 0
    norms = [row["gradient_norm"] for row in rows if "gradient_norm" in row]
    assert norms  # there is none where all steps of a row were skipped
    assert np.isfinite(norms).all()
    assert rows[-1]["loss_scale"] < 2.0**30


@pytest.mark.parametrize("written", ["config.json", "checkpoints"])
def test_a_crash_before_the_first_step_leaves_no_trace(
    digits_config, tmp_path, monkeypatch, written
):
    def crash(*_, **__):
        raise ZeroDivisionError

    train(digits_config, str(tmp_path / "alone"))
    module, name = {
        "config.json": (atomic, "write_json"),
        "checkpoints": (Checkpoints, "save"),
    }[written]
    with monkeypatch.context() as patch:
        patch.setattr(module, name, crash)
        with pytest.raises(ZeroDivisionError):
            train(digits_config, str(tmp_path / "crashed"))
    train(digits_config, str(tmp_path / "crashed"))
    assert_same_bits(tmp_path / "alone", tmp_path / "crashed")


def test_a_run_on_four_replicas_goes_on_with_one(digits_config, tmp_path, monkeypatch):
    train(digits_config, str(tmp_path / "one"))
    digits_config.strategy = "cpu:4"
    with monkeypatch.context() as patch:
        stop_after(patch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Preempted):
            train(digits_config, str(tmp_path / "four"))
    digits_config.strategy = "cpu:1"
    train(digits_config, str(tmp_path / "four"))
    expected, actual = (final_state(tmp_path / run)[1] for run in ("one", "four"))
    for path, array in expected.items():
        np.testing.assert_allclose(actual[path], array, rtol=0, atol=1e-5, err_msg=path)


@pytest.mark.parametrize("kind", CONFIG_OF)
def test_each_kind_ends_with_the_same_bits_if_it_is_stopped(kind, tmp_path, monkeypatch):
    config = load_config(CONFIG_OF[kind])
    config.data.update({"name": "digits", "resplit_test": 0.0})
    config.batch_size = 32
    config.num_epochs = 4 * 32 / 1366
    config.execution = "graph"
    config.steps_per_call = 1
    config.log_every_steps = 1
    losses = assert_a_stop_changes_no_bit(config, tmp_path, monkeypatch, calls=2, step=2)
    assert np.isfinite(losses["loss"])
    curve = [row["loss"] for row in logged(tmp_path / "alone")]  # four steps and a validation
    np.testing.assert_allclose(curve, GOLDEN_LOSSES[kind], rtol=1e-4)


def test_another_config_on_an_old_workdir_is_refused_with_the_keys(digits_config, tmp_path):
    train(digits_config, str(tmp_path))
    before = final_state(tmp_path)[1]
    digits_config.optimizer.learning_rate = 0.5
    digits_config.model.code_size = 5
    with pytest.raises(UserError) as error:
        train(digits_config, str(tmp_path))
    assert "model.code_size was 4, is 5" in str(error.value)
    assert "optimizer.learning_rate was 0.001, is 0.5" in str(error.value)
    after = final_state(tmp_path)[1]
    assert all(before[path].tobytes() == after[path].tobytes() for path in before)


def test_length_and_cadence_may_change(digits_config, tmp_path):
    train(digits_config, str(tmp_path))
    digits_config.num_epochs = 12 * 64 / 1366
    digits_config.log_every_steps = 1
    digits_config.keep_checkpoints = 1
    train(digits_config, str(tmp_path))
    assert final_state(tmp_path)[0] == 12
    digits_config.num_epochs = 1 * 64 / 1366
    before = (tmp_path / workdir.CONFIG).read_bytes()
    with pytest.raises(UserError, match="at step 12 already"):
        train(digits_config, str(tmp_path))
    assert (tmp_path / workdir.CONFIG).read_bytes() == before


def test_other_images_on_an_old_workdir_are_refused(digits_config, tmp_path, monkeypatch):
    train(digits_config, str(tmp_path))
    monkeypatch.setattr(data.Dataset, "fingerprint", lambda _: "other")
    with pytest.raises(UserError, match="on other data: 'digits' has changed"):
        train(digits_config, str(tmp_path))


def test_a_run_that_has_logged_nothing_yet_is_never_started_over(digits_config, tmp_path):
    train(digits_config, str(tmp_path))
    (tmp_path / workdir.METRICS_LOG).unlink()
    (tmp_path / workdir.CHECKPOINTS).rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="without its checkpoints"):
        train(digits_config, str(tmp_path))


@pytest.mark.parametrize("lost", [workdir.CHECKPOINTS, workdir.CONFIG])
def test_a_workdir_that_lost_a_part_is_never_started_over(digits_config, tmp_path, lost):
    train(digits_config, str(tmp_path))
    (tmp_path / lost).rename(tmp_path.with_name(tmp_path.name + "-lost"))
    before = files_in(tmp_path)
    with pytest.raises(UserError, match=str(tmp_path)):
        train(digits_config, str(tmp_path))
    assert files_in(tmp_path) == before


def test_a_profile_beyond_the_end_is_refused_before_anything_is_written(digits_config, tmp_path):
    digits_config.profile = "7:700"
    with pytest.raises(UserError, match="profile='7:700' is not allowed; the run ends at step 10"):
        train(digits_config, str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_workdir_that_cannot_be_made_is_refused(digits_config, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        train(digits_config, str(tmp_path / "file" / "run"))


def test_a_nan_ends_the_run_with_the_last_checkpoint_intact(digits_config, tmp_path, monkeypatch):
    original = Steps.train

    def poisoned(self, first_step, images, count):
        unit = tf.cast(images, tf.float32) / 255
        steps = first_step + np.arange(len(images)).reshape(-1, *[1] * (len(images.shape) - 1))
        return original(self, first_step, tf.where(steps >= 8, np.nan, unit), count)

    monkeypatch.setattr(Steps, "train", poisoned)
    digits_config.data.placement = "host"
    digits_config.steps_per_call = 5
    with pytest.raises(NonFiniteError, match=r"steps 8 to 9.* last good checkpoint is .*5$"):
        train(digits_config, str(tmp_path))
    assert [row["step"] for row in logged(tmp_path) if row["split"] == "train"] == [2, 4, 6, 8]
    step, state = final_state(tmp_path)
    assert step == 5
    assert all(np.isfinite(array).all() for array in state.values())


def test_the_best_on_validation_is_kept_whatever_the_cadence(digits_config, tmp_path):
    digits_config.validate_every_steps = 3
    digits_config.checkpoint_every_steps = 0
    digits_config.keep_checkpoints = 1
    digits_config.optimizer.schedule = "constant"
    digits_config.optimizer.learning_rate = 0.1  # so high that the last step is not the best
    train(digits_config, str(tmp_path))
    validated = [row for row in logged(tmp_path) if row["split"] == "validation"]
    best = min(validated, key=lambda row: row["loss"])
    kept = found(tmp_path, "best")
    assert (kept.step, kept.validation_loss) == (best["step"], best["loss"])
