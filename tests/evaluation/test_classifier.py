"""Fine-tuning: what is learnt and measured, and that the run is left as it was."""

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs import base
from tests.runs import final_state
from tests.steps import adam_steps
from trainer import models
from trainer.data import sources
from trainer.data.dataset import Split, to_unit
from trainer.data.sources import digits
from trainer.distribution import xla
from trainer.distribution.variables import model_variables
from trainer.errors import UserError
from trainer.evaluation import classifier as finetuning
from trainer.evaluation.classifier import Classifier, finetune, print_table
from trainer.evaluation.evaluate import evaluate
from trainer.run import restore, workdir
from trainer.train import train

ROOT = Path(__file__).parents[2]
BATCH = 8
SETTINGS: dict[str, Any] = {
    "num_epochs": 2,
    "batch_size": 64,
    "learning_rate": 3e-3,
    "schedule": "constant",
    "patience_epochs": 2,
}


@pytest.fixture
def digits_run(tmp_path, digits_config):
    train(digits_config, str(tmp_path))
    return tmp_path


def contents(folder):
    """The digest of every file there is, by its path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def arrays(path):
    with np.load(path) as archive:
        return dict(archive)


def toy_images(count=200):
    """Images whose label is the one of three places that is bright, by a random brightness."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % 3
    images = random.integers(0, 40, (count, 6, 6, 1)).astype(np.uint8)
    images[np.arange(count), 2 * labels, labels, 0] = random.integers(120, 256, count)
    return Split(images, labels)


def test_classes_that_a_plane_parts_are_learnt_without_error(tmp_path, digits_config, monkeypatch):
    monkeypatch.setattr(digits, "read", lambda _: sources.Splits(toy_images()))
    train(digits_config, str(tmp_path))
    settings = SETTINGS | {"num_epochs": 30, "patience_epochs": 30, "batch_size": 16}
    metrics = finetune(str(tmp_path), **settings)
    assert metrics["finetuned_test_error"] == metrics["validation_error"] == 0
    assert metrics["labelled_images"] == 152  # of 200, less a fifth to test and 5 % of the rest


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("conv", {}),
        ("sparse", {}),
        ("vae", {"code_size": 8, "hidden_units": (16,)}),
        ("denoising", {"layer_sizes": (16, 8)}),
        (
            "contractive",
            {
                "hidden_units": (),
                "code_activation": "sigmoid",
                "tied_weights": True,
                "jacobian": "closed_form",
            },
        ),
    ],
)
def test_a_kind_is_finetuned_beside_its_frozen_code(tmp_path, digits_config, kind, settings):
    digits_config.model = getattr(base, kind)()
    digits_config.model.update(settings)
    train(digits_config, str(tmp_path))
    before = contents(tmp_path)
    metrics = finetune(str(tmp_path), **SETTINGS)
    after = contents(tmp_path)
    assert {path: after[path] for path in before} == before
    assert after.keys() - before.keys() == {"finetuned.json", "finetuned.npz"}
    assert json.loads((tmp_path / "finetuned.json").read_text()) == metrics
    assert metrics["weights_sha256"] == after["finetuned.npz"]
    assert 0 < metrics["finetuned_test_error"] < 0.9
    assert 0 < metrics["frozen_test_error"] < 0.9

    _, trained_before = final_state(tmp_path)
    weights = arrays(tmp_path / "finetuned.npz")
    encoder = {path for path in trained_before if path.startswith("model/encoder/")}
    assert weights.keys() == encoder | {"model/softmax/kernel", "model/softmax/bias"}
    for path in encoder:
        assert not np.array_equal(weights[path], trained_before[path]), path


def test_the_pixels_that_were_selected_stay_while_a_softmax_learns(tmp_path, digits_config):
    digits_config.model = base.concrete()
    digits_config.model.code_size = 20
    train(digits_config, str(tmp_path))
    selected = restore.load(tmp_path).model.encoder.get_weights()
    metrics = finetune(str(tmp_path), **SETTINGS)
    weights = arrays(tmp_path / "finetuned.npz")
    (logits,) = (weights[path] for path in weights if path.startswith("model/encoder/"))
    np.testing.assert_array_equal(logits, selected[0])
    assert 0 < metrics["finetuned_test_error"] < 0.9


def test_the_weights_written_are_those_that_were_measured(digits_run):
    metrics = finetune(str(digits_run), **SETTINGS)
    run = restore.load(digits_run)
    classifier = Classifier(run.model, 10)
    weights = arrays(digits_run / "finetuned.npz")
    for path, variable in model_variables(classifier).items():
        variable.assign(weights[path])
    images, labels = run.dataset.test.read()
    told = np.argmax(classifier(to_unit(images)), axis=1)
    assert np.mean(told != labels) == pytest.approx(metrics["finetuned_test_error"], abs=1e-9)


