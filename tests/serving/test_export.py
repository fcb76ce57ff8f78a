"""What a run is exported as: of Keras's own layers, loaded elsewhere, equal to the trainer."""

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

from configs import base
from tests.all_configs import CONFIGS, load_config, tiny
from tests.storage.test_atomic import refuse_to_place
from trainer import data, models
from trainer.data.dataset import to_unit
from trainer.errors import ExportError, UserError
from trainer.evaluation.evaluate import evaluate
from trainer.models.sparse.model import keep_largest
from trainer.run import workdir
from trainer.serving import export as exporting
from trainer.serving import model_card, plain_keras
from trainer.serving.export import FORMATS, export
from trainer.serving.prior_samples import sample
from trainer.storage import atomic as files
from trainer.train import train

ODD_SHAPE = (14, 11, 3)  # neither side halves twice without a rest


def scattered(model):
    """The model with other weights than those that it begins with, biases of 0 among them."""
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


@pytest.mark.parametrize("name", CONFIGS)
def test_keras_own_layers_compute_what_the_model_does(name):
    model = scattered(models.create(ODD_SHAPE, **load_config(name).model))
    pixels = np.random.default_rng(1).integers(0, 256, (4, *ODD_SHAPE), np.uint8)
    encoder = plain_keras.encoder(model, None, "uint8")
    decoder = plain_keras.decoder(model, None)
    codes = model.encode(to_unit(pixels)).numpy()
    np.testing.assert_allclose(encoder(pixels), codes, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(decoder(codes), model.decode(codes), rtol=1e-4, atol=1e-4)
    for network in (encoder, decoder):
        for module, kind in classes(json.loads(network.to_json())):
            assert module.partition(".")[0] == "keras"
            assert kind != "Lambda"


def test_of_equal_activations_the_first_are_kept_as_the_model_keeps_them():
    settings = base.sparse().to_dict() | tiny("sparse")
    model = models.create((4, 4, 1), **settings)
    inputs = keras.Input((20,))
    kept = keras.Model(inputs, model.plain_keras_code(inputs))
    rows = np.tile(np.array([[1, 0.5, 1, 2, 2]], np.float32), 4)
    np.testing.assert_array_equal(kept(rows), keep_largest(tf.constant(rows), 3, most=3))


def test_vectors_of_any_units_are_standardised_inside_and_given_back_in_them():
    scaling = data.Scaling(np.array([1e6, -3.0, 0.0, 2e-9]), np.array([0.5, 1e9, 1.0, 1e-10]))
    model = scattered(models.create((4,), **base.linear().to_dict() | {"code_size": 2}))
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
    """Makes a run of two steps of a small net of a kind, on digits of 8x8 pixels or as told."""

    def make(kind, changes=()):
        config = load_config("dense")
        config.model = getattr(base, kind)()
        config.model.update(tiny(kind))
        config.data.name = "digits"
        config.data.image_size = 8
        config.batch_size = 64
        config.num_epochs = 2 * 64 / 1366
        config.execution = "graph"
        config.update_from_flattened_dict(dict(changes))
        folder = tmp_path_factory.mktemp(kind)
        train(config, str(folder))
        return folder

    return functools.cache(make)


@pytest.fixture(scope="module")
def make_export(tmp_path_factory, make_run):
    """Exports a run of a kind in every format, checked in a process of its own; the folder.

    The contractive one is of standardised vectors in several units.
    """
    random = np.random.default_rng(0)
    vectors = random.normal([1000.0, -3, 0, 0.5, 8], [1.0, 1e3, 1e-3, 2, 5], (200, 5))
    path = tmp_path_factory.mktemp("vectors") / "own.npz"
    np.savez(path, train=vectors)
    of_vectors = (
        *(("data.name", f"arrays:{path}"), ("data.image_size", 0), ("data.standardise", True)),
        *(("num_epochs", 1.0), ("model.output_activation", "linear")),
    )

    def make(kind):
        run = make_run(kind, of_vectors if kind == "contractive" else ())
        folder = tmp_path_factory.mktemp("export") / kind
        export(str(run), str(folder), formats=FORMATS)
        return folder

    return functools.cache(make)


@pytest.fixture
def unchecked(monkeypatch):
    """Spares a test that asks for something else the process that compares."""

    def compared(made, reference, formats, aside):
        del made, reference, aside
        return {name: {"encode": 0.0} for name in formats}

    monkeypatch.setattr(exporting, "_compare", compared)


def card_of(folder):
    return json.loads((folder / model_card.CARD).read_text())


def pasted(folder):
    """Runs the card's Python where nothing but the export is, and prints two shapes after each."""
    blocks = re.findall(r"```python\n(.*?)```", (folder / model_card.README).read_text(), re.DOTALL)
    code = "print(tuple(codes.shape), tuple(rebuilt.shape))\n".join([*blocks, ""])
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("(")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", models.kinds())
def test_every_kind_loads_without_the_trainer_in_every_format(kind, make_export):
    folder = make_export(kind)
    card = card_of(folder)
    assert list(card["differences"]) == list(FORMATS)
    for name, functions in card["differences"].items():
        assert functions.keys() >= {"encode", "decode"}
        assert ("sample" in functions) == (kind == "vae" and name == "saved_model")
        assert max(functions.values()) <= card["tolerance"]
    files = {file for name in FORMATS for file in card["files"][name]}
    assert {path.name for path in folder.iterdir()} == files | {model_card.CARD, model_card.README}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "shapes"), [("vae", "(2, 2) (2, 8, 8, 1)"), ("contractive", "(2, 4) (2, 5)")]
)
def test_the_code_of_the_card_runs_as_it_is_pasted(kind, shapes, make_export):
    assert pasted(make_export(kind)) == [shapes] * len(FORMATS)


