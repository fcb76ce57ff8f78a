"""Vectors are trained on, measured and drawn by every kind of dense layers, as images are."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.all_configs import CONVOLUTIONAL, KINDS, tiny
from tests.runs import assert_a_stop_changes_no_bit
from trainer import data, models
from trainer.config import defaults, kind_settings, parse_model
from trainer.evaluation.evaluate import evaluate
from trainer.models.base import StepContext
from trainer.monitoring import figures
from trainer.positions import Noise
from trainer.run import restore
from trainer.serving.prior_samples import sample
from trainer.train import train

ROOT = Path(__file__).parents[2]
FEATURES = 6
COUNT = 60  # 46 are trained on: 12 are cut to test and 2 to validate
BATCH = 8
DENSE = [kind for kind in KINDS if kind not in CONVOLUTIONAL]


def vectors(count=COUNT, seed=0):
    return np.random.default_rng(seed).normal(5, 3, (count, FEATURES))


def model_keys(kind, **changes):
    """The keys of a small model of a kind that takes vectors."""
    own = kind_settings(kind).for_vectors
    assert own is not None
    return defaults(kind).model.to_dict() | tiny(kind) | dict(own) | changes


def create(kind, image_shape=(FEATURES,), **changes):
    return models.create(image_shape, parse_model(model_keys(kind, **changes)))


@pytest.fixture
def config(digits_config, save):
    """Ten steps of the dense kind on standardised vectors with labels."""
    digits_config.data.name = save(train=vectors(), train_labels=np.arange(COUNT) % 3)
    digits_config.data.standardise = True
    digits_config.model.output_activation = "linear"
    digits_config.batch_size = BATCH
    digits_config.num_epochs = (10 * BATCH - 1) / 46
    return digits_config


@pytest.mark.parametrize("kind", ["conv", "deep_conv", "denoising", "vae"])
def test_convolutions_refuse_vectors(kind, refused):
    keys = defaults(kind).model.to_dict() | tiny(kind)
    keys |= {"network": "conv"} if "network" in keys else {}
    line = refused(models.create, (FEATURES,), parse_model(keys))
    assert "not vectors of 6 numbers" in line


@pytest.mark.parametrize("kind", DENSE)
def test_a_vector_is_encoded_and_lost_as_an_image_of_its_numbers(kind):
    # The same weights, the same numbers: where they stand in the image changes nothing.
    rows = np.random.default_rng(0).random((3, FEATURES), np.float32)
    changes = {"active_units": 2, "first_active_units": 3} if kind == "sparse" else {}
    of_vectors, of_images = (create(kind, shape, **changes) for shape in ((6,), (2, 3, 1)))
    of_images.set_weights(of_vectors.get_weights())
    losses = []
    for model in (of_vectors, of_images):
        images = rows.reshape(3, *model.image_shape)
        assert model(images).shape == images.shape
        statistics = model.statistics(images)
        means = None if statistics is None else tf.reduce_mean(statistics, axis=0)
        progress = tf.constant(0.5)
        context = StepContext(Noise(0, 0, 3), progress=progress, training=True, batch_means=means)
        losses.append(model.loss_terms(images, context))
    np.testing.assert_allclose(of_vectors.encode(rows), of_images.encode(rows.reshape(3, 2, 3, 1)))
    if kind != "denoising":  # it cuts the noise of pixels alone
        for term, values in losses[0].items():
            np.testing.assert_allclose(values, losses[1][term], rtol=1e-5)


def test_gaussian_noise_of_vectors_is_not_cut():
    model = create("denoising", corruption_level=0.5)
    rows = vectors(5000).astype(np.float32)
    noise = np.asarray(model.corrupted(rows, Noise(0, 0, 5000))) - rows
    # 30,000 numbers: the standard error of their std is .5 / sqrt(60,000) = .002.
    assert noise.std() == pytest.approx(0.5, abs=0.01)
    assert np.abs(noise).max() > 1


def test_a_large_batch_of_vectors_is_cut_to_the_same_result(config, save, tmp_path):
    config.data.name = save(train=vectors(600))
    config.batch_size = 256
    config.num_epochs = 1.0
    losses = []
    for execution in ("graph", "xla_products"):  # which cuts what is larger than 128
        config.execution = execution
        losses.append(train(config, str(tmp_path / execution))["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_a_run_on_vectors_that_is_stopped_ends_with_the_same_bits(config, tmp_path, monkeypatch):
    assert_a_stop_changes_no_bit(config, tmp_path, monkeypatch, calls=2, step=4)


def test_a_run_on_vectors_knows_their_scaling_and_finds_the_file_where_it_moved(
    config, save, tmp_path, refused
):
    run = str(tmp_path / "run")
    train(config, run)
    found, dataset = restore.load_model(run), data.load(config.data)
    assert found.model.image_shape == dataset.image_shape == (FEATURES,)
    assert found.scaling is not None
    np.testing.assert_equal(vars(found.scaling), vars(dataset.scaling))

    (tmp_path / "own.npz").rename(tmp_path / "moved.npz")
    assert "No such file" in refused(evaluate, run)
    config.data.name = f"arrays:{tmp_path / 'moved.npz'}"
    train(config, run)
    assert np.isfinite(evaluate(run)["mse"])
    config.data.name = save(train=vectors(seed=1), train_labels=np.arange(COUNT) % 3)
    assert "other data" in refused(train, config, run)
    config.data.update({"name": "digits", "standardise": False})
    assert "data.name was" in refused(train, config, run)


@pytest.mark.parametrize(
    ("kind", "changes", "named"),
    [
        ("dense", {"output_activation": "sigmoid"}, "model.output_activation='sigmoid'"),
        ("dense", {"output_activation": "sigmoid", "loss": "bce"}, "model.loss='bce'"),
        ("vae", {"likelihood": "bernoulli"}, "model.likelihood='bernoulli'"),
        ("denoising", {"corruption": "salt_and_pepper"}, "model.corruption='salt_and_pepper'"),
    ],
)
def test_what_is_made_for_numbers_between_0_and_1_is_refused_for_others(
    config, tmp_path, refused, kind, changes, named
):
    config.model = type(config)(model_keys(kind, **changes))
    line = refused(train, config, str(tmp_path / "run"))
    assert f"{named} needs numbers in [0, 1]" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("unit", [True, False])
def test_vectors_are_drawn_from_a_prior_and_have_a_bce_only_between_0_and_1(
    config, save, tmp_path, unit
):
    if unit:
        config.data.standardise = False
        config.data.name = save(train=np.random.default_rng(0).random((COUNT, FEATURES)))
    likelihood = {"likelihood": "bernoulli", "binarisation": "dynamic"} if unit else {}
    config.model = type(config)(model_keys("vae", code_size=4, **likelihood))
    run = str(tmp_path / "run")
    train(config, run)
    metrics = evaluate(run)
    assert ("bce" in metrics) == unit
    assert {"mse", "nll_nats"} < metrics.keys()
    assert not {"psnr_db", "ssim"} & metrics.keys()
    drawn = np.load(sample(run, 50) / "samples.npz")
    assert set(drawn.files) == {"codes", "vectors"}
    assert drawn["vectors"].shape == (50, FEATURES)
    assert (drawn["vectors"].min() < 0) == (not unit)


def test_an_image_of_vectors_shows_their_numbers():
    rows = {"original": vectors(10), "code": vectors(10, 1)[:, :2], "reconstruction": vectors(10)}
    shown = figures.reconstructions(rows)
    assert shown.dtype == np.uint8
    assert shown.shape[2] == 3
    rows["reconstruction"] = rows["reconstruction"] + 1
    assert (figures.reconstructions(rows) != shown).any()
    flat = {"original": np.zeros((3, FEATURES)), "code": np.zeros((3, 2))}
    assert figures.reconstructions(flat).dtype == np.uint8
    assert (figures.grid(vectors(5), columns=2) != figures.grid(vectors(5, 1), columns=2)).any()


def test_a_missing_file_ends_the_command_with_one_line_and_status_2(tmp_path):
    flags = [f"--workdir={tmp_path / 'run'}", "--config.data.name=arrays:none.npz"]
    command = [sys.executable, "-m", "trainer", "--config=dense", *flags]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr == "error: none.npz cannot be read: No such file or directory\n"
