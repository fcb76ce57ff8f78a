"""Loss spikes: the run goes back, and on to the bits of one that never had the steps skipped."""

import json
import os
import pkgutil
import re
import signal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from tests.all_configs import load_config
from tests.distribution.test_workers import SHORT, assert_close
from tests.launched import Launched
from tests.runs import assert_same_bits, charts, final_state, logged, stop_after
from trainer import data, positions
from trainer.distribution.step import Steps
from trainer.distribution.strategy import make_strategy
from trainer.distribution.workers import Workers
from trainer.errors import NonFiniteError, Preempted, UserError
from trainer.monitoring import goodput
from trainer.run.checkpoints import Checkpoints
from trainer.train import train
from trainer.training.loss_spikes import LossSpikes, Spike

BATCH_SIZE = 16
LAST_STEP = 24
SPIKE_STEP = 13


@pytest.fixture
def config(digits_config):
    """Of 24 steps on vectors, the last 3 up to a spike being skipped."""
    digits_config.data.name = "memory"
    digits_config.model.hidden_units = (4,)
    digits_config.model.code_size = 2
    digits_config.model.output_activation = "linear"
    digits_config.batch_size = BATCH_SIZE
    digits_config.num_epochs = LAST_STEP * BATCH_SIZE / 400
    digits_config.data.validation_fraction = 0.2
    digits_config.checkpoint_every_steps = 4
    digits_config.validate_every_steps = 8
    digits_config.figures = False
    digits_config.quiet = True
    digits_config.spikes.loss_ratio = 5.0
    digits_config.spikes.skip_steps = 3
    return digits_config


def skipped(run):
    """Returns the first and the last skipped step of each roll-back."""
    return [tuple(steps) for steps in final_state(run)[1]["spikes/skipped"].tolist()]


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


def losses(run):
    return [(row["split"], row["step"], row["loss"], row.get("rollbacks")) for row in logged(run)]


def assert_same_record(run, other):
    assert_same_bits(run, other)
    assert losses(run) == losses(other)
    for part in ("train", "validation"):
        assert charts(run, part) == charts(other, part)


def train_without(config, run, vectors, skipped, monkeypatch):
    """Trains without these steps, and without anything that knows of spikes."""
    original = Steps.train
    taken = []

    def some(self, first_step, drawn, count):
        if first_step not in skipped:
            taken.append(original(self, first_step, drawn, count))
        return taken[-1]

    with monkeypatch.context() as patch, config.unlocked():
        patch.setattr(Steps, "train", some)
        before = config.copy_and_resolve_references()
        before.spikes.loss_ratio, before.steps_per_call = 0.0, 1
        train(before, str(run), vectors)
    assert len(taken) == LAST_STEP - len(skipped)


def assert_same_weights(run, other):
    (step, state), (other_step, other_state) = final_state(run), final_state(other)
    assert step == other_step == LAST_STEP
    spikes = {"spikes/loss_statistics", "spikes/skipped"}
    paths = state.keys() - spikes
    assert paths == other_state.keys() - spikes
    for path in paths:
        assert state[path].tobytes() == other_state[path].tobytes(), path


@pytest.mark.parametrize(("absurd", "steps_per_call"), [(1e4, 7), (1e30, 1)])
def test_a_spike_leaves_the_bits_of_a_run_without_these_steps(
    config, tmp_path, monkeypatch, capfd, steps_per_call, absurd
):
    config.steps_per_call = steps_per_call
    vectors = vectors_with(config, {SPIKE_STEP: absurd})
    train(config, str(tmp_path / "run"), vectors)
    why = r"the loss is \S+, after a mean of \S+"
    if absurd == 1e30:
        why = "the loss or its gradient is NaN or infinite"
    line = (
        f"LOSS SPIKE at step 13: {why}; back to step 8, steps 11 to 13 are skipped "
        r"\(roll-back 1 of 10\)\n"
    )
    assert re.fullmatch(line, capfd.readouterr().err)
    assert skipped(tmp_path / "run") == [(11, 13)]

    train_without(config, tmp_path / "without", vectors, {11, 12, 13}, monkeypatch)
    assert_same_weights(tmp_path / "run", tmp_path / "without")
    rows = [row for row in logged(tmp_path / "run") if row["split"] == "train"]
    steps = [step for step in range(2, 25, 2) if step != 14]  # before which none was taken
    assert [(row["step"], row["rollbacks"]) for row in rows] == [(s, s > 14) for s in steps]
    assert charts(tmp_path / "run", "train")["training/rollbacks"] == steps
    assert charts(tmp_path / "run", "validation")["loss"] == [8, 16, 24]
    assert json.loads((tmp_path / "run" / goodput.FILE).read_text())["seconds"]["repeated"] > 0


