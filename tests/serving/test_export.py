"""Exports: of Keras's own layers, loaded in another process, equal to the trainer's outputs."""

import functools
import json
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.all_configs import KINDS, settings_of, tiny
from tests.storage.test_atomic import refuse_to_place
from tests.verbs.refusals import contents, refused
from tests.verbs.sources import SIDE, Source, config_of, pixels
from trainer import data, load, models
from trainer.data.dataset import to_unit
from trainer.errors import ExportError, StorageError
from trainer.evaluation.anomaly_options import AnomalyOptions
from trainer.evaluation.evaluate import evaluate
from trainer.models.base import Autoencoder
from trainer.models.sparse.model import keep_largest
from trainer.positions import Noise
from trainer.run import restore, workdir
from trainer.serving import check_export, model_card, plain_keras
from trainer.serving import export as exporting
from trainer.serving.export import export
from trainer.serving.model_card import CARD, README
from trainer.serving.options import FORMATS
from trainer.serving.prior_samples import sample
from trainer.storage import atomic
from trainer.training.train import train

ODD_SHAPE = (14, 11, 3)  # neither side can be halved twice


def scattered(kind, image_shape):
    """Builds a small model of a kind, with random weights also where it begins with zeros."""
    model = models.create(image_shape, settings_of(kind, **tiny(kind)))
    generator = np.random.default_rng(0)
    for variable in model.variables:
        variable.assign(generator.normal(0, 0.2, variable.shape))
    return model


def classes(config):
    """The module and the name of every class that a Keras config names."""
    if isinstance(config, dict):
        if "module" in config:
            yield config["module"], config["class_name"]
        config = list(config.values())
    if isinstance(config, list | tuple):
        for part in config:
            yield from classes(part)


