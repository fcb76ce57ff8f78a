"""Fine-tuning: what is learnt and measured, and that the run is left as it was."""

import dataclasses
import json
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tests.runs import final_state
from tests.verbs.refusals import contents, refused
from tests.verbs.sources import SIDE, Source, config_of
from trainer.data.dataset import Records, Split, to_unit
from trainer.distribution.variables import model_variables
from trainer.evaluation.classifier import Classifier
from trainer.evaluation.evaluate import evaluate
from trainer.evaluation.finetuning import (
    BestEpoch,
    concatenated,
    finetune,
    initial_model,
    labelled,
    print_table,
)
from trainer.evaluation.finetuning_options import FineTuning
from trainer.run import restore, workdir
from trainer.training.train import train

ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, Any] = {
    "num_epochs": 2,
    "batch_size": 64,
    "learning_rate": 3e-3,
    "schedule": "constant",
    "patience_epochs": 2,
}


def tune(run, **changes):
    return finetune(str(run), FineTuning(**SETTINGS | changes))


def train_run(kind, folder, **changes):
    """Trains a small net of a kind for one step, on digits of 8x8 pixels or on other data."""
    config = config_of(kind, Source({"name": "digits", "image_size": SIDE}, (), True, ""))
    config.update_from_flattened_dict(changes)
    train(config, str(folder))
    return folder


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    return train_run("dense", tmp_path_factory.mktemp("digits"), keep_checkpoints=9)


def arrays(path):
    with np.load(path) as archive:
        return dict(archive)


def toy_images(first_label=0):
    """Images whose label is the one of three places that is bright, by a random brightness."""
    random = np.random.default_rng(0)
    labels = np.arange(200) % 3
    images = random.integers(0, 40, (200, 6, 6, 1)).astype(np.uint8)
    images[np.arange(200), 2 * labels, labels, 0] = random.integers(120, 256, 200)
    return Split(images, labels + first_label)


def toy_run(folder, first_label=0):
    toys = toy_images(first_label)
    np.savez(folder / "toys.npz", train=toys.images, train_labels=toys.labels)
    source = {"data.name": f"arrays:{folder / 'toys.npz'}", "data.image_size": 0}
    return train_run("dense", folder / "run", **source)


def test_classes_that_a_plane_separates_are_learnt_without_error(tmp_path):
    metrics = tune(toy_run(tmp_path), num_epochs=30, patience_epochs=30, batch_size=16)
    assert metrics["finetuned_test_error"] == metrics["validation_error"] == 0
    assert metrics["labelled_examples"] == 152  # of 200, less a fifth to test and 5 % of the rest
    assert metrics["validation_labels"] == 8


@pytest.mark.parametrize(("kind", "moves"), [("vae", True), ("concrete", False)])
def test_an_encoder_learns_but_selected_pixels_stay_and_so_does_the_run(tmp_path, kind, moves):
    changes = {} if moves else {"model.code_size": 20}
    before = contents(train_run(kind, tmp_path, **changes))
    metrics = tune(tmp_path)
    after = contents(tmp_path)
    assert {path: after[path] for path in before} == before
    assert after.keys() - before.keys() == {"finetuned.json", "finetuned.npz"}
    assert json.loads((tmp_path / "finetuned.json").read_text()) == metrics
    assert metrics["weights_sha256"] == after["finetuned.npz"]
    assert 0 < metrics["finetuned_test_error"] < 0.9
    assert 0 < metrics["frozen_test_error"] < 0.9

    _, weights_before = final_state(tmp_path)
    weights = arrays(tmp_path / "finetuned.npz")
    encoder = {path for path in weights_before if path.startswith("model/encoder/")}
    assert weights.keys() == encoder | {"model/softmax/kernel", "model/softmax/bias"}
    for path in encoder:
        assert np.array_equal(weights[path], weights_before[path]) != moves, path