def test_where_images_lie_calls_end_and_logs_are_due_changes_no_bit(config, tmp_path):
    vectors = vectors_with(config, {SPIKE_STEP: 1e4})
    train(config, str(tmp_path / "run"), vectors)
    config.update_from_flattened_dict(
        {
            "data.placement": "host",
            "steps_per_call": 0,
            "log_every_steps": 5,
            "checkpoint_every_steps": 11,
            "keep_checkpoints": 1,
        }
    )
    train(config, str(tmp_path / "other"), vectors)
    assert_same_bits(tmp_path / "run", tmp_path / "other")


def test_on_four_replicas_the_same_steps_are_skipped(config, tmp_path):
    vectors = vectors_with(config, {SPIKE_STEP: 1e4})
    train(config, str(tmp_path / "one"), vectors)
    config.strategy = "cpu:4"
    train(config, str(tmp_path / "four"), vectors)
    assert skipped(tmp_path / "four") == skipped(tmp_path / "one")
    assert_close(tmp_path / "four", tmp_path / "one")


def test_signals_before_at_and_after_a_spike_change_no_bit(config, tmp_path, monkeypatch):
    config.steps_per_call = 1
    config.keep_checkpoints, config.validate_every_steps = 1, 0  # what a spike needs besides
    vectors = vectors_with(config, {SPIKE_STEP: 1e4})
    train(config, str(tmp_path / "alone"), vectors)
    # The second comes in the step that is the spike; from step 11 on there is none before 14.
    for calls, step in ((12, 12), (2, 9), (1, 10), (1, 11), (3, 17)):
        with monkeypatch.context() as patch:
            stop_after(patch, calls, lambda: os.kill(os.getpid(), signal.SIGTERM))
            with pytest.raises(Preempted, match=f"stopped at step {step} "):
                train(config, str(tmp_path / "stopped"), vectors)
    train(config, str(tmp_path / "stopped"), vectors)
    assert_same_bits(tmp_path / "stopped", tmp_path / "alone")
    assert len(skipped(tmp_path / "stopped")) == 1


def test_a_signal_before_two_spikes_in_a_row_changes_no_bit(config, tmp_path, monkeypatch):
    config.steps_per_call = 1
    config.keep_checkpoints, config.checkpoint_every_steps = 1, 2
    config.validate_every_steps, config.spikes.skip_steps = 0, 4
    vectors = vectors_with(config, {SPIKE_STEP: 1e4, SPIKE_STEP + 1: 1e4})
    train(config, str(tmp_path / "alone"), vectors)
    with monkeypatch.context() as patch:
        stop_after(patch, 9, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Preempted, match="stopped at step 9 "):
            train(config, str(tmp_path / "stopped"), vectors)
    train(config, str(tmp_path / "stopped"), vectors)
    assert_same_bits(tmp_path / "stopped", tmp_path / "alone")
    for run in ("alone", "stopped"):  # the second skips four that the first has not
        assert skipped(tmp_path / run) == [(10, 13), (7, 14)]


def test_a_crash_anywhere_in_a_roll_back_changes_no_bit(config, tmp_path, monkeypatch):
    config.checkpoint_every_steps = 1
    vectors = vectors_with(config, {6: 1e4, SPIKE_STEP: 1e4, 20: 1e4})
    train(config, str(tmp_path / "alone"), vectors)
    places = [
        "run.checkpoints.Checkpoints.find_before",
        "run.checkpoints._delete",
        "run.checkpoints.Checkpoints.delete_after",
        "training.loss_spikes.LossSpikes.roll_back",
        "run.checkpoints.Checkpoint.restore",
        "run.metrics_log.MetricsLog.forget_after",
    ]
    for place in places:
        with monkeypatch.context() as patch:
            crash_in_a_roll_back(patch, f"trainer.{place}")
            with pytest.raises(ZeroDivisionError):
                train(config, str(tmp_path / "crashed"), vectors)
    train(config, str(tmp_path / "crashed"), vectors)
    assert_same_record(tmp_path / "crashed", tmp_path / "alone")
    assert skipped(tmp_path / "crashed") == [(4, 6), (11, 13), (18, 20)]


def crash_in_a_roll_back(patch, place):
    """Ends a training once this function has returned to a roll-back."""
    owner, _, name = place.rpartition(".")
    original = getattr(pkgutil.resolve_name(owner), name)
    go_back = goodput.Clock.go_back
    begun = []

    def counted(self):
        begun.append(True)
        go_back(self)

    def crashing(*args, **settings):
        result = original(*args, **settings)
        if begun:
            raise ZeroDivisionError
        return result

    patch.setattr(goodput.Clock, "go_back", counted)
    patch.setattr(place, crashing)