def test_the_frozen_error_is_that_of_the_probe_and_is_named_apart(digits_run, capsys):
    frozen = 1 - evaluate(str(digits_run))["probe_accuracy"]
    metrics = finetune(str(digits_run), **SETTINGS)
    assert metrics["frozen_test_error"] == pytest.approx(frozen)
    capsys.readouterr()
    print_table(metrics, str(digits_run))
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["finetuned", f"{metrics['finetuned_test_error']:.2%}"] in [row[:2] for row in table]
    assert ["frozen", f"{frozen:.2%},"] in [row[:2] for row in table]


def test_the_same_command_gives_the_same_numbers(digits_run):
    first, second = (finetune(str(digits_run), **SETTINGS) for _ in range(2))
    del first["training_seconds"], second["training_seconds"]
    assert first == second


def test_the_epoch_is_chosen_by_validation_error_then_cross_entropy(digits_run, monkeypatch):
    told = [(0.5, 0.1), (0.3, 0.8), (0.3, 0.7), (0.3, 0.7), (0.4, 0.1), (0.0, 0.0)]
    at_test = (0.25, 0.5)

    def finetuned(measurements, **settings):
        # The last of them is asked of the test images.
        following = iter(measurements)
        monkeypatch.setattr(finetuning, "_measure", lambda *_: next(following))
        return finetune(str(digits_run), **SETTINGS | settings)

    stopped = finetuned([*told[:5], at_test], num_epochs=9, patience_epochs=2)
    assert (stopped["best_epoch"], stopped["epochs"]) == (3, 5)
    assert (stopped["validation_error"], stopped["finetuned_test_error"]) == (0.3, 0.25)
    in_three = finetuned([*told[:3], at_test], num_epochs=3)
    assert in_three["weights_sha256"] == stopped["weights_sha256"]
    patient = finetuned([*told, at_test], num_epochs=6, patience_epochs=3)
    assert (patient["best_epoch"], patient["epochs"]) == (6, 6)


def test_from_scratch_begins_with_the_weights_that_the_run_began_with(tmp_path, digits_config):
    digits_config.keep_checkpoints = 9
    train(digits_config, str(tmp_path))
    first = finetuning._with_first_weights(restore.load(tmp_path))
    began = np.load(tmp_path / workdir.CHECKPOINTS / "step-0000000000" / "state.npz")
    for path, variable in model_variables(first).items():
        np.testing.assert_array_equal(variable, began[path])

    with_run = finetune(str(tmp_path), **SETTINGS)
    metrics = finetune(str(tmp_path), **SETTINGS, from_scratch=True)
    assert json.loads((tmp_path / "from_scratch.json").read_text()) == metrics
    assert json.loads((tmp_path / "finetuned.json").read_text()) == with_run
    assert "finetuned_test_error" not in metrics
    assert metrics["weights_sha256"] != with_run["weights_sha256"]


def test_few_labels_are_some_of_many(digits_run):
    dataset = restore.load(digits_run).dataset
    few, many = (finetuning._labelled(dataset.train, count) for count in (100, 300))
    assert (len(few), len(many)) == (100, 300)
    np.testing.assert_array_equal(many.images[:100], few.images)
    assert many.labels is not None
    np.testing.assert_array_equal(many.labels[:100], few.labels)
    assert len(finetuning._labelled(dataset.train, 0)) == len(dataset.train)
    metrics = finetune(str(digits_run), **SETTINGS, labels=100)
    assert metrics["labelled_images"] == 100


def classifier_steps(devices=1, execution="graph", name="dense"):
    settings = {"dense": base.dense, "conv": base.conv}[name]()

    def create():
        keras.utils.set_random_seed(0)
        return Classifier(models.create((12, 12, 1), **settings), 3)

    return adam_steps(create, devices, execution)


def drawn_examples(count=4):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (50, 12, 12, 1)).astype(np.uint8)
    numbers = random.integers(0, 50, (count, BATCH)).astype(np.int32)
    return images, numbers, random.integers(0, 3, 50)