@pytest.mark.parametrize("averaging", [{}, {"averaging_decay": 0.9}])
def test_the_written_weights_are_measured_and_the_same_each_time(digits_run, capsys, averaging):
    metrics, again = tune(digits_run, **averaging), tune(digits_run, **averaging)
    del metrics["training_seconds"], again["training_seconds"]
    assert again == metrics
    run = restore.load(digits_run)
    classifier = Classifier(run.model, 10)
    weights = arrays(digits_run / "finetuned.npz")
    for path, variable in model_variables(classifier).items():
        variable.assign(weights[path])
    for split, key in (("test", "finetuned_test_error"), ("validation", "validation_error")):
        images, labels = getattr(run.dataset, split).read()
        predicted = np.argmax(classifier(to_unit(images)), axis=1)
        assert np.mean(predicted != labels) == pytest.approx(metrics[key], abs=1e-9)

    frozen = 1 - evaluate(str(digits_run))["probe_accuracy"]
    assert metrics["frozen_test_error"] == pytest.approx(frozen)
    capsys.readouterr()
    print_table(metrics, str(digits_run))
    table = capsys.readouterr().out
    assert f"finetuned test error  {metrics['finetuned_test_error']:.2%}\n" in table
    assert f"frozen test error  {frozen:.2%}," in table
    for worse in (False, True):
        metrics["finetuned_test_error"] = frozen + 0.01 * worse
        print_table(metrics, str(digits_run))
        assert ("is above the frozen one" in capsys.readouterr().out) == worse


def test_the_epoch_is_chosen_by_validation_error_then_cross_entropy():
    classifier = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    best = BestEpoch(patience_epochs=2)
    validations = [(0.5, 0.1), (0.3, 0.8), (0.3, 0.7), (0.3, 0.7), (0.4, 0.1)]
    stops = []
    for epoch, (error, cross_entropy) in enumerate(validations, start=1):
        classifier.layers[0].bias.assign([epoch])
        stops.append(best.update(epoch, error, cross_entropy, classifier))
    assert stops == [False, False, False, False, True]
    assert not BestEpoch(patience_epochs=0).update(9, math.inf, 0.0, classifier)
    frozen = BestEpoch(patience_epochs=2, freeze_epochs=5)
    assert [frozen.update(epoch, 0.5, 0.1, classifier) for epoch in range(1, 8)] == 6 * [False] + [
        True
    ]
    assert (best.epoch, best.error, best.cross_entropy) == (3, 0.3, 0.7)
    (bias,) = (value for path, value in best.weights.items() if path.endswith("bias"))
    assert bias == 3


def test_from_scratch_begins_with_the_weights_that_the_run_began_with(digits_run, tmp_path):
    at_pca = {"model.start": "pca", "model.output_activation": "linear", "keep_checkpoints": 9}
    for run in (digits_run, train_run("dense", tmp_path, **at_pca)):
        first = initial_model(restore.load(run))
        began = np.load(run / workdir.CHECKPOINTS / "step-0000000000" / "state.npz")
        for path, variable in model_variables(first).items():
            np.testing.assert_array_equal(variable, began[path])

    with_run = tune(digits_run)
    metrics = tune(digits_run, from_scratch=True)
    refit = tune(digits_run, refit=True, patience_epochs=0)
    assert json.loads((digits_run / "refit.json").read_text()) == refit
    assert json.loads((digits_run / "from_scratch.json").read_text()) == metrics
    assert json.loads((digits_run / "finetuned.json").read_text()) == with_run
    assert "finetuned_test_error" not in metrics
    assert metrics["weights_sha256"] != with_run["weights_sha256"]


def encoder_weights(run):
    return {k: v for k, v in arrays(run / "finetuned.npz").items() if "/encoder/" in k}


def test_the_encoder_learns_after_the_frozen_epochs(digits_run):
    _, trained = final_state(digits_run)
    # A rate of 10 ruins the encoder in its first epoch: the weights of the frozen one are kept.
    for learning_rate, frozen in ((10.0, True), (3e-3, False)):
        changes = {"freeze_epochs": 1, "weight_decay": 0.1, "learning_rate": learning_rate}
        metrics = tune(digits_run, **changes)
        assert metrics["best_epoch"] == (1 if frozen else 2)
        for path, weights in encoder_weights(digits_run).items():
            assert np.array_equal(weights, trained[path]) == frozen, path


