"""Loss spikes: the run goes back, and on to the bits of one that never had the steps skipped."""

import itertools
import json
import math
import pkgutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from tests.all_configs import load_config
from tests.distribution.test_workers import SHORT, assert_close
from tests.launched import Launched
from tests.runs import (
    assert_same_bits,
    assert_same_record,
    charts,
    crash,
    final_state,
    logged,
    lose_weights,
    small_config,
    stop_after,
)
from trainer import data, positions
from trainer.data import preprocess
from trainer.distribution.step import Steps
from trainer.distribution.strategy import make_strategy
from trainer.distribution.workers import Workers
from trainer.errors import NonFiniteError, Preempted
from trainer.monitoring import goodput
from trainer.training.loss_spikes import Spike, SpikeGuard
from trainer.training.train import train

BATCH_SIZE = 16
LAST_STEP = 24
SPIKE_STEP = 13


def spiky_config():
    """24 steps on vectors; after a spike the last 3 steps up to it are skipped."""
    config = small_config()
    config.data.update({"name": "memory", "validation_fraction": 0.2})
    config.model.update({"hidden_units": (4,), "code_size": 2, "output_activation": "linear"})
    config.update({"batch_size": BATCH_SIZE, "num_epochs": LAST_STEP * BATCH_SIZE / 400})
    config.update({"checkpoint_every_steps": 4, "validate_every_steps": 8})
    config.update({"figures": False, "quiet": True})
    config.spikes.update({"loss_ratio": 5.0, "skip_steps": 3})
    return config


@pytest.fixture
def config():
    return spiky_config()


def vectors_with(config, absurd_by_step, file=None):
    """Vectors of which an absurd one is drawn at each of these steps; the config's are a file's."""
    vectors = np.random.default_rng(0).normal(size=(500, 6)).astype(np.float32)
    numbers = np.arange(500, dtype=np.float32)[:, np.newaxis].repeat(6, axis=1)
    if file:
        np.savez(file, train=numbers)
    rows = data.load(config.data, vectors=None if file else numbers).train.images
    drawn = positions.examples(config.seed, 0, LAST_STEP * BATCH_SIZE, len(rows))
    for step, absurd in absurd_by_step.items():
        vectors[int(rows[drawn[step * BATCH_SIZE + 5]][0])] = absurd
    return vectors


@pytest.fixture(scope="module")
def spiked(tmp_path_factory):
    """A run with a loss spike, and its vectors."""
    run, config = tmp_path_factory.mktemp("spiked") / "run", spiky_config()
    config.steps_per_call = 7
    vectors = vectors_with(config, {SPIKE_STEP: 1e4})
    train(config, str(run), vectors)
    return run, vectors


def skipped(run):
    """Returns the first and the last skipped step of each roll-back."""
    return [tuple(steps) for steps in final_state(run)[1]["spikes/skipped"].tolist()]


def assert_weights_of_a_run_without(steps, config, run, vectors, folder, monkeypatch):
    """Holds a run to one that never takes these steps, and that knows nothing of spikes."""
    original = Steps.train
    taken = []

    def some(self, first_step, drawn, count):
        if first_step not in steps:
            taken.append(original(self, first_step, drawn, count))
        return taken[-1]

    with monkeypatch.context() as patch, config.unlocked():
        patch.setattr(Steps, "train", some)
        before = config.copy_and_resolve_references()
        before.spikes.loss_ratio, before.steps_per_call = 0.0, 1
        train(before, str(folder), vectors)
    assert len(taken) == LAST_STEP - len(steps)
    (step, state), (other_step, other_state) = final_state(run), final_state(folder)
    assert step == other_step == LAST_STEP
    assert state.keys() - other_state.keys() == {"spikes/loss_statistics", "spikes/skipped"}
    for path, array in other_state.items():
        assert state[path].tobytes() == array.tobytes(), path
    assert not [row for row in logged(folder) if "rollbacks" in row]


def test_a_spike_leaves_the_bits_and_the_record_of_a_run_without_these_steps(
    config, spiked, tmp_path, monkeypatch
):
    run, vectors = spiked
    assert skipped(run) == [(11, 13)]
    without = {11, 12, 13}
    assert_weights_of_a_run_without(without, config, run, vectors, tmp_path, monkeypatch)
    rows = [row for row in logged(run) if row["split"] == "train"]
    steps = [step for step in range(2, 25, 2) if step != 14]  # before which none was taken
    assert [(row["step"], row["rollbacks"]) for row in rows] == [(s, s > 14) for s in steps]
    assert charts(run, "train")["training/rollbacks"] == steps
    assert charts(run, "validation")["loss"] == [8, 16, 24]
    assert json.loads((run / goodput.FILE).read_text())["seconds"]["repeated"] > 0


