"""The loop: its walk, its files, and that an interruption leaves no trace."""

import json
import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from tests.all_configs import CONFIG_OF, load_config, tiny
from tests.runs import (
    assert_a_stop_changes_no_bit,
    assert_same_bits,
    assert_same_record,
    charts,
    crash,
    final_state,
    found,
    logged,
    lose_weights,
    stop_after,
)
from tests.verbs.refusals import refused
from trainer import data
from trainer.config import parse
from trainer.distribution.step import Steps
from trainer.errors import NonFiniteError, Preempted
from trainer.run import workdir
from trainer.run.checkpoints import Checkpoints
from trainer.storage import atomic
from trainer.training.train import describe, train

# The losses of each kind's first four steps and of their validation, as trained by this version.
GOLDEN_LOSSES = json.loads(Path(__file__).with_name("golden_losses.json").read_text())


@pytest.mark.parametrize("execution", ["graph", "xla"])
def test_placement_calls_and_random_numbers_drawn_by_the_data_change_no_bit(
    digits_config, digits_run, tmp_path, monkeypatch, execution
):
    digits_config.execution = execution
    on_device = digits_run
    if execution != "graph":
        on_device = tmp_path / "device"
        train(digits_config, str(on_device))
    load = data.load

    def drawing(*arguments, **settings):
        random.random()  # as a download does
        return load(*arguments, **settings)

    monkeypatch.setattr(data, "load", drawing)
    digits_config.data.placement = "host"
    digits_config.update({"steps_per_call": 0, "log_every_steps": 3})
    train(digits_config, str(tmp_path / "host"))
    assert_same_bits(tmp_path / "host", on_device)


def test_the_execution_that_was_measured_once_is_kept(digits_config, tmp_path, monkeypatch):
    digits_config.execution = "measure"
    for fastest in ("graph", "xla"):
        with monkeypatch.context() as patch:
            patch.setattr(Steps, "fastest", lambda *_, fastest=fastest: fastest)
            stop_after(patch, 1, lambda: os.kill(os.getpid(), signal.SIGINT))
            with pytest.raises(Preempted):
                train(digits_config, str(tmp_path))
        assert workdir.read(tmp_path).executions == {"CPU x 1": "graph"}


def test_a_run_leaves_its_config_metrics_charts_a_trace_and_a_warning(
    digits_config, tmp_path, capsys
):
    digits_config.update({"histograms": True, "profile": "3:5", "figures": True})
    digits_config.optimizer.warmup_steps = 10
    losses = train(digits_config, str(tmp_path))
    assert workdir.read(tmp_path).config == parse(digits_config)
    rows = logged(tmp_path)
    assert [row["step"] for row in rows if row["split"] == "train"] == [2, 4, 6, 8, 10]
    validated = [row for row in rows if row["split"] == "validation"]
    assert [row["step"] for row in validated] == [5, 10]
    assert validated[-1]["loss"] == losses["loss"]
    assert rows[0].keys() > {"gradient_norm", "learning_rate", "loss_scale", "loss/mse"}
    assert rows[0]["images_per_second"] > 0
    assert 0 <= rows[0]["goodput"] < 1
    training, validation = charts(tmp_path, "train"), charts(tmp_path, "validation")
    assert training["loss/mse"] == [2, 4, 6, 8, 10]
    assert training["model/encoder/code/kernel"] == [5, 10]
    assert training["config"] == [0]
    assert validation["loss/mse"] == validation["reconstructions"] == [5, 10]
    assert list(tmp_path.glob("train/plugins/profile/*/*.xplane.pb"))
    assert "only 10 steps, but optimizer.warmup_steps=10" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "checkpoint", "is_told"),
    [(40, "last", True), (40, "best", False), (1000, "last", False)],
)
def test_more_parameters_than_numbers_to_train_on_are_told_unless_the_best_weights_are_taken(
    tmp_path, digits_config, capsys, rows, checkpoint, is_told
):
    digits_config.update({"num_epochs": 0.01, "batch_size": 4, "checkpoint": checkpoint})
    digits_config.data.name = f"arrays:{tmp_path / 'own.npy'}"
    digits_config.model.output_activation = "linear"
    np.save(tmp_path / "own.npy", np.random.default_rng(0).normal(size=(rows, 5)))
    train(digits_config, str(tmp_path / "run"))
    layers = [(5, 16), (16, 4), (4, 16), (16, 5)]
    parameters, numbers = sum((1 + a) * b for a, b in layers), 5 * (rows * 4 // 5)
    numbers -= 5 * round(digits_config.data.validation_fraction * numbers / 5)
    told = f"{parameters / numbers:.2g} parameters for each of the {numbers:,} numbers"
    assert (told in capsys.readouterr().out) == is_told


def test_a_stop_between_two_rows_changes_no_row(digits_config, tmp_path, monkeypatch):
    digits_config.update({"log_every_steps": 5, "checkpoint_every_steps": 4, "steps_per_call": 3})
    train(digits_config, str(tmp_path / "uninterrupted"))
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Preempted, match="step 3"):
            train(digits_config, str(tmp_path / "stopped"))
    train(digits_config, str(tmp_path / "stopped"))
    assert_same_record(tmp_path / "stopped", tmp_path / "uninterrupted")


