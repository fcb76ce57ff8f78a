"""Vectors are trained on, measured and drawn by every kind of dense layers, as images are."""

import numpy as np
import pytest
import tensorflow as tf

from tests.all_configs import CONVOLUTIONAL, KINDS, tiny
from tests.data.conftest import FEATURES, vectors
from trainer import data, models
from trainer.config import defaults, kind_settings, parse_model
from trainer.evaluation.evaluate import evaluate
from trainer.models.base import StepContext
from trainer.monitoring import example_columns, figures
from trainer.positions import Noise
from trainer.run import restore
from trainer.serving.prior_samples import sample
from trainer.training.train import train

COUNT = 60  # 46 are trained on: 12 are cut to test and 2 to validate
DENSE = [kind for kind in KINDS if kind not in CONVOLUTIONAL]


def model_keys(kind, **changes):
    """The keys of a small model of a kind that takes vectors."""
    own = kind_settings(kind).for_vectors
    assert own is not None
    return defaults(kind).model.to_dict() | tiny(kind) | dict(own) | changes


def create(kind, image_shape=(FEATURES,), **changes):
    return models.create(image_shape, parse_model(model_keys(kind, **changes)))


@pytest.fixture
def config(digits_config, save):
    """Four steps of the dense kind on standardised vectors with labels."""
    digits_config.data.name = save(train=vectors(), train_labels=np.arange(COUNT) % 3)
    digits_config.data.standardise = True
    digits_config.model.output_activation = "linear"
    digits_config.update({"batch_size": 8, "num_epochs": 31 / 46, "figures": False})
    return digits_config


def test_convolutions_refuse_vectors(refused):
    network = {"network": "conv"}
    for kind, keys in (("conv", {}), ("deep_conv", {}), ("vae", network), ("denoising", network)):
        settings = parse_model(defaults(kind).model.to_dict() | tiny(kind) | keys)
        assert "not vectors of 6 numbers" in refused(models.create, (FEATURES,), settings)


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
        shared = {"batch_means": means, "batch_values": model.shared_values(images)}
        context = StepContext(Noise(0, 0, 3), tf.constant(0.5), training=True, **shared)
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
    config.update({"batch_size": 256, "num_epochs": 1.0})
    losses = []
    for execution in ("graph", "xla_products"):  # which cuts what is larger than 128
        config.execution = execution
        losses.append(train(config, str(tmp_path / execution))["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_a_run_on_vectors_knows_their_scaling_and_finds_the_file_where_it_moved(config, tmp_path):
    run = str(tmp_path / "run")
    train(config, run)
    found, dataset = restore.load_model(run), data.load(config.data)
    assert found.model.image_shape == dataset.image_shape == (FEATURES,)
    assert found.scaling is not None
    np.testing.assert_equal(vars(found.scaling), vars(dataset.scaling))
    (tmp_path / "own.npz").rename(tmp_path / "moved.npz")
    config.data.name = f"arrays:{tmp_path / 'moved.npz'}"
    train(config, run)
    metrics = evaluate(run)
    assert np.isfinite(metrics["mse"])
    assert not {"bce", "psnr_db", "ssim"} & metrics.keys()  # not between 0 and 1


def test_what_is_made_for_numbers_between_0_and_1_is_refused_for_others(config, tmp_path, refused):
    for kind, setting, value, others in (
        ("dense", "output_activation", "sigmoid", {}),
        ("dense", "loss", "bce", {"output_activation": "sigmoid"}),
        ("vae", "likelihood", "bernoulli", {}),
        ("denoising", "corruption", "salt_and_pepper", {}),
    ):
        config.model = type(config)(model_keys(kind, **{setting: value}, **others))
        line = refused(train, config, str(tmp_path / "run"))
        assert f"model.{setting}={value!r} needs numbers in [0, 1]" in line
        assert not (tmp_path / "run").exists()


def test_vectors_between_0_and_1_have_a_bce_and_are_drawn_from_a_prior(config, save, tmp_path):
    config.data.standardise = False
    config.data.name = save(train=np.random.default_rng(0).random((COUNT, FEATURES)))
    likelihood = {"likelihood": "bernoulli", "binarisation": "dynamic"}
    config.model = type(config)(model_keys("vae", code_size=4, **likelihood))
    run = str(tmp_path / "run")
    train(config, run)
    metrics = evaluate(run)
    assert {"mse", "nll_nats", "bce"} < metrics.keys()
    assert not {"psnr_db", "ssim"} & metrics.keys()
    drawn = np.load(sample(run, 50) / "samples.npz")
    assert set(drawn.files) == {"codes", "vectors"}
    assert drawn["vectors"].shape == (50, FEATURES)
    assert drawn["vectors"].min() >= 0


def test_an_image_of_vectors_shows_their_numbers():
    rows = {"original": vectors(10), "code": vectors(10, 1)[:, :2], "reconstruction": vectors(10)}
    others = rows | {"reconstruction": rows["reconstruction"] + 1}
    flat = {name: np.zeros_like(rows[name]) for name in ("original", "code")}
    shown, differing, constant = map(example_columns.draw, (rows, others, flat))
    assert shown.dtype == constant.dtype == np.uint8
    assert shown.shape[2] == 3
    assert (shown != differing).any()
    drawn = [figures.labelled_grid("filters", vectors(5, seed), columns=2) for seed in (0, 1)]
    assert (drawn[0] != drawn[1]).any()