def test_a_linear_classifier_learns_as_logistic_regression_and_leaves_the_encoder(digits_run):
    run = restore.load(digits_run)
    (codes, labels), (test_codes, test_labels) = (
        (run.model.encode(to_unit(images)).numpy(), labels)
        for images, labels in (run.dataset.train.read(), run.dataset.test.read())
    )
    regression = LogisticRegression(C=math.inf, max_iter=1000).fit(codes, labels)
    expected = 1 - regression.score(test_codes, test_labels)
    learning = {"linear": True, "num_epochs": 150, "learning_rate": 0.1, "schedule": "cosine"}
    metrics = tune(digits_run, **learning, patience_epochs=0)
    assert metrics["linear_test_error"] == pytest.approx(expected, abs=0.03)

    _, trained = final_state(digits_run)
    weights = arrays(digits_run / "linear.npz")
    encoder = {path: value for path, value in weights.items() if "/encoder/" in path}
    assert encoder
    for path, value in encoder.items():
        np.testing.assert_array_equal(value, trained[path])


def test_a_refit_keeps_the_average_of_the_weights_after_the_frozen_epochs(digits_run):
    one_step = {"refit": True, "patience_epochs": 0, "batch_size": 1437, "freeze_epochs": 1}
    history = []
    for num_epochs in (2, 3, 4):
        tune(digits_run, **one_step, num_epochs=num_epochs)
        history.append(arrays(digits_run / "refit.npz"))
    for averaging, shares in (
        ({"averaging_decay": 0.75}, [0.75**2, 0.75, 1]),
        ({"averaging_last_share": 0.5}, [0, 1, 1]),  # of 3 epochs after the frozen one
        ({"averaging_last_share": 1e-9}, [0, 0, 1]),
    ):
        tune(digits_run, **one_step, num_epochs=4, **averaging)
        for path, average in arrays(digits_run / "refit.npz").items():
            expected = np.average([weights[path] for weights in history], axis=0, weights=shares)
            np.testing.assert_allclose(average, expected, rtol=0, atol=1e-6)


def test_weight_decay_shrinks_weights_by_its_share_of_the_learning_rate(digits_run):
    _, trained = final_state(digits_run)
    one_step = {"num_epochs": 1, "batch_size": 1366}
    tune(digits_run, **one_step)
    expected = encoder_weights(digits_run)
    tune(digits_run, **one_step, weight_decay=0.5)
    for path, weights in encoder_weights(digits_run).items():
        decayed = expected[path] - SETTINGS["learning_rate"] * 0.5 * trained[path]
        np.testing.assert_allclose(weights, decayed, rtol=0, atol=1e-6)


def from_files(split):
    rows = Records(split.images.__getitem__, np.arange(len(split)))
    return dataclasses.replace(split, images=rows)


def test_a_refit_learns_from_train_then_validation_and_keeps_the_last_weights(digits_run, capsys):
    refit = {"refit": True, "patience_epochs": 0}
    metrics = tune(digits_run, **refit, code_dropout=0.5)
    dataset = restore.load(digits_run).dataset
    assert metrics["labelled_examples"] == len(dataset.train) + len(dataset.validation)
    assert metrics["epochs"] == SETTINGS["num_epochs"]
    assert not {"validation_error", "best_epoch"} & metrics.keys()
    assert metrics["refit"] is True
    capsys.readouterr()
    print_table(metrics, str(digits_run))
    table = capsys.readouterr().out
    assert "--refit=True" in table
    assert "--code_dropout=0.5" in table
    again = tune(digits_run, **refit, code_dropout=0.5)
    without = tune(digits_run, **refit)
    assert again["weights_sha256"] == metrics["weights_sha256"] != without["weights_sha256"]

    both = concatenated(dataset.train, dataset.validation, 0)
    in_files = concatenated(from_files(dataset.train), from_files(dataset.validation), 0)
    for name in ("images", "labels"):
        expected = np.concatenate([getattr(dataset.train, name), getattr(dataset.validation, name)])
        np.testing.assert_array_equal(getattr(both, name), expected)
        np.testing.assert_array_equal(getattr(in_files, name)[:], expected)
    batches = np.array([[0, len(both) - 1], [1, 2]])
    np.testing.assert_array_equal(in_files.images[batches], both.images[batches])