@pytest.mark.parametrize("checkpoint_every_steps", [1, 5])
def test_lost_weights_are_the_spike_of_the_step_that_would_use_them(
    config, tmp_path, monkeypatch, checkpoint_every_steps
):
    lose_weights(monkeypatch)
    config.checkpoint_every_steps = checkpoint_every_steps
    config.steps_per_call = 1
    train(config, str(tmp_path / "run"), vectors_with(config, {}))
    assert skipped(tmp_path / "run") == [(12, 14)]


def test_weights_that_the_last_update_loses_are_the_spike_of_its_step(
    config, tmp_path, monkeypatch
):
    lose_weights(monkeypatch)
    config.num_epochs = (SPIKE_STEP + 0.5) * BATCH_SIZE / 400
    config.spikes.skip_steps = 1
    train(config, str(tmp_path / "run"), vectors_with(config, {}))
    assert skipped(tmp_path / "run") == [(13, 13)]


def lose_weights(patch):
    """Has the update of step 13 be too much for the weights; its loss and gradient are finite."""
    original = Steps.train

    def losing(self, first_step, drawn, count):
        metrics = original(self, first_step, drawn, count)
        if first_step <= SPIKE_STEP < first_step + count:
            variable = self.variables()["model/encoder/code/kernel"]
            variable.assign(variable * np.inf)
        return metrics

    patch.setattr(Steps, "train", losing)


def test_a_validation_that_is_not_finite_is_a_spike_of_the_step_before(
    config, tmp_path, monkeypatch, capfd
):
    original = Steps.evaluate
    calls: list[None] = []

    def sometimes_nan(self, images):
        calls.append(None)
        return original(self, images) if len(calls) != 2 else {"loss": np.nan}

    monkeypatch.setattr(Steps, "evaluate", sometimes_nan)
    train(config, str(tmp_path), vectors_with(config, {}))
    assert skipped(tmp_path) == [(13, 15)]
    assert "LOSS SPIKE at step 15: the validation loss at step 16 is nan" in capfd.readouterr().err
    assert final_state(tmp_path)[0] == LAST_STEP


def test_the_last_steps_may_be_the_ones_that_are_skipped(config, tmp_path, monkeypatch):
    vectors = vectors_with(config, {LAST_STEP - 1: 1e30})
    with_losses = train(config, str(tmp_path / "run"), vectors)
    train_without(config, tmp_path / "without", vectors, {21, 22, 23}, monkeypatch)
    assert_same_weights(tmp_path / "run", tmp_path / "without")
    assert logged(tmp_path / "run")[-1]["loss"] == with_losses["loss"]


def test_a_spike_after_a_spike_skips_further_steps(config, tmp_path, monkeypatch):
    vectors = vectors_with(config, {10: 1e30, 11: 1e30, SPIKE_STEP: 1e30})
    train(config, str(tmp_path / "run"), vectors)
    assert skipped(tmp_path / "run") == [(8, 10), (6, 11), (5, 13)]
    train_without(config, tmp_path / "without", vectors, set(range(5, 14)), monkeypatch)
    assert_same_weights(tmp_path / "run", tmp_path / "without")


def test_float16_overflows_are_no_spikes_and_a_lost_loss_is_one(config, tmp_path, monkeypatch):
    original = Steps.__init__

    def with_a_scale_too_high(self, *arguments, **settings):
        original(self, *arguments, **settings)
        self.optimizer.dynamic_scale.assign(2.0**30)

    monkeypatch.setattr(Steps, "__init__", with_a_scale_too_high)
    config.precision = "float16"
    vectors = vectors_with(config, {SPIKE_STEP: 1e30})
    train(config, str(tmp_path / "run"), vectors)
    rows = [row for row in logged(tmp_path / "run") if row["split"] == "train"]
    assert rows[0]["skipped_steps"] > 0
    assert skipped(tmp_path / "run") == [(11, 13)]
    train_without(config, tmp_path / "without", vectors, {11, 12, 13}, monkeypatch)
    assert_same_weights(tmp_path / "run", tmp_path / "without")