def test_further_spikes_skip_further_steps_up_to_the_last(config, tmp_path, monkeypatch, capfd):
    config.steps_per_call = 1
    config.averaging.decay = 0.9
    vectors = vectors_with(config, dict.fromkeys([10, 11, SPIKE_STEP, LAST_STEP - 1], 9e17))
    losses = train(config, str(tmp_path / "run"), vectors)
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == (
        "LOSS SPIKE at step 10: the loss or its gradient is NaN or infinite; back to step 8, steps "
        "8 to 10 are skipped (roll-back 1 of 10)"
    )
    assert len(lines) == 4
    assert skipped(tmp_path / "run") == [(8, 10), (6, 11), (5, 13), (21, 23)]
    assert logged(tmp_path / "run")[-1]["loss"] == losses["loss"]
    without = {*range(5, 14), 21, 22, 23}
    folders = tmp_path / "run", vectors, tmp_path / "without"
    assert_weights_of_a_run_without(without, config, *folders, monkeypatch)


def test_where_images_lie_calls_end_and_logs_are_due_changes_no_bit(config, spiked, tmp_path):
    run, vectors = spiked
    config.data.placement = "host"
    config.update({"steps_per_call": 0, "log_every_steps": 5})
    config.update({"checkpoint_every_steps": 11, "keep_checkpoints": 1})
    train(config, str(tmp_path), vectors)
    assert_same_bits(run, tmp_path)


def test_on_four_replicas_the_same_steps_are_skipped(config, spiked, tmp_path):
    config.strategy = "cpu:4"
    train(config, str(tmp_path), spiked[1])
    assert skipped(tmp_path) == [(11, 13)]
    assert_close(tmp_path, spiked[0])


def test_signals_before_at_and_after_spikes_change_no_bit(config, tmp_path, monkeypatch):
    config.update({"steps_per_call": 1, "keep_checkpoints": 1, "checkpoint_every_steps": 2})
    config.validate_every_steps, config.spikes.skip_steps = 0, 4
    vectors = vectors_with(config, {SPIKE_STEP: 1e4, SPIKE_STEP + 1: 1e4})
    train(config, str(tmp_path / "alone"), vectors)
    assert skipped(tmp_path / "alone") == [(10, 13), (7, 14)]  # four that were not yet skipped
    for calls, step in ((9, 9), (5, 11)):  # the second comes in the step that is the first spike
        with monkeypatch.context() as patch:
            stop_after(patch, calls)
            with pytest.raises(Preempted, match=f"stopped at step {step} "):
                train(config, str(tmp_path / "stopped"), vectors)
    train(config, str(tmp_path / "stopped"), vectors)
    assert_same_bits(tmp_path / "stopped", tmp_path / "alone")


def test_what_was_skipped_stays_so_once_roll_backs_are_off(config, spiked, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 9)
        with pytest.raises(Preempted, match="stopped at step 11 "):
            train(config, str(tmp_path), spiked[1])
    config.spikes.loss_ratio = 0.0
    train(config, str(tmp_path), spiked[1])
    assert skipped(tmp_path) == [(11, 13)]
    state = final_state(tmp_path)[1]
    for path, array in final_state(spiked[0])[1].items():
        assert path == "spikes/loss_statistics" or state[path].tobytes() == array.tobytes(), path


def crash_after(patch, place):
    """Ends a training once this function has done its work."""
    owner, _, name = place.rpartition(".")
    original = getattr(pkgutil.resolve_name(owner), name)
    patch.setattr(place, lambda *args: crash(original(*args)))