@pytest.mark.slow
def test_vectors_are_taken_and_given_in_their_own_units(make_export):
    folder = make_export("contractive")
    inputs = {"name": "vectors", "dtype": "float32", "shape": [5]}
    assert card_of(folder)["inputs"] == inputs
    model = tf.saved_model.load(str(folder / "saved_model"))
    rebuilt = model.reconstruct(np.zeros((4, 5), np.float32))["vectors"]
    assert np.all(rebuilt[:, 0] > 500)  # the first numbers have a mean of 1000, not of 0


@pytest.mark.slow
def test_a_run_in_bfloat16_is_exported_in_float32_and_the_card_says_so(make_run, tmp_path):
    run = make_run("dense", (("precision", "bfloat16"),))
    card = export(str(run), str(tmp_path / "out"), formats=["keras"])
    assert 0 < card["precision_difference"] < 0.05
    assert "computed in bfloat16" in (tmp_path / "out/README.md").read_text()


@pytest.mark.slow
def test_what_needs_the_trainer_is_refused_and_leaves_nothing(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr(plain_keras, "_applied", lambda layer, inputs: layer(inputs))
    with pytest.raises(ExportError, match="does not load without the trainer"):
        export(str(make_run("conv")), str(tmp_path / "out"), formats=["keras"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_differs_from_the_trainer_is_refused_and_the_export_before_it_stays(
    make_run, tmp_path, monkeypatch
):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / model_card.CARD).write_text("{}")
    monkeypatch.setattr(models.Autoencoder, "stock_code", lambda _, encoded: encoded + 0.5)
    with pytest.raises(ExportError, match=r"encode of keras differs from the trainer by \d"):
        export(str(make_run("dense")), str(folder), formats=["keras"], overwrite=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", model_card.CARD]


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_pixels_come_as_bytes_or_as_floats(make_run, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    encoders = {}
    for images in ("uint8", "float32"):
        folder = tmp_path / images
        export(str(make_run("dense")), str(folder), formats=["saved_model"], images=images)
        encoders[images] = tf.saved_model.load(str(folder / "saved_model")).signatures["encode"]
    of_bytes, of_floats = encoders["uint8"], encoders["float32"]
    unit = to_unit(pixels)
    np.testing.assert_allclose(
        of_bytes(images=tf.constant(pixels))["codes"],
        of_floats(images=tf.constant(unit))["codes"],
        rtol=1e-5,
        atol=1e-5,
    )
    for wrong, rows in ((of_bytes, unit), (of_floats, pixels)):
        with pytest.raises(tf.errors.InvalidArgumentError):
            wrong(images=tf.constant(rows))


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_samples_are_those_of_the_trainer_and_go_on_where_they_are_told(make_run, tmp_path):
    run = make_run("vae")
    export(str(run), str(tmp_path / "out"), formats=["saved_model"])
    model = tf.saved_model.load(str(tmp_path / "out/saved_model"))
    sample(str(run), 5, output=str(tmp_path))
    with np.load(tmp_path / "samples.npz") as drawn:
        np.testing.assert_allclose(model.sample(5, 0)["images"], drawn["images"], atol=1e-6)
        np.testing.assert_array_equal(model.sample(n=2, first=3)["codes"], drawn["codes"][3:])


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_the_card_tells_the_run_and_its_metrics_if_they_are_of_the_checkpoint(make_run, tmp_path):
    run = make_run("linear")
    metrics = evaluate(str(run))
    card = export(str(run), str(tmp_path / "measured"), formats=["keras"])
    assert card == card_of(tmp_path / "measured")
    assert card["metrics"] == metrics
    assert card["config"]["model.code_size"] == 3
    assert card["data"]["fingerprint"] == workdir.read(run).data_fingerprint
    measured = (tmp_path / "measured/README.md").read_text()
    assert f"| mse | {metrics['mse']:.5g} |" in measured
    assert "goodput" not in measured  # nothing that the test part tells of
    files.write_json(run / workdir.METRICS, metrics | {"step": 1})
    assert export(str(run), str(tmp_path / "other"), formats=["keras"])["metrics"] == {}
    assert "was not measured" in (tmp_path / "other/README.md").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_an_export_is_replaced_whole_and_only_when_told(make_run, tmp_path):
    run, folder = str(make_run("dense")), tmp_path / "out"
    export(run, str(folder), formats=["keras"])
    before = card_of(folder)
    with pytest.raises(UserError, match="is there; --overwrite replaces it"):
        export(run, str(folder), formats=["litert"])
    assert card_of(folder) == before
    export(run, str(folder), formats=["litert"], overwrite=True)
    assert {path.name for path in folder.iterdir()} == {"model.tflite", "card.json", "README.md"}
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_an_export_that_cannot_be_placed_leaves_the_one_before(make_run, tmp_path, monkeypatch):
    run, folder = str(make_run("dense")), tmp_path / "out"
    export(run, str(folder), formats=["keras"])
    before = card_of(folder)
    refuse_to_place(folder, monkeypatch)
    with pytest.raises(UserError, match="cannot be written: No space left"):
        export(run, str(folder), formats=["litert"], overwrite=True)
    assert card_of(folder) == before
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_is_no_export_is_never_replaced(make_run):
    run = make_run("dense")
    with pytest.raises(UserError, match=r"is no export: there is no card\.json in it"):
        export(str(run), str(run), overwrite=True)
    assert (run / workdir.CONFIG).exists()


@pytest.mark.usefixtures("unchecked")
def test_damaged_metrics_are_told_before_any_work_and_odd_ones_left_out_of_the_card(
    make_run, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(make_run("dense"), run)
    (run / workdir.METRICS).write_text('{"mse": 1' + "0" * 400 + "}")
    with pytest.raises(UserError, match=r"metrics\.json cannot be read"):
        export(str(run), str(tmp_path / "out"), formats=["keras"])
    files.write_json(run / workdir.METRICS, {"step": 2, "mse": {}, "ssim": 0.5, "name": None})
    export(str(run), str(tmp_path / "out"), formats=["keras"])
    card = (tmp_path / "out" / model_card.README).read_text()
    assert "| ssim | 0.5 |" in card
    assert "| mse |" not in card


def test_a_model_that_onnx_cannot_hold_is_refused_in_one_line(make_run, tmp_path):
    run = make_run("dense", (("model.activation", "gelu"),))
    with pytest.raises(UserError, match=r"formats=onnx cannot hold this model .*Erfc") as error:
        export(str(run), str(tmp_path / "out"), formats=["onnx"])
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_onnx_needs_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"needs tf2onnx, onnx, onnxruntime: pip install"):
        export(str(tmp_path), str(tmp_path / "out"), formats=["onnx"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"formats": ["pickle"]}, "formats='pickle' is not known; allowed: saved_model, keras"),
        ({"formats": []}, "formats is empty; allowed: saved_model, keras"),
        ({}, "holds no run"),
    ],
)
def test_mistakes_are_told_in_one_line_and_leave_nothing(arguments, message, tmp_path):
    with pytest.raises(UserError, match=message):
        export(str(tmp_path), str(tmp_path / "out"), **arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_written_is_told(make_run, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/out' cannot be written"):
        export(str(make_run("dense")), str(tmp_path / "file/out"))