@pytest.mark.parametrize(
    ("name", "execution", "placed"),
    [
        ("dense", "graph", False),
        ("dense", "xla", True),
        ("conv", "graph", True),
        ("conv", "xla_products", True),
    ],
)
def test_two_replicas_learn_labels_as_one_does(name, execution, placed, monkeypatch):
    monkeypatch.setattr(xla, "CUT_SIZE", 3)  # a replica's batch in parts, of products
    images, numbers, labels = drawn_examples()
    learnt = []
    for devices in (1, 2):
        _, steps = classifier_steps(devices, execution, name)
        if placed:
            assert steps.cache_on_device(images)
        drawn = numbers if placed else images[numbers]
        metrics = steps.train(0, drawn, labels=labels[numbers])
        learnt.append((metrics["loss"], [v.numpy() for v in steps.variables().values()]))
    (one_loss, one), (two_loss, two) = learnt
    np.testing.assert_allclose(two_loss, one_loss, atol=1e-5)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-5)


@pytest.mark.parametrize("devices", [1, 2])
def test_the_step_minimises_the_mean_cross_entropy(devices):
    images, numbers, labels = drawn_examples(1)
    classifier, steps = classifier_steps(devices)
    unit = images[numbers[0]] / np.float32(255)
    rows, wanted = np.arange(BATCH), labels[numbers[0]]
    with tf.GradientTape() as tape:
        probabilities = tf.nn.softmax(classifier(unit))
        chosen = tf.gather_nd(probabilities, np.stack([rows, wanted], axis=1))
        loss = -tf.reduce_mean(tf.math.log(chosen))
    norm = tf.linalg.global_norm(tape.gradient(loss, classifier.trainable_variables))
    metrics = steps.train(0, images[numbers], labels=labels[numbers])
    assert metrics["loss/cross_entropy"][0] == pytest.approx(float(loss), rel=1e-5)
    assert metrics["gradient_norm"][0] == pytest.approx(float(norm), rel=1e-4)


def test_weights_that_the_loss_passes_by_stay_as_they_are():
    images, numbers, labels = drawn_examples(1)
    classifier, steps = classifier_steps()
    unused = classifier.encoder.get_layer("hidden_1").bias
    classifier._encode = lambda images: tf.stop_gradient(classifier.encoder(images))
    before = unused.numpy()
    kernel_before = classifier.softmax.kernel.numpy()
    steps.train(0, images[numbers], labels=labels[numbers])
    np.testing.assert_array_equal(unused, before)
    assert not np.array_equal(classifier.softmax.kernel, kernel_before)


def test_a_kill_midway_leaves_the_workdir_as_it_was(digits_run):
    before = contents(digits_run)
    command = [sys.executable, "-m", "trainer.finetune", f"--workdir={digits_run}"]
    command += ["--num_epochs=1000000", "--patience_epochs=1000000"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("epoch 1 of ")
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
    assert process.returncode == -signal.SIGTERM
    assert contents(digits_run) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_epochs": 0}, "num_epochs=0 is not allowed"),
        ({"patience_epochs": 0}, "patience_epochs=0 is not allowed"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 is not allowed"),
        ({"learning_rate": float("nan")}, "learning_rate=nan is not allowed"),
        ({"schedule": "linear"}, "optimizer.schedule='linear' is not known"),
        ({"batch_size": 0}, "batch_size=0 is not allowed; 1366 labelled images allow 1 to 1366"),
        ({"batch_size": 64, "labels": 63}, "63 labelled images allow 1 to 63"),
        ({"labels": -1}, "labels=-1 is not allowed"),
        ({"labels": 1367}, "labels=1367 is not allowed; there are 1366 training images"),
        ({"labels": 1}, "the 1 labelled images are of one class"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(digits_config, tmp_path, change, message):
    digits_config.num_epochs = 1e-3
    train(digits_config, str(tmp_path))
    before = contents(tmp_path)
    with pytest.raises(UserError) as error:
        finetune(str(tmp_path), **SETTINGS | change)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert contents(tmp_path) == before


def test_numbers_that_count_no_classes_are_refused(digits_config, tmp_path, monkeypatch):
    def of_years(*_):
        images = toy_images()
        assert isinstance(images.labels, np.ndarray)
        return sources.Splits(Split(images.images, images.labels + 2020))

    monkeypatch.setattr(digits, "read", of_years)
    digits_config.num_epochs = 1e-3
    train(digits_config, str(tmp_path))
    with pytest.raises(UserError, match="reach up to 2022, of 200 images; they must be"):
        finetune(str(tmp_path), **SETTINGS)


def test_a_run_without_labels_is_refused(digits_config, tmp_path):
    digits_config.data.name = "noise:70"
    digits_config.num_epochs = 1.0
    train(digits_config, str(tmp_path))
    with pytest.raises(UserError, match="'noise:70' has no labels"):
        finetune(str(tmp_path), **SETTINGS)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        finetune(str(tmp_path), **SETTINGS)
