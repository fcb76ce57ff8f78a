"""A user's own arrays: read, checked, standardised, and trained on by every kind that can."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from configs import base
from tests.all_configs import CONFIGS, CONVOLUTIONAL, load_config
from tests.runs import assert_a_stop_changes_no_bit
from trainer import data, models
from trainer.data.examples import to_unit
from trainer.errors import UserError
from trainer.evaluation.evaluate import evaluate
from trainer.models.base import StepContext
from trainer.monitoring import figures as pictures
from trainer.positions import Noise
from trainer.run import restore as trained
from trainer.serving.prior_samples import sample
from trainer.train import train

FEATURES = 6
COUNT = 60  # of which 46 are trained on: 12 are cut to test and 2 to validate
TRAINED = 46
BATCH = 8


def vectors(count=COUNT, seed=0):
    """Around 5, with a deviation of 3."""
    return np.random.default_rng(seed).normal(5, 3, (count, FEATURES))


def load(name, validation_fraction=0.1, **settings):
    settings = {"image_size": 0} | settings
    return data.load(name, validation_fraction=validation_fraction, **settings)


def in_order(*arrays):
    """All rows, sorted."""
    rows = np.concatenate(arrays)
    return rows[np.lexsort(rows.T)]


@pytest.fixture
def save(tmp_path):
    def save(**arrays):
        np.savez(tmp_path / "own.npz", **arrays)
        return f"arrays:{tmp_path / 'own.npz'}"

    return save


@pytest.fixture
def vectors_config(digits_config, save):
    """Ten steps of the dense kind on standardised vectors with labels."""
    labels = np.arange(COUNT) % 3
    digits_config.data.name = save(train=vectors(), train_labels=labels)
    digits_config.data.standardise = True
    digits_config.model.output_activation = "linear"
    digits_config.batch_size = BATCH
    digits_config.num_epochs = (10 * BATCH - 1) / TRAINED
    return digits_config


def test_a_single_array_is_trained_on_and_tested_on_a_part(tmp_path, save):
    np.save(tmp_path / "one.npy", vectors())
    single, named = load(f"arrays:{tmp_path / 'one.npy'}"), load(save(train=vectors()))
    assert single.fingerprint() == named.fingerprint()
    with pytest.raises(UserError, match="GiB of memory"):
        load(f"arrays:{tmp_path / 'one.npy'}", memory_gib=1e-9)


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4", "int64", "uint8", "bool"])
def test_vectors_are_taken_as_the_numbers_that_they_are(save, dtype):
    raw = np.random.default_rng(0).integers(0, 200, (30, FEATURES)).astype(dtype)
    own = load(save(train=raw[:20], test=np.asfortranarray(raw[20:])))
    assert own.image_shape == (FEATURES,)
    assert [len(own.train), len(own.validation), len(own.test)] == [18, 2, 10]
    assert {part.images.dtype for part in (own.train, own.validation, own.test)} == {
        np.dtype(np.float32)
    }
    np.testing.assert_array_equal(
        in_order(own.train.images, own.validation.images), in_order(raw[:20].astype(np.float32))
    )
    np.testing.assert_array_equal(own.test.images, raw[20:])
    np.testing.assert_array_equal(to_unit(own.test.images), raw[20:])


def test_labels_go_along_and_a_test_part_is_cut_where_there_is_none(save):
    labels = np.arange(COUNT)
    own = load(save(train=np.repeat(labels[:, np.newaxis], 2, axis=1), train_labels=labels))
    assert [len(own.train), len(own.validation), len(own.test)] == [43, 5, 12]
    for part in (own.train, own.validation, own.test):
        assert part.labels is not None
        np.testing.assert_array_equal(part.images[:, 1], part.labels)


def test_images_are_bytes_or_floats_between_0_and_1(save):
    grey = np.random.default_rng(0).integers(0, 256, (20, 4, 5)).astype(np.uint8)
    as_bytes = load(save(train=grey))
    assert as_bytes.image_shape == (4, 5, 1)
    assert as_bytes.train.images.dtype == np.uint8
    as_floats = load(save(train=grey / 255.0))
    np.testing.assert_allclose(as_floats.test.images, to_unit(as_bytes.test.read()[0]), rtol=1e-6)
    assert load(save(train=np.zeros((20, 4, 5, 3)))).image_shape == (4, 5, 3)


def test_vectors_lie_where_tensorflow_can_share_them(save):
    rows = load(save(train=vectors())).train.images
    assert isinstance(rows, np.ndarray)
    assert rows.ctypes.data % 64 == 0
    assert rows.flags.writeable


def test_features_are_standardised_by_the_training_part_alone(save):
    raw, test = vectors(), 100 * vectors(7, seed=1)
    raw[:, 2] = 0.1  # no float32 is, so that a mean of many need not be exact
    name = save(train=raw, test=test)
    before, after = load(name), load(name, standardise=True)
    trained, _ = before.train.read()
    mean = trained.mean(axis=0, dtype=np.float64)
    deviation = trained.std(axis=0, dtype=np.float64)
    deviation[2] = 1
    for part in ("train", "validation", "test"):
        rows, expected = getattr(after, part).images, getattr(before, part).images
        np.testing.assert_allclose(rows, (expected - mean) / deviation, rtol=1e-5, atol=1e-6)
    kept = np.arange(FEATURES) != 2
    np.testing.assert_allclose(after.train.images[:, kept].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(after.train.images[:, kept].std(axis=0), 1, rtol=1e-6)
    np.testing.assert_allclose(after.train.images[:, 2], 0, atol=1e-6)


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("part", ["train", "test"])
def test_another_number_is_another_data_set(save, part, standardise):
    def fingerprint(**changed):
        arrays = {"train": vectors(), "test": vectors(10, seed=1)}
        return load(save(**arrays | changed), standardise=standardise).fingerprint()

    changed = vectors() if part == "train" else vectors(10, seed=1)
    changed[3, 4] += 0.01
    assert fingerprint() == fingerprint()
    assert fingerprint(**{part: changed}) != fingerprint()


def with_one(value):
    rows = vectors(20)
    rows[7, 3] = value
    return rows


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": vectors(20)}, "has no array 'train'; it holds 'x_train'"),
        ({}, "has no array 'train'; it holds nothing"),
        ({"train": vectors(20), "labels": [0]}, "holds 'labels', but only train, test"),
        ({"train": np.array([[{}]] * 20)}, "'train' in {path} cannot be read as an array"),
        ({"train": np.array([["a"]] * 20)}, "'train' in {path} is of type <U1; only real"),
        ({"train": np.ones((20, 2), complex)}, "is of type complex128; only real numbers"),
        ({"train": with_one(np.nan)}, "holds nan in row 7, column 3"),
        ({"train": vectors(20), "test": with_one(-np.inf)}, "'test' in {path} holds -inf in row 7"),
        ({"train": with_one(1e39)}, "holds 1e+39 in row 7, column 3"),
        (
            {"train": vectors(20), "test": vectors(9)[:, 1:]},
            "rows of 5 numbers, where 'train' has 6",
        ),
        ({"train": np.ones(20)}, "has the shape (20,); vectors are [N, D]"),
        ({"train": np.ones((20, 0))}, "has the shape (20, 0), in which there is no number"),
        ({"train": vectors(20), "test": vectors(0)}, "'test' in {path} has the shape (0, 6)"),
        ({"train": np.ones((20, 4, 4), int)}, "they must be uint8, or floats in [0, 1]"),
        ({"train": np.full((20, 4, 4), 1.5)}, "reach from 1.5 to 1.5; floats must lie in [0, 1]"),
        (
            {"train": vectors(20), "train_labels": np.arange(19)},
            "'train_labels' in {path} must be 20 integers",
        ),
        ({"train": vectors(20), "train_labels": np.ones(20)}, "but is float64 [20]"),
        ({"train": vectors(20), "train_labels": np.ones(20, int)}, "are all 1"),
        ({"train": vectors(20), "test_labels": np.arange(5)}, "holds 'test_labels' without 'test'"),
        ({"train": vectors(4)}, "cannot give up a share of 0.1"),
    ],
)
def test_arrays_that_do_not_serve_are_named_in_one_line(save, arrays, message):
    name = save(**arrays)
    with pytest.raises(UserError) as error:
        load(name)
    assert message.format(path=name.removeprefix("arrays:")) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 8}, "data.image_size=8 is not allowed"),
        ({"placement": "records"}, "data.placement='records' needs files of TFDS"),
        ({"memory_gib": 1e-9}, "GiB of memory"),
        ({"binarise": True}, "data.binarise=True needs images"),
    ],
)
def test_settings_that_vectors_cannot_have_are_refused(save, settings, message):
    with pytest.raises(UserError, match=message):
        load(save(train=vectors()), **settings)


def test_images_are_not_standardised():
    with pytest.raises(UserError, match="standardise=True needs vectors; 'digits'"):
        load("digits", standardise=True)


def test_a_file_that_is_no_npz_is_named_in_one_line(tmp_path, save):
    np.save(tmp_path / "objects.npy", np.array([{}]))
    (tmp_path / "empty.npz").touch()
    (tmp_path / "text.npz").write_text("1,2,3\n")
    whole = Path(save(train=vectors()).removeprefix("arrays:"))
    (tmp_path / "cut.npz").write_bytes(whole.read_bytes()[:-100])
    damaged = bytearray(whole.read_bytes())
    damaged[600] ^= 1
    (tmp_path / "damaged.npz").write_bytes(damaged)
    for file, message in {
        "none.npz": "No such file or directory",
        ".": "Is a directory",
        "objects.npy": "cannot be read as an array of numbers",
        "empty.npz": r"is no \.npz or \.npy file",
        "text.npz": r"is no \.npz or \.npy file",
        "cut.npz": r"is no \.npz or \.npy file",
        "damaged.npz": "'train' in .* cannot be read as an array of numbers",
    }.items():
        with pytest.raises(UserError, match=message) as error:
            load(f"arrays:{tmp_path / file}")
        assert str(tmp_path / file) in str(error.value)
        assert "\n" not in str(error.value)
    for name in ("arrays", "arrays:"):
        with pytest.raises(UserError, match=r"it is written arrays:FILE\.npz or"):
            load(name)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("own.npz", "arrays"), ("own.npy", "arrays"), ("own.csv", "table"), ("tests", "images")],
)
def test_data_without_their_prefix_are_told_how_they_are_written(monkeypatch, name, kind):
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(UserError, match=rf"did you mean {kind}:{name}\?"):
        load(name)


def test_a_missing_file_ends_the_command_with_one_line_and_status_2(tmp_path):
    result = subprocess.run(
        [
            *(sys.executable, "-m", "trainer", "--config=configs/dense.py"),
            *(f"--workdir={tmp_path / 'run'}", "--config.data.name=arrays:none.npz"),
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr == "error: none.npz cannot be read: No such file or directory\n"


def fitted(model):
    """The settings of a kind, of a size that suits a few features, and dense where it can be."""
    small = {
        "network": "dense",
        "layer_sizes": (5, 3),
        "hidden_units": (8,) if model.get("hidden_units") else (),
        "code_size": 4,
        "active_units": 2,
        "first_active_units": 3,
        "alpha": 1.5,
        "nll_samples": 20,
    }
    model.update({key: value for key, value in small.items() if key in model})
    return model


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in CONVOLUTIONAL])
def test_every_config_of_dense_layers_trains_on_vectors(name, save, tmp_path):
    config = load_config(name)
    config.data.name = save(train=np.random.default_rng(0).random((COUNT, FEATURES)))
    config.data.resplit_test = 0.0  # of so few there is nothing left to cut
    fitted(config.model)
    config.batch_size = BATCH
    config.num_epochs = (2 * BATCH - 1) / TRAINED
    config.execution = "graph"
    assert np.isfinite(train(config, str(tmp_path / "run"))["loss"])


@pytest.mark.parametrize("settings", [base.conv(), base.deep_conv(), base.denoising(), base.vae()])
def test_convolutions_refuse_vectors(settings):
    if "network" in settings:
        settings.network = "conv"
    with pytest.raises(UserError, match=r"convolutions need images .* not vectors of 6 numbers"):
        models.create((FEATURES,), **settings)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in CONVOLUTIONAL])
def test_a_vector_is_encoded_and_lost_as_an_image_of_its_numbers(name):
    # The same weights, the same numbers: where they stand in the picture changes nothing.
    rows = np.random.default_rng(0).random((3, FEATURES), np.float32)
    settings = fitted(load_config(name).model).to_dict()
    of_vectors, of_images = (models.create(shape, **settings) for shape in ((6,), (2, 3, 1)))
    of_images.set_weights(of_vectors.get_weights())
    losses = []
    for model in (of_vectors, of_images):
        images = rows.reshape(3, *model.image_shape)
        assert model(images).shape == images.shape
        statistics = model.statistics(images)
        means = None if statistics is None else tf.reduce_mean(statistics, axis=0)
        noise = Noise(0, 0, 3)
        moment = StepContext(noise, progress=tf.constant(0.5), training=True, batch_means=means)
        losses.append(model.loss_terms(images, moment))
    np.testing.assert_allclose(of_vectors.encode(rows), of_images.encode(rows.reshape(3, 2, 3, 1)))
    if name != "denoising":  # which cuts the noise of pixels alone
        for term, values in losses[0].items():
            np.testing.assert_allclose(values, losses[1][term], rtol=1e-5)


def test_gaussian_noise_of_vectors_is_not_cut():
    settings = fitted(base.denoising()).to_dict() | {"corruption_level": 0.5}
    model = models.create((FEATURES,), **settings)
    rows = vectors(5000).astype(np.float32)
    noise = np.asarray(model.corrupted(rows, Noise(0, 0, 5000))) - rows
    # 30,000 numbers: the standard error of their deviation is .5 / sqrt(60,000) = .002.
    assert noise.std() == pytest.approx(0.5, abs=0.01)
    assert np.abs(noise).max() > 1


def test_a_large_batch_of_vectors_is_cut_to_the_same_result(vectors_config, save, tmp_path):
    vectors_config.data.name = save(train=vectors(600))
    vectors_config.batch_size = 256
    vectors_config.num_epochs = 1.0
    losses = []
    for execution in ("graph", "xla_products"):  # which cuts what is larger than 128
        vectors_config.execution = execution
        losses.append(train(vectors_config, str(tmp_path / execution))["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_a_run_on_vectors_that_is_stopped_ends_with_the_same_bits(
    vectors_config, tmp_path, monkeypatch
):
    assert_a_stop_changes_no_bit(vectors_config, tmp_path, monkeypatch, calls=2, step=4)


def test_a_file_may_move_but_not_change(vectors_config, save, tmp_path):
    train(vectors_config, str(tmp_path / "run"))
    (tmp_path / "own.npz").rename(tmp_path / "moved.npz")
    with pytest.raises(UserError, match="No such file"):
        evaluate(str(tmp_path / "run"))
    vectors_config.data.name = f"arrays:{tmp_path / 'moved.npz'}"
    train(vectors_config, str(tmp_path / "run"))
    assert np.isfinite(evaluate(str(tmp_path / "run"))["mse"])
    vectors_config.data.name = save(train=vectors(seed=1), train_labels=np.arange(COUNT) % 3)
    with pytest.raises(UserError, match=r"own\.npz' have changed"):
        train(vectors_config, str(tmp_path / "run"))
    vectors_config.data.name = "digits"
    vectors_config.data.standardise = False
    with pytest.raises(UserError, match=r"data\.name was"):
        train(vectors_config, str(tmp_path / "run"))


LINEAR = {"output_activation": "linear"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (base.dense(), "model.output_activation='sigmoid' needs numbers in [0, 1]"),
        (base.dense().to_dict() | {"loss": "bce"}, "model.loss='bce' needs numbers in [0, 1]"),
        (base.vae(), "model.likelihood='bernoulli' needs numbers in [0, 1]"),
        (
            base.denoising().to_dict() | LINEAR | {"corruption": "salt_and_pepper"},
            "model.corruption='salt_and_pepper' needs numbers in [0, 1]",
        ),
    ],
)
def test_what_is_made_for_numbers_between_0_and_1_is_refused_for_others(
    vectors_config, tmp_path, settings, message
):
    vectors_config.model = fitted(type(vectors_config)(settings))
    with pytest.raises(UserError) as error:
        train(vectors_config, str(tmp_path / "run"))
    assert message in str(error.value)
    assert "the data reach from -" in str(error.value)
    assert "; these take model." in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "figures", "shown"),
    [
        (base.dense().to_dict() | LINEAR, {"mse_to_pca", "probe_accuracy"}, ()),
        (base.linear(), {"largest_angle_degrees"}, ()),
        (base.contractive().to_dict() | LINEAR, {"jacobian_norm"}, ("singular_values",)),
        (base.sparse().to_dict() | LINEAR, {"dead_units_share"}, ("activations", "filters")),
        (base.denoising().to_dict() | LINEAR, {"denoised_mse"}, ("denoising_levels",)),
        (
            base.vae().to_dict() | {"likelihood": "gaussian", "binarisation": "none"},
            {"nll_nats", "elbo_nats"},
            ("prior_samples", "interpolations"),
        ),
    ],
)
def test_a_run_on_vectors_is_measured_and_shown(
    vectors_config, save, tmp_path, settings, figures, shown
):
    vectors_config.data.name = save(
        train=vectors(), test=vectors(20, 1), train_labels=np.arange(COUNT) % 3,
        test_labels=np.arange(20) % 3,
    )  # fmt: skip
    vectors_config.model = fitted(type(vectors_config)(settings))
    run = str(tmp_path / "run")
    train(vectors_config, run)
    metrics = evaluate(run)
    assert np.isfinite(metrics["mse"])
    assert figures < metrics.keys()
    assert not {"psnr_db", "ssim", "bce", "denoised_bce"} & metrics.keys()
    for name in (*shown, "reconstructions"):
        assert (tmp_path / "run" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_vectors_between_0_and_1_have_a_bce_and_are_drawn_from_a_prior(
    vectors_config, save, tmp_path
):
    vectors_config.data.standardise = False
    vectors_config.data.name = save(train=np.random.default_rng(0).random((COUNT, FEATURES)))
    vectors_config.model = fitted(base.vae())
    run = str(tmp_path / "run")
    train(vectors_config, run)
    assert evaluate(run)["bce"] > 0
    drawn = np.load(sample(run, 5) / "samples.npz")
    assert set(drawn.files) == {"codes", "vectors"}
    assert drawn["vectors"].shape == (5, FEATURES)


def test_vectors_outside_0_and_1_are_drawn_from_a_prior_uncut(vectors_config, tmp_path):
    gaussian = {"likelihood": "gaussian", "binarisation": "none"}
    vectors_config.model = fitted(type(vectors_config)(base.vae().to_dict() | gaussian))
    run = str(tmp_path / "run")
    train(vectors_config, run)
    assert np.load(sample(run, 50) / "samples.npz")["vectors"].min() < 0


def test_a_picture_of_vectors_shows_their_numbers():
    rows = {"original": vectors(10), "code": vectors(10, 1)[:, :2], "reconstruction": vectors(10)}
    shown = pictures.reconstructions(rows)
    assert shown.dtype == np.uint8
    assert shown.shape[2] == 3
    rows["reconstruction"] = rows["reconstruction"] + 1
    assert (pictures.reconstructions(rows) != shown).any()
    flat = {"original": np.zeros((3, FEATURES)), "code": np.zeros((3, 2))}
    assert pictures.reconstructions(flat).dtype == np.uint8
    assert (pictures.grid(vectors(5), columns=2) != pictures.grid(vectors(5, 1), columns=2)).any()


def test_a_run_on_vectors_notes_how_they_were_standardised(vectors_config, tmp_path):
    train(vectors_config, str(tmp_path / "run"))
    dataset = data.load(**vectors_config.data)
    found = trained.load_model(tmp_path / "run")
    assert found.model.image_shape == dataset.image_shape
    assert found.scaling is not None
    np.testing.assert_equal(vars(found.scaling), vars(dataset.scaling))
    rows = vectors(5, seed=1)
    standardised = found.scaling.apply(rows)
    np.testing.assert_allclose(found.scaling.undo(standardised), rows, rtol=1e-5)