def test_few_labels_are_some_of_many():
    split = toy_images()
    (few, few_labels), (many, many_labels) = (labelled(split, n).read() for n in (20, 50))
    assert (len(few), len(many)) == (20, 50)
    np.testing.assert_array_equal(many[:20], few)
    assert many_labels is not None
    np.testing.assert_array_equal(many_labels[:20], few_labels)
    np.testing.assert_array_equal(few[:, [0, 2, 4], [0, 1, 2], 0].argmax(axis=1), few_labels)
    assert len(labelled(split, 0)) == len(split)


COMMAND = (sys.executable, "-m", "trainer.finetune")


@pytest.mark.slow
def test_a_kill_midway_leaves_the_workdir_as_it_was(digits_run):
    before = contents(digits_run)
    flags = [f"--workdir={digits_run}", "--num_epochs=1000000", "--patience_epochs=1000000"]
    command = [*COMMAND, *flags]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("epoch 1 of ")
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
    assert process.returncode == -signal.SIGTERM
    assert contents(digits_run) == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_epochs": 0}, "num_epochs=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"learning_rate": math.nan}, "learning_rate=nan"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"schedule": "step"}, "schedule='step'"),
        ({"input_dropout": 1.0}, "input_dropout=1.0"),
        ({"code_dropout": -0.1}, "code_dropout=-0.1"),
        ({"hidden_dropout": math.nan}, "hidden_dropout=nan"),
        ({"weight_decay": math.inf}, "weight_decay=inf"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0"),
        ({"freeze_epochs": 2}, "freeze_epochs=2 is not allowed with num_epochs=2"),
        (
            {"linear": True, "freeze_epochs": 1},
            "freeze_epochs=1 is not allowed with linear",
        ),
        ({"averaging_decay": 1.0}, "averaging_decay=1.0"),
        (
            {"averaging_decay": 0.9, "averaging_last_share": 0.5},
            "averaging_decay=0.9 is not allowed with averaging_last_share=0.5",
        ),
        ({"labels": -1}, "labels=-1"),
        ({"refit": True}, "patience_epochs=2 is not allowed with refit"),
        (
            {"refit": True, "patience_epochs": 0, "labels": 20},
            "labels=20 is not allowed with refit",
        ),
    ],
)
def test_wrong_settings_are_refused_in_one_line(changes, named):
    with refused(named):
        FineTuning(**SETTINGS | changes).check()


def test_flags_are_checked_before_tensorflow_and_a_refit_has_no_patience():
    for flags, named in (
        (("--code_dropout=1.5",), "code_dropout=1.5 is not allowed"),
        (("--refit", "--patience_epochs=3"), "patience_epochs=3 is not allowed with refit"),
        (("--refit",), "holds no run"),
    ):
        command = [*COMMAND, "--workdir=none", *flags]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert named in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_what_the_run_or_its_labels_do_not_allow_is_refused_in_one_line(digits_run, tmp_path):
    for change, named in (
        ({"batch_size": 1367}, "batch_size=1367 is not allowed; 1366"),
        ({"labels": 63}, "63 labelled images allow 1 to 63"),
        ({"labels": 1367}, "labels=1367 is not allowed; there are 1366"),
        ({"labels": 1}, "1 labelled images are of one class"),
    ):
        with refused(named, digits_run):
            tune(digits_run, **change)
    for first_label, named in ((2020, "reach up to 2022, of 200"), (-1, "no labels from 0 up")):
        (tmp_path / named).mkdir()
        with refused(named):
            tune(toy_run(tmp_path / named, first_label))
    with refused("'noise:70' has no labels"):
        tune(train_run("dense", tmp_path / "run", **{"data.name": "noise:70"}))


def test_the_best_epoch_is_the_one_that_is_tested(digits_run):
    # A rate of 10 ruins the first weights: later epochs of constant rate are worse or no better.
    metrics = tune(digits_run, learning_rate=10.0, num_epochs=30, patience_epochs=1)
    assert metrics["epochs"] == metrics["best_epoch"] + 1
    at_best = tune(digits_run, learning_rate=10.0, num_epochs=metrics["best_epoch"])
    for key in ("weights_sha256", "validation_error", "finetuned_test_error"):
        assert at_best[key] == metrics[key]