@pytest.mark.slow
def test_a_crash_anywhere_in_a_roll_back_changes_no_bit(config, tmp_path, monkeypatch):
    config.update({"checkpoint_every_steps": 1, "keep_checkpoints": LAST_STEP})
    vectors = vectors_with(config, {SPIKE_STEP: 1e4})
    train(config, str(tmp_path / "alone"), vectors)
    for place in (
        "metrics_log.MetricsLog.forget_after",
        "checkpoints._delete",
        "checkpoints.Checkpoints.delete_after",
    ):
        with monkeypatch.context() as patch:
            crash_after(patch, f"trainer.run.{place}")
            with pytest.raises(ZeroDivisionError):
                train(config, str(tmp_path / "crashed"), vectors)
        assert logged(tmp_path / "crashed")[-1]["step"] >= 10
    train(config, str(tmp_path / "crashed"), vectors)
    assert_same_record(tmp_path / "crashed", tmp_path / "alone")
    assert skipped(tmp_path / "crashed") == [(11, 13)]


@pytest.mark.parametrize(
    ("end", "skip_steps", "expected"),
    [(LAST_STEP, 3, (12, 14)), (SPIKE_STEP + 0.5, 1, (13, 13))],  # no step uses those of the end
)
def test_lost_weights_are_the_spike_of_the_step_that_would_use_them(
    config, tmp_path, monkeypatch, end, skip_steps, expected
):
    lose_weights(monkeypatch, SPIKE_STEP)
    config.update({"checkpoint_every_steps": 1, "steps_per_call": 1})
    config.num_epochs = end * BATCH_SIZE / 400
    config.spikes.skip_steps = skip_steps
    train(config, str(tmp_path), vectors_with(config, {}))
    assert skipped(tmp_path) == [expected]


def test_a_validation_that_is_not_finite_is_a_spike_of_the_step_before(
    config, tmp_path, monkeypatch, capfd
):
    original, calls = Steps.evaluate, itertools.count(1)
    monkeypatch.setattr(
        Steps,
        "evaluate",
        lambda *args: {"loss": np.nan} if next(calls) == 2 else original(*args),
    )
    train(config, str(tmp_path), vectors_with(config, {}))
    assert skipped(tmp_path) == [(13, 15)]
    assert "LOSS SPIKE at step 15: the validation loss at step 16 is nan" in capfd.readouterr().err
    assert final_state(tmp_path)[0] == LAST_STEP


def test_float16_overflows_are_no_spikes_and_a_lost_loss_is_one(config, tmp_path, monkeypatch):
    original = Steps.__init__

    def with_a_scale_too_high(self, *arguments, **settings):
        original(self, *arguments, **settings)
        self.optimizer.dynamic_scale.assign(2.0**30)

    monkeypatch.setattr(Steps, "__init__", with_a_scale_too_high)
    config.precision = "float16"
    vectors = vectors_with(config, {SPIKE_STEP: 9e17})
    train(config, str(tmp_path / "run"), vectors)
    rows = [row for row in logged(tmp_path / "run") if row["split"] == "train"]
    assert rows[0]["skipped_steps"] > 0
    assert rows[-1]["loss_scale"] < 2.0**30
    norms = [row["gradient_norm"] for row in rows if "gradient_norm" in row]
    assert norms  # there is none where all steps of a row overflow
    assert np.isfinite(norms).all()
    assert skipped(tmp_path / "run") == [(11, 13)]
    folders = tmp_path / "run", vectors, tmp_path / "without"
    assert_weights_of_a_run_without({11, 12, 13}, config, *folders, monkeypatch)


def test_after_so_many_roll_backs_a_spike_ends_the_run(config, tmp_path):
    config.spikes.update({"skip_steps": 1, "max_rollbacks": 2})
    vectors = vectors_with(config, {6: 1e4, SPIKE_STEP: 9e17, 20: 1e4})
    line = r"^step 20: the loss is \S+, after a mean of \S+, and spikes.max_rollbacks=2 allows no "
    for _ in range(2):
        with pytest.raises(NonFiniteError, match=line + ".* last good checkpoint is .*20$"):
            train(config, str(tmp_path), vectors)
    config.spikes.max_rollbacks = 3
    train(config, str(tmp_path), vectors)
    assert skipped(tmp_path) == [(6, 6), (13, 13), (20, 20)]


