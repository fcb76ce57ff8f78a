"""Layer-wise pretraining: its phases are exact, resumable, and leave all else to the last."""

import itertools
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs import base
from tests.all_configs import settings_of
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
from tests.steps import adam_steps
from tests.verbs.refusals import refused
from trainer import models
from trainer.config import parse
from trainer.distribution.step import StepSettings
from trainer.distribution.variables import values_of
from trainer.errors import Preempted, UserError
from trainer.evaluation.evaluate import evaluate
from trainer.run import restore, workdir
from trainer.training.train import describe, train

BATCH = 64
PHASE = 4  # steps of the pretraining of a layer
STEPS = 6  # steps of the training of both layers
LAST_STEP = 2 * PHASE + STEPS
KINDS: dict[str, dict[str, Any]] = {
    "dense": {"hidden_units": (12,), "code_size": 5},
    "contractive": {"hidden_units": (12,), "code_size": 5, "tied_weights": True},
    "denoising": {"network": "dense", "layer_sizes": (12, 5), "corruption": "masking"},
}


def config_of(kind="denoising"):
    config = small_config()
    with config.unlocked():
        config.model = base.get_config(kind).model
    config.model.update(KINDS[kind] | {"activation": "sigmoid"})
    config.update({"num_epochs": STEPS * BATCH / 1366, "steps_per_call": 1, "figures": False})
    config.update({"validate_every_steps": 0, "checkpoint_every_steps": 0, "keep_checkpoints": 99})
    config.pretrain.epochs_per_layer = PHASE * BATCH / 1366
    config.averaging.last_share = 0.5
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a finished run, which no test changes."""
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    train(config_of(), str(folder))
    return folder


def checkpoints(run):
    """The checkpoints of a run by their steps."""
    kept = workdir.read(run).checkpoints
    found = [kept.verify(path) for path in kept.folder.glob("step-*")]
    return {checkpoint.step: checkpoint for checkpoint in found}


@pytest.mark.parametrize("kind", KINDS)
def test_a_phase_trains_one_layer_and_its_counterpart_and_the_last_all(kind, tmp_path):
    config = config_of(kind)
    config.optimizer.update({"schedule": "constant", "weight_decay": 0.1})
    config.pretrain.learning_rate = 0.05
    train(config, str(tmp_path))
    saved = checkpoints(tmp_path)
    assert sorted(saved) == [0, PHASE, 2 * PHASE, LAST_STEP]
    states = [saved[step].state() for step in sorted(saved)]
    weights = {path for path in states[0] if path.startswith("model/")}
    first = {path for path in weights if "encoder/hidden_1" in path or "decoder/logits" in path}
    trained = [first, weights - first, weights]
    for (before, after), expected in zip(itertools.pairwise(states), trained, strict=True):
        moved = {path for path in weights if before[path].tobytes() != after[path].tobytes()}
        assert moved == expected
    rows = [row for row in logged(tmp_path) if row["split"] == "train"]
    for layer in (1, 2):
        own = [row for row in rows if row.get("layer") == layer]
        assert own[-1]["loss"] < own[0]["loss"]
        assert {row["learning_rate"] for row in own} == {np.float32(0.05)}
    assert {row["learning_rate"] for row in rows if "layer" not in row} == {np.float32(1e-3)}


def test_each_phase_begins_with_an_optimizer_and_a_schedule_of_its_own(run):
    trained = {0: 4, PHASE: 4, 2 * PHASE: 8, LAST_STEP: 8}  # variables
    for step, checkpoint in checkpoints(run).items():
        slots = {k: v for k, v in checkpoint.state().items() if "momentum" in k or "velocity" in k}
        assert len(slots) == 2 * trained[step]
        averaged = checkpoint.state().get("averaged_steps")
        assert averaged == {0: None, PHASE: None, 2 * PHASE: 0, LAST_STEP: STEPS // 2}[step]
        assert step == LAST_STEP or not any(map(np.any, slots.values()))
        assert (checkpoint.validation_loss is not None) == (step == LAST_STEP)
    rates = [row["learning_rate"] for row in logged(run) if row["split"] == "train"]
    assert rates[:2] == rates[2:4]
    assert len(rates) == LAST_STEP // 2


def test_losses_are_logged_under_the_name_of_their_layer(run):
    rows = [row for row in logged(run) if row["split"] == "validation"]
    assert [(row["step"], row.get("layer")) for row in rows] == [(4, 1), (8, 2), (LAST_STEP, None)]
    terms = [row.keys() & {"loss/mse", "loss/bce"} for row in rows]
    assert terms == [{"loss/mse"}, {"loss/bce"}, {"loss/mse"}]
    validation, training = charts(run, "validation"), charts(run, "train")
    assert validation["pretrain/layer_2"] == validation["pretrain/layer_2/bce"] == [8]
    assert training["pretrain/layer_2/bce"] == [6, 8]
    assert validation["loss"] == [LAST_STEP]
    assert training["loss"] == [10, 12, 14]


def test_a_run_stopped_in_every_phase_and_between_them_ends_with_the_same_bits(
    run, tmp_path, monkeypatch
):
    done = 0
    for step in (2, PHASE, 7, 2 * PHASE, 11):
        with monkeypatch.context() as patch:
            stop_after(patch, step - done)
            with pytest.raises(Preempted, match=f"step {step} "):
                train(config_of(), str(tmp_path))
        done = step
    train(config_of(), str(tmp_path))
    assert_same_bits(tmp_path, run)


@pytest.mark.slow
def test_kills_and_calls_of_several_steps_leave_no_trace(run, tmp_path, monkeypatch):
    config = config_of()
    config.update({"steps_per_call": 3, "checkpoint_every_steps": 2})
    config.data.placement = "host"
    for calls in (2, 3):  # in the first phase, in the second
        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            stop_after(patch, calls, crash)
            train(config, str(tmp_path))
    train(config, str(tmp_path))
    assert_same_record(tmp_path, run)


def steps_of_a_layer(devices=1, execution="graph", precision="float32"):
    """Steps that have trained another layer before, and that begin with step 10."""

    def create():
        keras.utils.set_random_seed(0)
        settings = {**KINDS["denoising"], "activation": "sigmoid"}
        return models.create((6, 6, 1), settings_of("denoising", **settings))

    model, steps = adam_steps(create, devices, execution, precision=precision)
    steps.begin(
        model.layer_pair(1),
        lambda _: tf.constant(0.05),
        StepSettings(precision, batch_size=8, seed=0, first_step=10, last_step=40),
    )
    return steps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "execution", "devices"),
    [
        ("float16", "xla_update", 1),
        ("bfloat16", "xla", 1),
        ("float32", "xla_products", 1),
        ("float16", "graph", 2),
        ("float32", "xla", 2),
    ],
)
def test_each_precision_and_execution_trains_a_hidden_layer(precision, execution, devices):
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 6, 6, 1)).astype(np.uint8)
    at_once, in_parts = (steps_of_a_layer(devices, execution, precision) for _ in range(2))
    before = values_of(at_once.variables())
    losses = at_once.train(10, images)["loss"]
    assert losses[-1] < losses[0]
    parts = [in_parts.train(first + 10, images[first : first + 10])["loss"] for first in (0, 10)]
    np.testing.assert_array_equal(np.concatenate(parts), losses)
    for path, array in values_of(at_once.variables()).items():
        assert array.tobytes() == in_parts.variables()[path].numpy().tobytes(), path
        if "encoder/hidden_1" in path or "decoder/logits" in path:
            assert array.tobytes() == before[path].tobytes()
    if precision == "float32":
        one = steps_of_a_layer()
        np.testing.assert_allclose(one.train(10, images)["loss"], losses, rtol=1e-4)
        for path, array in values_of(one.variables()).items():
            np.testing.assert_allclose(at_once.variables()[path], array, atol=1e-5, err_msg=path)


def test_a_run_is_evaluated_in_its_pretraining(tmp_path, monkeypatch):
    config = config_of()
    config.checkpoint = "best"
    stop_after(monkeypatch, 6)
    with pytest.raises(Preempted):
        train(config, str(tmp_path))
    assert restore.load_model(tmp_path, "last").step == 6
    metrics = evaluate(str(tmp_path), "last")
    assert (metrics["step"], metrics["last_step"], metrics["finished"]) == (6, LAST_STEP, False)
    with refused("has a validation loss", tmp_path):
        evaluate(str(tmp_path))


def test_patience_and_the_best_checkpoint_consider_all_layers_alone(tmp_path):
    config = config_of()
    config.update({"validate_every_steps": 1})
    config.optimizer.learning_rate = 0.0  # no validation has a lower loss
    config.stop.patience_validations = 2
    train(config, str(tmp_path))
    assert final_state(tmp_path)[0] == 2 * PHASE + 3
    train(config, str(tmp_path))  # is ended already
    assert final_state(tmp_path)[0] == 2 * PHASE + 3
    best = workdir.read(tmp_path).checkpoints.find("best")
    assert best and best.step > 2 * PHASE


@pytest.mark.slow
def test_a_roll_back_may_cross_into_the_layer_before(tmp_path, monkeypatch):
    config = config_of()
    config.spikes.update({"loss_ratio": 1.2, "skip_steps": 3})
    train(config, str(tmp_path / "calm"))
    assert {row["rollbacks"] for row in logged(tmp_path / "calm") if "rollbacks" in row} == {0.0}
    lose_weights(monkeypatch, PHASE, "model/encoder/code/kernel")  # shows in the next step
    train(config, str(tmp_path / "lost"))
    step, state = final_state(tmp_path / "lost")
    assert step == LAST_STEP
    assert state["spikes/skipped"].tolist() == [[PHASE - 1, PHASE + 1]]


def test_the_plan_names_the_phases_and_a_warm_up_that_is_too_long(tmp_path, capsys):
    config = config_of()
    config.optimizer.warmup_steps = PHASE
    describe(config, str(tmp_path / "new"))
    printed = capsys.readouterr().out
    assert "layer 1 up to step 4, layer 2 up to step 8; then all layers up to" in printed
    assert f"only {PHASE} steps in a phase, but optimizer.warmup_steps={PHASE}" in printed
    config.pretrain.epochs_per_layer = 1e300
    with refused("pretrain.epochs_per_layer=1e+300 is not allowed", tmp_path):
        describe(config, str(tmp_path / "new"))


@pytest.mark.parametrize(
    ("kind", "model", "named"),
    [
        ("linear", {}, "model.name='linear'"),
        ("sparse", {"hidden_units": (9,)}, "model.name='sparse'"),
        ("denoising", {"network": "conv"}, "model.network='conv'"),
        ("denoising", {"network": "dense", "layer_sizes": (9,)}, "encoder of 1 layer"),
        ("contractive", {"hidden_units": ()}, "encoder of 1 layer"),
        ("dense", {"start": "pca", "output_activation": "linear"}, "model.start='pca'"),
        (
            "denoising",
            {"network": "dense", "corruption": "salt_and_pepper", "activation": "relu"},
            "model.activation='sigmoid', not 'relu'",
        ),
    ],
)
def test_what_has_no_stack_of_dense_layers_is_refused(kind, model, named):
    config = base.get_config(kind)
    config.model.update(model)
    parse(config)
    config.pretrain.epochs_per_layer = 1.0
    with pytest.raises(UserError) as error:
        parse(config)
    assert named in str(error.value)
    assert "pretrain" in str(error.value)