def test_after_so_many_roll_backs_a_spike_ends_the_run(config, tmp_path):
    config.spikes.skip_steps, config.spikes.max_rollbacks = 1, 2
    vectors = vectors_with(config, {6: 1e4, SPIKE_STEP: 1e30, 20: 1e4})
    told = r"^step 20: the loss is \S+, after a mean of \S+, and spikes.max_rollbacks=2 allows no "
    for _ in range(2):
        with pytest.raises(NonFiniteError, match=told + ".* last good checkpoint is .*20$"):
            train(config, str(tmp_path), vectors)
    config.spikes.max_rollbacks = 3
    train(config, str(tmp_path), vectors)
    assert skipped(tmp_path) == [(6, 6), (13, 13), (20, 20)]


def test_an_absurd_learning_rate_is_no_matter_of_steps(config, tmp_path):
    config.optimizer.update({"name": "sgd", "schedule": "constant", "learning_rate": 1e38})
    config.spikes.max_rollbacks = 3
    told = (
        r"^step 7: the loss or its gradient is NaN or infinite, and spikes.max_rollbacks=3 allows"
    )
    with pytest.raises(NonFiniteError, match=told) as error:
        train(config, str(tmp_path), vectors_with(config, {}))
    assert len(str(error.value).splitlines()) == 1
    step, state = final_state(tmp_path)
    assert step == 4
    assert all(np.isfinite(array).all() for array in state.values())


@pytest.mark.parametrize("keep", [1, 3])
def test_a_run_that_has_ended_goes_on_once_roll_backs_are_on(config, tmp_path, monkeypatch, keep):
    config.keep_checkpoints, config.checkpoint_every_steps, config.validate_every_steps = keep, 6, 0
    vectors = vectors_with(config, {SPIKE_STEP: 1e30})
    ratio, config.spikes.loss_ratio = config.spikes.loss_ratio, 0.0
    with pytest.raises(NonFiniteError, match=r"in steps 13 to 13;.*step-0000000012$"):
        train(config, str(tmp_path / "run"), vectors)
    config.spikes.loss_ratio = ratio
    train(config, str(tmp_path / "run"), vectors)
    # Where the only checkpoint left is of a later step, fewer are skipped.
    first = {1: 12, 3: 11}[keep]
    assert skipped(tmp_path / "run") == [(first, 13)]
    train_without(config, tmp_path / "without", vectors, set(range(first, 14)), monkeypatch)
    assert_same_weights(tmp_path / "run", tmp_path / "without")


def test_what_was_skipped_stays_so_once_roll_backs_are_off(config, tmp_path, monkeypatch):
    vectors = vectors_with(config, {SPIKE_STEP: 1e30})
    train(config, str(tmp_path / "alone"), vectors)
    with monkeypatch.context() as patch:
        stop_after(patch, 9, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Preempted, match="stopped at step 11 "):
            train(config, str(tmp_path / "run"), vectors)
    config.spikes.loss_ratio = 0.0
    train(config, str(tmp_path / "run"), vectors)
    assert_same_weights(tmp_path / "run", tmp_path / "alone")


def test_without_roll_backs_whatever_runs_away_ends_the_run_at_its_step(
    config, tmp_path, monkeypatch
):
    config.spikes.loss_ratio = 0.0

    def assert_ends(name, message, vectors):
        run = tmp_path / name
        with pytest.raises(NonFiniteError, match=message) as error:
            train(config, str(run), vectors)
        assert len(str(error.value).splitlines()) == 1
        if (run / "checkpoints").exists():
            assert all(np.isfinite(array).all() for array in final_state(run)[1].values())

    whole = vectors_with(config, {})
    with monkeypatch.context() as patch:
        patch.setattr(Steps, "evaluate", lambda *_: {"loss": np.nan})
        assert_ends("validation", "^the validation loss at step 8 is nan; the last", whole)
    with monkeypatch.context() as patch:
        lose_weights(patch)
        config.checkpoint_every_steps = 7
        assert_ends("weights", "^model/encoder/code/kernel is NaN or infinite at step 14; ", whole)
    told = "NaN or infinite in steps 13 to 13; a lower"
    assert_ends("data", told, vectors_with(config, {SPIKE_STEP: 1e30}))
    config.optimizer.update({"name": "sgd", "schedule": "constant", "learning_rate": 1e38})
    assert_ends("rate", "NaN or infinite in steps 1 to 1; a lower", whole)


def test_without_roll_backs_a_spike_is_a_step_like_others(config, tmp_path):
    config.spikes.loss_ratio = 0.0
    train(config, str(tmp_path), vectors_with(config, {SPIKE_STEP: 1e4}))
    assert not [path for path in final_state(tmp_path)[1] if path.startswith("spikes")]
    assert not [row for row in logged(tmp_path) if "rollbacks" in row]


# What a spike is, and what is kept to go back to.