def test_the_plan_names_what_the_run_is_too_short_for(tmp_path, capsys):
    config = load_config("sparse")
    settings = {"auxiliary_weight": 0.1, "dead_after_steps": 10, "resample_every_steps": 5}
    config.model.update(tiny("sparse") | settings)
    config.data.update({"name": "digits", "resplit_test": 0.0})
    config.optimizer.update({"schedule": "step", "boundary_factors": (0.5, 0.1)})
    for steps in (10, 15):
        epochs = steps * 64 / 1366
        config.update({"batch_size": 64, "num_epochs": epochs, "execution": "graph"})
        config.optimizer.boundaries_epochs = (0.1, 10 * 64 / 1366)
        describe(config, str(tmp_path))
        printed = capsys.readouterr().out
        for note in (
            "only 10 steps, but model.dead_after_steps=10: no unit counts as dead, and model.aux",
            "model.resample_every_steps=5 and model.dead_after_steps=10 units are resampled from "
            "step 10 on, and not in the last 5 steps",
            f"these of optimizer.boundaries_epochs: {epochs:g};",
        ):
            assert (note in printed) == (steps == 10), note


def test_a_quiet_run_on_vectors_in_memory_shows_nothing_and_changes_none(
    digits_config, tmp_path, capfd
):
    digits_config.update({"quiet": True, "tensorboard": False})
    digits_config.data.update({"name": "memory", "standardise": True})
    digits_config.model.output_activation = "linear"
    vectors = np.random.default_rng(0).normal(5, 2, (64, 6))
    before = vectors.copy()
    train(digits_config, str(tmp_path), vectors)
    assert not list(tmp_path.rglob("events.*"))
    digits_config.update({"num_epochs": 1.5, "tensorboard": True, "figures": True})
    train(digits_config, str(tmp_path), vectors)
    assert charts(tmp_path, "validation")["reconstructions"] == [2]
    assert np.array_equal(vectors, before)
    assert capfd.readouterr() == ("", "")
    assert workdir.read(tmp_path).inputs["image_shape"] == [6]
    with refused("'memory' are vectors that a program held"):
        data.load(digits_config.data)


def test_a_finished_run_started_again_says_so_and_changes_nothing(
    digits_config, digits_run, tmp_path, capsys
):
    run = shutil.copytree(digits_run, tmp_path / "run")
    assert train(digits_config, str(run))["loss"] == pytest.approx(logged(run)[-1]["loss"])
    assert_same_record(run, digits_run)
    printed = capsys.readouterr().out
    assert "nothing to train" in printed and "steps 0 to" not in printed


def test_a_crash_at_any_time_leaves_no_trace(digits_config, tmp_path, monkeypatch):
    digits_config.figures = True
    uninterrupted, run = str(tmp_path / "uninterrupted"), str(tmp_path / "run")
    train(digits_config, uninterrupted)
    before_the_first_step = ((atomic, "write_json"), (Checkpoints, "save"))
    for module, name in before_the_first_step:
        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            patch.setattr(module, name, crash)
            train(digits_config, run)
    for calls in (1, 4, 1):
        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            stop_after(patch, calls, crash)
            train(digits_config, run)
    train(digits_config, run)
    assert_same_record(run, uninterrupted)