def test_a_missing_value_becomes_no_plausible_code(tmp_path):
    model = scattered("dense", (5,))
    rows = np.zeros((3, 5), np.float32)
    rows[1, 2] = np.nan
    encoder = plain_keras.encoder(model, None, "float32")
    encoder.save(tmp_path / "encoder.keras")
    codes = keras.models.load_model(tmp_path / "encoder.keras").predict(rows, verbose=0)
    assert np.isnan(codes[1]).all()
    assert np.isfinite(codes[[0, 2]]).all()
    np.testing.assert_allclose(codes[0], model.encode(rows)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_keras_own_layers_compute_what_the_model_does(kind):
    model = scattered(kind, ODD_SHAPE)
    images = pixels(ODD_SHAPE, 4)
    encoder = plain_keras.encoder(model, None, "uint8")
    decoder = plain_keras.decoder(model, None)
    codes = model.encode(to_unit(images)).numpy()
    np.testing.assert_allclose(encoder(images), codes, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(decoder(codes), model.decode(codes), rtol=1e-4, atol=1e-4)
    for network in (encoder, decoder):
        for module, layer in classes(json.loads(network.to_json())):
            assert module.partition(".")[0] == "keras"
            assert layer != "Lambda"


def test_of_equal_activations_the_first_are_kept_as_the_model_keeps_them():
    model = scattered("sparse", (4, 4, 1))
    inputs = keras.Input((20,))
    kept = keras.Model(inputs, model.plain_keras_code(inputs))
    rows = np.tile(np.array([[1, 0.5, 1, 2, 2]], np.float32), 4)
    np.testing.assert_array_equal(kept(rows), keep_largest(tf.constant(rows), 3, most=3))


def test_vectors_of_any_units_are_standardised_inside_the_networks():
    scaling = data.Scaling(np.array([1e6, -3.0, 0.0, 2e-9]), np.array([0.5, 1e9, 1.0, 1e-10]))
    model = scattered("linear", (4,))
    standardised = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    vectors = scaling.undo(standardised)
    codes = model.encode(scaling.apply(vectors))
    encoder = plain_keras.encoder(model, scaling, "float32")
    np.testing.assert_allclose(encoder(vectors), codes, rtol=1e-5, atol=1e-5)
    found = plain_keras.decoder(model, scaling)(codes).numpy()
    expected = scaling.undo(model.decode(codes).numpy())
    error = np.abs(found - expected) - 2 * np.spacing(np.abs(expected))
    assert np.all(error <= 1e-5 * scaling.std)


@pytest.fixture(scope="module")
def make_run(tmp_path_factory):
    """Trains a small net of a kind, with changes of its config; once.

    The contractive kind gets standardised vectors of several units, the others digits of 8x8.
    """
    random = np.random.default_rng(0)
    vectors = random.normal([1000.0, -3, 0, 0.5, 8], [1.0, 1e3, 1e-3, 2, 5], (200, 5))
    path = tmp_path_factory.mktemp("vectors") / "own.npz"
    np.savez(path, train=vectors)
    digits = Source({"name": "digits", "image_size": SIDE}, (SIDE, SIDE, 1), True, "")
    of_vectors = Source({"name": f"arrays:{path}", "standardise": True}, (5,), False, "")

    def make(kind, changes=()):
        config = config_of(kind, of_vectors if kind == "contractive" else digits)
        config.update_from_flattened_dict(dict(changes))
        folder = tmp_path_factory.mktemp(kind)
        train(config, str(folder))
        return folder

    return functools.cache(make)


@pytest.fixture
def uncompared(monkeypatch):
    """Exports without a process each; returns what it would have compared them with, in order."""
    references = []

    def compare(folder, reference, formats):
        del folder
        references.append(reference)
        return {name: {"encode": 0.0} for name in formats}

    monkeypatch.setattr(exporting, "compare", compare)
    return references


# Compares exports with their references, and runs the code of some cards.
FRESH_PROCESS = """
import json, os, runpy, sys
check, formats, exports, cards = json.loads(sys.argv[1])
for folder, reference in exports:
    sys.argv[1:] = [folder, reference, *formats]
    runpy.run_path(check, run_name="__main__")
for folder, code in cards:
    os.chdir(folder)
    exec(code)
"""


def code_of(card):
    """The Python code of a card, which prints its shapes after each format."""
    blocks = re.findall(r"```python\n(.*?)```", card.read_text(), re.DOTALL)
    return "print(tuple(codes.shape), tuple(rebuilt.shape))\n".join([*blocks, ""])


@pytest.mark.slow
def test_every_kind_loads_without_the_trainer_in_every_format(make_run, uncompared, tmp_path):
    exports, cards, with_prior = [], [], []
    for kind in KINDS:
        folder, reference = tmp_path / kind, tmp_path / f"{kind}.npz"
        card = export(str(make_run(kind)), str(folder), formats=FORMATS)
        files = {file for name in FORMATS for file in card["files"][name]}
        assert {path.name for path in folder.iterdir()} == {*files, CARD, README}
        np.savez(reference, **uncompared[-1])
        exports.append((str(folder), str(reference)))
        model = restore.load_model(make_run(kind)).model
        with_prior += [kind] if model.prior_codes(Noise(0, 0, 1)) is not None else []
        if kind in ("contractive", "vae"):
            cards.append((str(folder), code_of(folder / README)))
        if kind == "contractive":  # vectors in the user's units: x0 has a mean of 1000, not of 0
            inputs = {"name": "vectors", "dtype": "float32", "shape": [5]}
            assert card["inputs"] == inputs
            assert np.all(uncompared[-1]["reconstruct/outputs"][:, 0] > 500)
    arguments = json.dumps([check_export.__file__, FORMATS, exports, cards])
    command = [sys.executable, "-I", "-c", FRESH_PROCESS, arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "vae" in with_prior
    lines = done.stdout.splitlines()
    compared = [json.loads(line) for line in lines if line.startswith("{")]
    for kind, formats in zip(KINDS, compared, strict=True):
        assert list(formats) == list(FORMATS)
        for name, functions in formats.items():
            assert functions.keys() >= {"encode", "decode"}
            assert ("sample" in functions) == (kind in with_prior and name == "saved_model")
            assert all(difference <= card["tolerance"] for difference in functions.values()), kind
    shapes = ["(2, 4) (2, 5)", "(2, 2) (2, 8, 8, 1)"]
    assert [line for line in lines if line.startswith("(")] == [s for s in shapes for _ in FORMATS]

    model = tf.saved_model.load(str(tmp_path / "vae" / "saved_model"))
    sample(str(make_run("vae")), 5, output=str(tmp_path))
    with np.load(tmp_path / "samples.npz") as samples:
        np.testing.assert_allclose(model.sample(5, 0)["images"], samples["images"], atol=1e-6)
        np.testing.assert_array_equal(model.sample(n=2, first=3)["codes"], samples["codes"][3:])


@pytest.mark.slow
def test_a_run_in_bfloat16_is_exported_in_float32_and_the_card_says_so(make_run, tmp_path):
    run = make_run("dense", (("precision", "bfloat16"),))
    card = export(str(run), str(tmp_path / "out"), formats=["keras"])
    assert max(card["differences"]["keras"].values()) <= card["tolerance"]
    assert 0 < card["precision_difference"] < 0.05
    assert "computed in bfloat16" in (tmp_path / "out" / README).read_text()


@pytest.mark.slow
def test_an_export_that_needs_the_trainer_is_refused(make_run, tmp_path, monkeypatch):
    class OwnLayer(keras.layers.Layer):
        def call(self, codes):
            return codes

    original = plain_keras.encoder

    def encoder(model, scaling, dtype):
        network = original(model, scaling, dtype)
        return keras.Model(network.inputs, OwnLayer()(network.outputs[0]), name="encoder")

    monkeypatch.setattr(plain_keras, "encoder", encoder)
    with pytest.raises(ExportError, match="does not load without the trainer"):
        export(str(make_run("dense")), str(tmp_path / "out"), formats=["keras"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_export_that_differs_from_the_trainer_is_refused_and_the_one_before_it_stays(
    make_run, tmp_path, monkeypatch
):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / CARD).write_text("{}")
    monkeypatch.setattr(Autoencoder, "plain_keras_code", lambda _, encoded: encoded + 0.5)
    with pytest.raises(ExportError, match=r"encode of keras differs from the trainer by \d"):
        export(str(make_run("dense")), str(folder), formats=["keras"], overwrite=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", CARD]


@pytest.mark.slow
@pytest.mark.usefixtures("uncompared")
def test_images_are_bytes_or_floats(make_run, tmp_path):
    rows = pixels((SIDE, SIDE, 1), 3)
    encoders = {}
    for images in ("uint8", "float32"):
        folder = tmp_path / images
        export(str(make_run("dense")), str(folder), formats=["saved_model"], images=images)
        encoders[images] = tf.saved_model.load(str(folder / "saved_model")).signatures["encode"]
    of_bytes, of_floats = encoders["uint8"], encoders["float32"]
    unit = to_unit(rows)
    np.testing.assert_allclose(
        of_bytes(images=tf.constant(rows))["codes"],
        of_floats(images=tf.constant(unit))["codes"],
        rtol=1e-5,
        atol=1e-5,
    )
    for signature, wrong in ((of_bytes, unit), (of_floats, rows)):
        with pytest.raises(tf.errors.InvalidArgumentError):
            signature(images=tf.constant(wrong))


@pytest.mark.slow
@pytest.mark.usefixtures("uncompared")
def test_the_card_names_the_run_and_the_metrics_of_its_checkpoint(make_run, tmp_path):
    run = shutil.copytree(make_run("linear"), tmp_path / "run")

    def exported(name):
        card = export(str(run), str(tmp_path / name), formats=["keras"])
        return card, (tmp_path / name / README).read_text()

    metrics = evaluate(str(run))
    card, readme = exported("measured")
    assert json.loads(json.dumps(card)) == json.loads((tmp_path / "measured" / CARD).read_text())
    assert card["metrics"] == metrics
    assert card["config"]["model.code_size"] == 3
    assert card["data"]["fingerprint"] == workdir.read(run).data_fingerprint
    assert f"| mse | {metrics['mse']:.5g} |" in readme
    assert "goodput" not in readme  # which the test split does not tell
    odd = {"step": metrics["step"], "mse": {}, "ssim": 0.5, "name": None}
    atomic.write_json(run / workdir.METRICS, odd)
    _, readme = exported("odd")
    assert "| ssim | 0.5 |" in readme
    assert "| mse |" not in readme
    atomic.write_json(run / workdir.METRICS, metrics | {"step": 9})
    card, readme = exported("other")
    assert card["metrics"] == {}
    assert "was not evaluated" in readme
    (run / workdir.METRICS).write_text('{"mse": 1' + "0" * 400 + "}")
    with refused("metrics.json cannot be read", tmp_path):
        exported("damaged")


@pytest.mark.slow
def test_the_saved_model_judges_examples_as_encode_does(make_run, tmp_path):
    run = shutil.copytree(make_run("contractive"), tmp_path / "run")
    metrics = evaluate(str(run), anomalies=AnomalyOptions(error_quantile=0.5))
    card = export(str(run), str(tmp_path / "out"), formats=["saved_model"])
    for score in ("errors", "distances"):
        assert card["differences"]["saved_model"][score] < card["tolerance"]
    readme = (tmp_path / "out" / README).read_text()
    assert f"above {metrics['error_threshold']:.6g} marks an anomaly" in readme
    assert f"distance above {metrics['distance_threshold']:.6g}" in readme
    trained = restore.load(run)
    assert trained.scaling is not None
    rows = trained.scaling.undo(trained.dataset.test.read()[0])
    expected = load(run).scores("test")
    assert {*expected} == {
        *("errors", "pca_errors", "distances", "is_anomaly", "is_anomaly_by_distance")
    }
    model = tf.saved_model.load(str(tmp_path / "out" / "saved_model"))
    scores = model.errors(rows)
    assert {*scores} == {*expected} - {"pca_errors"}
    for name, found in scores.items():
        np.testing.assert_allclose(found, expected[name], rtol=1e-3)
        assert len(np.unique(found)) > 1


@pytest.mark.slow
@pytest.mark.usefixtures("uncompared")
def test_an_export_is_replaced_whole_or_not_at_all(make_run, tmp_path, monkeypatch):
    run, folder = str(make_run("dense")), tmp_path / "out"
    export(run, str(folder), formats=["keras"])
    full = refused("cannot be written: No space left", tmp_path, kind=StorageError)
    with monkeypatch.context() as patch, full:
        refuse_to_place(folder, patch)
        export(run, str(folder), formats=["litert"], overwrite=True)
    export(run, str(folder), formats=["litert"], overwrite=True)
    files = {*model_card.FILES["litert"], CARD, README}
    assert set(contents(tmp_path)) == {"out", *(f"out/{name}" for name in files)}


@pytest.mark.slow
def test_a_model_that_onnx_cannot_hold_is_refused_in_one_line(make_run, tmp_path):
    run = make_run("dense", (("model.activation", "gelu"),))
    with refused("formats=onnx cannot hold this model", tmp_path):
        export(str(run), str(tmp_path / "out"), formats=["onnx"])