def test_a_run_that_has_ended_goes_on_once_roll_backs_are_on(config, tmp_path, monkeypatch):
    config.update({"keep_checkpoints": 1, "checkpoint_every_steps": 6, "validate_every_steps": 0})
    monkeypatch.setattr(preprocess, "_LARGEST", math.inf)  # so that the loss becomes infinite
    vectors = vectors_with(config, {SPIKE_STEP: 1e30})
    ratio, config.spikes.loss_ratio = config.spikes.loss_ratio, 0.0
    with pytest.raises(NonFiniteError, match=r"in steps 13 to 13;.*step-0000000012$"):
        train(config, str(tmp_path / "run"), vectors)
    config.spikes.loss_ratio = ratio
    train(config, str(tmp_path / "run"), vectors)
    # The only checkpoint left is of a later step than 11, so fewer are skipped.
    assert skipped(tmp_path / "run") == [(12, 13)]
    folders = tmp_path / "run", vectors, tmp_path / "without"
    assert_weights_of_a_run_without({12, 13}, config, *folders, monkeypatch)


# What a spike is.


def spikes_of_three():
    settings = ConfigDict({"loss_ratio": 3.0, "skip_steps": 3, "max_rollbacks": 10})
    return SpikeGuard(settings, Workers(make_strategy("cpu:1")))


def watched(losses, cuts=()):
    """The step of the first spike, or the statistics; the losses come in calls cut there."""
    spikes = spikes_of_three()
    for steps in np.split(np.arange(len(losses)), sorted(cuts)):
        call = np.array([losses[step] for step in steps], np.float32)
        try:
            spikes.watch(min(steps, default=0), call, ~np.isfinite(call))
        except Spike as spike:
            return spike.step
    return spikes.state()["spikes/loss_statistics"].tolist()


@given(
    losses=st.lists(st.floats(-100, 100, width=32), max_size=30),
    cuts=st.lists(st.integers(0, 30), max_size=5),
)
def test_where_calls_end_decides_nothing(losses, cuts):
    assert watched(losses, cuts) == watched(losses)


SPIKES: list[tuple[list[float], int]] = [  # losses, and which of them is one
    *(([2, 2, 6.1, 1], 2), ([2, 4, 9.1], 2), ([1, np.inf, 1], 1), ([np.nan], 0)),
    *(([-10, -10, 10.1], 2), ([3, -1, 5.1], 2), ([0, 0, 0.001], 2)),
]
NO_SPIKES: list[list[float]] = [
    [2, 2, 5, 6],
    [5],  # nothing comes before it
    [-10, -10, 9, -10],  # above the mean by less than two times 10
    [3, -1, 4.9],  # a mean of 1, of sizes of 2
]


def test_a_spike_is_so_far_above_the_mean_of_the_steps_before():
    for losses, step in SPIKES:
        assert watched(losses) == step, losses
    for losses in NO_SPIKES:
        assert watched(losses)[0] == len(losses), losses
    with pytest.raises(Spike, match="step 8: the loss or its gradient is NaN or infinite"):
        spikes_of_three().watch(7, np.ones(3, np.float32), np.array([False, True, False]))
    # Of 100 losses the mean is theirs; later each one moves it by a hundredth of its distance.
    assert watched([2.0] * 100)[1] == pytest.approx(2)
    assert watched([2.0] * 100 + [1.0] * 69)[1] == pytest.approx(1 + 0.99**69)


@pytest.mark.workers
def test_two_workers_go_back_together(tmp_path):
    file = tmp_path / "own.npz"
    settings = SHORT | {
        "data.name": f"arrays:{file}",
        "model.output_activation": "linear",
        "model.code_size": 2,
        "batch_size": BATCH_SIZE,
        "num_epochs": 1.0,
        "optimizer.schedule": "constant",
        "checkpoint_every_steps": 4,
        "spikes.loss_ratio": 5.0,
        "spikes.skip_steps": 3,
    }
    config = load_config("dense")
    config.update_from_flattened_dict(settings)
    np.savez(file, train=vectors_with(config, {SPIKE_STEP: 1e4}, file))
    longer = settings | {"num_epochs": 1.5, "spikes.loss_ratio": 0.0}
    for start in (settings, longer):  # the second start knows of the steps that the first skipped
        config.update_from_flattened_dict(start)
        train(config, str(tmp_path / "one"))
        with Launched(tmp_path / "two", start, "dense", max_restarts=0) as launched:
            assert launched.end() == 0, launched.output()
        if start is settings:
            assert launched.output().count("LOSS SPIKE at step 13: ") == 1
    assert skipped(tmp_path / "two") == skipped(tmp_path / "one") == [(11, 13)]
    assert_close(tmp_path / "two", tmp_path / "one")