def test_an_epoch_sees_each_example_once(digits_config, tmp_path, monkeypatch):
    seen = []
    original = Steps.train

    def recorded(self, first_step, drawn, count):
        seen.extend(drawn[:count])
        return original(self, first_step, drawn, count)

    monkeypatch.setattr(Steps, "train", recorded)
    digits_config.num_epochs = 1.0
    digits_config.data.placement = "host"
    train(digits_config, str(tmp_path))
    images = data.load(digits_config.data).train.read()[0].reshape(-1, 28 * 28)
    assert len(seen) == 22
    epoch = np.concatenate(seen).reshape(-1, 28 * 28)[: len(images)]
    np.testing.assert_array_equal(epoch[np.lexsort(epoch.T)], images[np.lexsort(images.T)])


def test_a_run_on_four_replicas_goes_on_with_one(digits_config, digits_run, tmp_path, monkeypatch):
    digits_config.strategy = "cpu:4"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Preempted):
            train(digits_config, str(tmp_path))
    digits_config.strategy = "cpu:1"
    train(digits_config, str(tmp_path))
    expected, actual = final_state(digits_run)[1], final_state(tmp_path)[1]
    for path, array in expected.items():
        np.testing.assert_allclose(actual[path], array, rtol=0, atol=1e-5, err_msg=path)


@pytest.mark.parametrize("kind", CONFIG_OF)
def test_each_kind_ends_with_the_same_bits_if_it_is_stopped(kind, tmp_path, monkeypatch):
    config = load_config(CONFIG_OF[kind])
    config.model.update(tiny(kind))
    if kind == "vae":
        config.model.code_size = 3  # a code of two has a figure more
    config.data.update({"name": "digits", "resplit_test": 0.0})
    config.update({"batch_size": 32, "num_epochs": 4 * 32 / 1366, "execution": "graph"})
    config.update({"steps_per_call": 1, "log_every_steps": 1})
    config.optimizer.update({"name": "adam", "momentum": 0.0, "learning_rate": 0.01})
    config.optimizer.update({"schedule": "constant", "warmup_steps": 0})
    losses = assert_a_stop_changes_no_bit(config, tmp_path, monkeypatch, calls=2, step=2)
    assert np.isfinite(losses["loss"])
    # Four steps and a validation, and before them that of PCA, if the run starts there.
    curve = [row["loss"] for row in logged(tmp_path / "alone")]
    line = json.dumps({kind: [round(loss, 7) for loss in curve]})
    assert kind in GOLDEN_LOSSES, f"add to golden_losses.json: {line}"
    np.testing.assert_allclose(curve, GOLDEN_LOSSES[kind], rtol=1e-4)


@pytest.mark.parametrize(
    ("lost", "settings", "message"),
    [
        (
            (),
            {"model.code_size": 5, "optimizer.learning_rate": 0.5},
            "model.code_size was 4, is 5; optimizer.learning_rate was 0.001, is 0.5",
        ),
        ((), {"num_epochs": 64 / 1366}, "at step 10 already"),
        ((workdir.METRICS_LOG, workdir.CHECKPOINTS), {}, "without its checkpoints"),
        ((workdir.CONFIG,), {}, "is not a run of this trainer"),
    ],
)
def test_a_run_that_cannot_go_on_is_refused_and_left_as_it_is(
    digits_config, digits_run, tmp_path, lost, settings, message
):
    run = shutil.copytree(digits_run, tmp_path / "run")
    for name in lost:
        (run / name).rename(tmp_path / name)
    digits_config.update_from_flattened_dict(settings)
    with refused(message, run):
        train(digits_config, str(run))


def test_a_start_that_is_refused_leaves_no_workdir(digits_config, tmp_path):
    with workdir.locked(tmp_path), refused("another trainer is at work", tmp_path):
        train(digits_config, str(tmp_path))
    digits_config.profile = "7:700"
    with refused("the run ends at step 10", tmp_path):
        train(digits_config, str(tmp_path / "new"))
    (tmp_path / "file").touch()
    for place in ("file", "file/run", "file/runs/run"):
        with refused("file' is a file, not a folder; take another --workdir", tmp_path):
            train(digits_config, str(tmp_path / place))