def spikes_of(**settings):
    defaults = {"loss_ratio": 3.0, "skip_steps": 3, "max_rollbacks": 10}
    return LossSpikes(ConfigDict(defaults | settings), Workers(make_strategy("cpu:1")))


def watched(losses, cuts=()):
    """The step of the first spike among losses, and the state there.

    They are handed over in calls that end at these steps.
    """
    spikes = spikes_of()
    for steps in np.split(np.arange(len(losses)), sorted(cuts)):
        call = np.array([losses[step] for step in steps], np.float32)
        try:
            spikes.watch(min(steps, default=0), call, ~np.isfinite(call))
        except Spike as spike:
            return spike.step, None
    return None, spikes.state()["spikes/loss_statistics"].tolist()


@given(
    losses=st.lists(st.floats(-100, 100, width=32), max_size=30),
    cuts=st.lists(st.integers(0, 30), max_size=5),
)
def test_where_calls_end_decides_nothing(losses, cuts):
    assert watched(losses, cuts) == watched(losses)


@pytest.mark.parametrize(
    ("losses", "step"),
    [
        ([2, 2, 5, 6], None),
        ([2, 2, 6.1, 1], 2),
        ([2, 4, 9.1], 2),  # after a mean of 3
        ([5], None),  # nothing comes before it
        ([1, np.inf, 1], 1),
        ([np.nan], 0),
        ([-10, -10, 9, -10], None),  # above the mean by less than two times 10
        ([-10, -10, 10.1], 2),
        ([3, -1, 4.9], None),  # a mean of 1, of sizes of 2
        ([3, -1, 5.1], 2),
        ([0, 0, 0.001], 2),
    ],
)
def test_a_spike_is_so_far_above_the_mean_of_the_steps_before(losses, step):
    assert watched(losses)[0] == step


def test_the_mean_forgets_what_is_long_past():
    # Of all 100 losses the mean is theirs; later each one moves it by a hundredth of its distance.
    _, (_, mean, _) = watched([2.0] * 100)
    assert mean == pytest.approx(2)
    _, (_, mean, _) = watched([2.0] * 100 + [1.0] * 69)
    assert mean == pytest.approx(1 + 0.99**69)


def test_a_step_that_is_broken_is_a_spike_whatever_its_loss():
    with pytest.raises(Spike, match="step 8: the loss or its gradient is NaN or infinite"):
        spikes_of().watch(7, np.ones(3, np.float32), np.array([False, True, False]))


def saved(folder, losses_by_step, **settings):
    """The steps of the checkpoints that are there after these saves."""
    for step, loss in losses_by_step.items():
        needed_step = max(0, step - settings["back"]) if "back" in settings else None
        Checkpoints(folder, "own").save(
            step,
            {"x": np.zeros(1)},
            validation_loss=loss,
            keep=settings["keep"],
            needed_step=needed_step,
        )
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def test_the_newest_before_the_step_to_go_back_to_is_kept(tmp_path):
    steps = dict.fromkeys(range(0, 100, 10))
    assert saved(tmp_path / "none", steps, keep=1) == [90]
    assert saved(tmp_path / "few", steps, keep=1, back=2) == [80, 90]
    assert saved(tmp_path / "many", steps, keep=1, back=25) == [60, 70, 80, 90]
    assert saved(tmp_path / "late", {50: None, 60: None}, keep=1, back=25) == [50, 60]


def test_the_best_before_the_step_to_go_back_to_is_kept(tmp_path):
    losses = {0: 3.0, 10: 1.0, 20: 2.0, 30: 0.5}
    assert saved(tmp_path / "none", losses, keep=1) == [30]
    assert saved(tmp_path / "some", losses, keep=1, back=2) == [10, 20, 30]


def test_the_newest_whole_one_before_a_step_is_found(tmp_path, capsys):
    saved(tmp_path, dict.fromkeys(range(10, 50, 10)), keep=9)

    checkpoints = Checkpoints(tmp_path, "own")

    def found(step):
        checkpoint = checkpoints.find_before(step)
        assert checkpoint is not None
        return checkpoint.step

    assert [found(step) for step in (45, 40, 39, 10, 9)] == [40, 40, 30, 10, 10]
    (tmp_path / "step-0000000030" / "state.npz").unlink()
    assert found(39) == 20
    assert "CHECKPOINT DAMAGED" in capsys.readouterr().err
    for step in (10, 20):
        (tmp_path / f"step-00000000{step}" / "state.npz").unlink()
    assert found(39) == 40
    checkpoints.delete_after(20)
    assert saved(tmp_path, {}, keep=9) == [10, 20]
    with pytest.raises(UserError, match="none of the 2 checkpoints"):
        checkpoints.find_before(20)


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