def test_a_start_that_waited_while_a_refused_one_removed_the_workdir_keeps_others_out(tmp_path):
    run, held, release = tmp_path / "run", threading.Event(), threading.Event()

    def wait_and_hold():
        with workdir.locked(run, patience_seconds=60):
            held.set()
            assert release.wait(60)

    waiting = threading.Thread(target=wait_and_hold)
    with workdir.locked(run):
        waiting.start()
        time.sleep(0.5)  # until the thread waits
    assert held.wait(60)
    try:
        with refused("another trainer is at work", tmp_path), workdir.locked(run):
            pass
    finally:
        release.set()
        waiting.join()
    assert not run.exists()


def test_length_and_cadence_may_change(digits_config, digits_run, tmp_path):
    run = shutil.copytree(digits_run, tmp_path / "run")
    digits_config.update({"num_epochs": 12 * 64 / 1366, "log_every_steps": 1})
    digits_config.keep_checkpoints = 1
    train(digits_config, str(run))
    assert final_state(run)[0] == 12
    assert [row["step"] for row in logged(run) if row["split"] == "train"][-3:] == [10, 11, 12]


def poison(patch):
    """Has the data be NaN from step 8 on."""
    original = Steps.train

    def poisoned(self, first_step, images, count):
        unit = tf.cast(images, tf.float32) / 255
        steps = first_step + np.arange(len(images)).reshape(-1, *[1] * (len(images.shape) - 1))
        return original(self, first_step, tf.where(steps >= 8, np.nan, unit), count)

    patch.setattr(Steps, "train", poisoned)


def lose_output(patch):
    lose_weights(patch, 9, "model/decoder/logits/kernel")


def lose_code(patch):
    lose_weights(patch, 6)


@pytest.mark.parametrize(
    ("fault", "checkpoint_every_steps", "message"),
    [
        (poison, 5, "steps 8 to 9"),
        (lose_output, 5, "the validation loss at step 10 is nan"),
        (lose_code, 7, "model/encoder/code/kernel is NaN or infinite at step 7"),
    ],
)
def test_what_is_not_finite_ends_the_run_and_is_never_saved(
    digits_config, tmp_path, monkeypatch, fault, checkpoint_every_steps, message
):
    fault(monkeypatch)
    digits_config.data.placement = "host"
    digits_config.update({"steps_per_call": 5, "checkpoint_every_steps": checkpoint_every_steps})
    with pytest.raises(NonFiniteError, match=f"{message}.* last good checkpoint is .*5$"):
        train(digits_config, str(tmp_path))
    if fault is poison:
        rows = [row["step"] for row in logged(tmp_path) if row["split"] == "train"]
        assert rows == [2, 4, 6, 8]
    step, state = final_state(tmp_path)
    assert step == 5
    # Gradient norms that are not computed are NaN.
    assert all(np.isfinite(a).all() for path, a in state.items() if not path.startswith("logged/"))


def test_the_best_on_validation_is_kept_whatever_the_cadence(digits_config, tmp_path):
    digits_config.update({"validate_every_steps": 3, "checkpoint_every_steps": 0})
    digits_config.keep_checkpoints = 1
    # So high a rate that the last step is not the best.
    digits_config.optimizer.update({"schedule": "constant", "learning_rate": 1.0})
    train(digits_config, str(tmp_path))
    validated = [row for row in logged(tmp_path) if row["split"] == "validation"]
    best = min(validated, key=lambda row: row["loss"])
    kept = found(tmp_path, "best")
    assert (kept.step, kept.validation_loss) == (best["step"], best["loss"])
    assert best is not validated[-1]


def test_a_disk_that_is_too_small_for_the_checkpoints_is_told_of_before_the_first_step(
    digits_config, tmp_path, monkeypatch, capsys
):
    digits_config.keep_checkpoints = 9  # of the three of steps 0, 5 and 10
    train(digits_config, str(tmp_path / "run"))
    assert "checkpoints of" not in capsys.readouterr().out
    size = sum(array.nbytes for array in final_state(tmp_path / "run")[1].values())
    for free_bytes in (2 * size, 2 * size - 1):  # the first checkpoint is there already
        usage = SimpleNamespace(free=free_bytes)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, usage=usage: usage)
        train(digits_config, str(tmp_path / str(free_bytes)))
        lines = [line for line in capsys.readouterr().out.splitlines() if "checkpoints of" in line]
        assert len(lines) == (free_bytes < 2 * size)
    assert f"up to 3 checkpoints of {size / 2**20:.1f} MiB are kept at once" in lines[0]
