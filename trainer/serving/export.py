"""A trained run as files that load without this project, each compared with the trainer's output.

Nothing is where the user wants it before all of it has been compared.
"""

import importlib.util
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.export import ExportArchive

from trainer import data, models
from trainer.config import flat
from trainer.data.dataset import to_unit
from trainer.distribution.inference import map_batches
from trainer.distribution.strategy import build_model
from trainer.distribution.variables import model_variables, values_of
from trainer.errors import ExportError, UserError, require, require_choice
from trainer.models.base import Autoencoder
from trainer.positions import Noise
from trainer.run import restore, workdir
from trainer.serving import check_export, model_card, plain_keras
from trainer.storage import atomic, paths
from trainer.tensorflow_import import muted_stderr

FORMATS = tuple(model_card.FILES)
_TOLERANCE = 1e-4  # of the largest output, or of 1
_ROUNDINGS = 4  # of float32, that the numbers of a user's units may be off besides
_ROWS = 16  # compared
_DRAWN_ROWS = 64  # among which these are found
_SHAKE = 1e-5  # of an input, about a hundred roundings
_SEED = 0  # of the inputs
_FIRST_SAMPLE = 3
_ONNX_PACKAGES = ("tf2onnx", "onnx", "onnxruntime")


def export(
    folder: str,
    output: str,
    *,
    which: str = "last",
    formats: Sequence[str] = ("saved_model", "keras", "litert"),
    images: str = "uint8",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes a run's "last" or "best" checkpoint in these formats; returns the card.

    The output is a new folder, or, where `overwrite`, in the place of an export: the files of
    `cards.FILES`, `README.md` and `card.json`. Images are taken as `images` says, "uint8" of 0 to
    255 or "float32" in [0, 1]; vectors are float32 in the user's units. All is computed in float32,
    whatever the precision of the training.

    Raises:
      UserError: the output is there or cannot be written, a format is not known or cannot hold this
        model, or what `trained.load_model` raises.
      ExportError: what was written does not compute what the trainer does.
    """
    for name in formats:
        require_choice("formats", name, FORMATS)
    require(len(formats) > 0, f"formats is empty; allowed: {', '.join(FORMATS)}")
    if "onnx" in formats:
        missing = [name for name in _ONNX_PACKAGES if importlib.util.find_spec(name) is None]
        require(
            not missing,
            f"formats=onnx needs {', '.join(missing)}: pip install 'autoencoder-trainer[onnx]'",
        )
    target = paths.check_folder(output, model_card.CARD, overwrite=overwrite)
    run = restore.load_model(folder, which)
    path = paths.path_of(folder)
    metrics = workdir.read_metrics(path) or {}
    model = run.model
    if run.config.precision != "float32":
        model = _in_float32(run)
    dtype = images if len(model.image_shape) > 1 else "float32"
    networks = (
        plain_keras.encoder(model, run.scaling, dtype),
        plain_keras.decoder(model, run.scaling),
    )
    try:
        with atomic.beside(target) as aside:
            made = aside / "export"
            made.mkdir()
            _write(made, aside, formats, networks, model, run.config.seed)
            kept = [name for name in FORMATS if name in formats]
            reference = _reference(run, model, dtype)
            differences = _compare(made, reference, kept, aside)
            card = _card(run, run.run, metrics, model, dtype, differences)
            atomic.write_json(made / model_card.CARD, card)
            (made / model_card.README).write_text(model_card.readme(card))
            atomic.put(made, target, aside / "before")
    except OSError as error:
        raise UserError(
            f"output={output!r} cannot be written: {error.strerror or error}"
        ) from error
    return card


def print_summary(card: dict[str, Any], output: str) -> None:
    """Prints how far each export is from the trainer, and where they are."""
    for name, functions in card["differences"].items():
        for function, difference in functions.items():
            print(f"{name:>12}  {function:<12} largest difference {difference:.1e}")
    if card["trained_in"] != "float32":
        print(
            f"\nThe run computed in {card['trained_in']}, the export in float32: the run's own "
            f"reconstructions differ by up to {card['precision_difference']:.1e}."
        )
    print(f"\nexport     {output}\ncard       {Path(output) / model_card.README}")


def _in_float32(run: restore.TrainedModel) -> Autoencoder:
    """The same weights, computed with in float32."""
    model = build_model(
        run.strategy,
        "float32",
        lambda: models.create(run.model.image_shape, run.config.model),
    )
    values = values_of(model_variables(run.model))
    for path, variable in model_variables(model).items():
        variable.assign(values[path])
    return model


def _write(
    made: Path,
    aside: Path,
    formats: Sequence[str],
    networks: tuple[keras.Model, keras.Model],
    model: Autoencoder,
    seed: int,
) -> None:
    """Writes the formats into a folder; the SavedModel beside it where only LiteRT needs one."""
    saved_model = (made if "saved_model" in formats else aside) / "saved_model"
    if "saved_model" in formats or "litert" in formats:
        _write_saved_model(saved_model, *networks, model, seed)
    if "litert" in formats:
        (made / "model.tflite").write_bytes(_litert(saved_model))
    for network in networks:
        if "keras" in formats:
            network.save(made / f"{network.name}.keras")
        if "onnx" in formats:
            _write_onnx(made / f"{network.name}.onnx", network)


def _write_saved_model(
    path: Path,
    encoder: keras.Model,
    decoder: keras.Model,
    model: Autoencoder,
    seed: int,
) -> None:
    rows = plain_keras.input_name(model)
    inputs, codes = (_spec(network) for network in (encoder, decoder))

    # A signature, unlike a function, does not hold what it is given to its declared shape.
    def encoded(x):
        return encoder(tf.ensure_shape(x, inputs.shape))

    def decoded(x):
        return decoder(tf.ensure_shape(x, codes.shape))

    def sample(n, first):
        drawn = model.prior_codes(Noise(seed, first, n, stream="evaluation"))
        return {"codes": drawn, rows: decoder(drawn)}

    archive = ExportArchive()
    archive.add_endpoint("encode", lambda x: {"codes": encoded(x)}, [inputs])
    archive.add_endpoint("decode", lambda x: {rows: decoded(x)}, [codes])
    archive.add_endpoint("reconstruct", lambda x: {rows: decoder(encoded(x))}, [inputs])
    if _has_prior(model):
        number = tf.TensorSpec((), tf.int32, "n"), tf.TensorSpec((), tf.int64, "first")
        archive.add_endpoint("sample", sample, list(number))
    archive.write_out(path, verbose=False)


def _spec(network: keras.Model) -> tf.TensorSpec:
    (inputs,) = network.inputs
    return tf.TensorSpec(inputs.shape, inputs.dtype, inputs.name)


def _has_prior(model: Autoencoder) -> bool:
    return model.prior_codes(Noise(0, 0, 1)) is not None


def _litert(saved_model: Path) -> bytes:
    functions = ["encode", "decode", "reconstruct"]
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model), signature_keys=functions)
    try:
        with muted_stderr():
            return converter.convert()
    except Exception as error:  # the converter's own kind, that no module names publicly
        raise UserError(
            f"formats=litert cannot hold this model ({_line(error)}); leave it out"
        ) from error


def _write_onnx(path: Path, network: keras.Model) -> None:
    import onnx

    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # what is wrong is reported below
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of Keras's patch of tf2onnx
        network.export(path, format="onnx", verbose=False, input_signature=[_spec(network)])
    try:
        onnx.checker.check_model(path)
    except onnx.checker.ValidationError as error:
        raise UserError(
            f"formats=onnx cannot hold this model ({_line(error)}); leave it out"
        ) from error


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _reference(run: restore.TrainedModel, model: Autoencoder, dtype: str) -> dict[str, np.ndarray]:
    """Inputs of each function, the trainer's outputs, and the units of their differences."""
    rows = _inputs(model, run.scaling, dtype)
    seen = rows if run.scaling is None else run.scaling.apply(rows)
    seen = to_unit(seen)
    codes = map_batches(model.encode, seen)
    rebuilt = map_batches(model.decode, codes)
    calls = {
        "encode": (rows, codes),
        "decode": (codes, rebuilt),
        "reconstruct": (rows, rebuilt),
    }
    drawn = model.prior_codes(Noise(run.config.seed, 0, _FIRST_SAMPLE + _ROWS, "evaluation"))
    if drawn is not None:
        numbers = np.arange(_FIRST_SAMPLE, _FIRST_SAMPLE + _ROWS)
        images = map_batches(model.decode, drawn.numpy()[_FIRST_SAMPLE:])
        calls["sample"] = numbers, images
    reference: dict[str, np.ndarray] = {}
    for name, (inputs, given) in calls.items():
        units = np.full(given.shape[1:], max(1.0, float(np.abs(given).max())))
        if run.scaling is not None and name != "encode":
            given = run.scaling.undo(given)
            units = units * run.scaling.std
        rounding = _ROUNDINGS * np.spacing(np.abs(given)) / _TOLERANCE
        parts = {"inputs": inputs, "outputs": given, "units": units + rounding}
        reference |= {f"{name}/{part}": array for part, array in parts.items()}
    return reference


def _inputs(model: Autoencoder, scaling: data.Scaling | None, dtype: str) -> np.ndarray:
    """Random rows, of those that are no test of an export: where rounding alone decides the code.

    So it does where two units of a k-sparse code are all but equal.
    """
    generator = np.random.default_rng(_SEED)
    shape = (_DRAWN_ROWS, *model.image_shape)
    if len(model.image_shape) == 1:
        rows = generator.normal(size=shape).astype(np.float32)
        rows = rows if scaling is None else scaling.undo(rows)
        seen = rows if scaling is None else scaling.apply(rows)
    else:
        pixels = generator.integers(0, 256, shape, np.uint8)
        seen = to_unit(pixels)
        rows = pixels if dtype == "uint8" else seen
    shaken = seen * (1 + _SHAKE * generator.normal(size=shape)).astype(np.float32)
    codes, moved = (map_batches(model.encode, x) for x in (seen, shaken))
    return rows[np.argsort(np.abs(moved - codes).max(axis=1), kind="stable")[:_ROWS]]


def _compare(
    made: Path, reference: dict[str, np.ndarray], formats: Sequence[str], aside: Path
) -> dict[str, dict[str, float]]:
    """The largest difference of each function of each format, in a process without this project."""
    arrays = aside / "reference.npz"
    np.savez(arrays, **reference)  # type: ignore[arg-type]
    command = [sys.executable, "-I", check_export.__file__, str(made), str(arrays), *formats]
    done = subprocess.run(command, cwd=aside, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]
        raise ExportError(f"the export does not load without the trainer: {said}")
    differences = json.loads(done.stdout.splitlines()[-1])
    for name, functions in differences.items():
        for function, difference in functions.items():
            if not difference <= _TOLERANCE:
                raise ExportError(
                    f"{function} of {name} differs from the trainer by {difference:.1e}, "
                    f"where {_TOLERANCE:g} is allowed; nothing was kept"
                )
    return differences


def _card(
    run: restore.TrainedModel,
    described: workdir.Run,
    metrics: Mapping[str, Any],
    model: Autoencoder,
    dtype: str,
    differences: dict[str, dict[str, float]],
) -> dict[str, Any]:
    return {
        "kind": run.config.model.name,
        "step": run.step,
        "code_size": model.code_size,
        "inputs": {
            "name": plain_keras.input_name(model),
            "dtype": dtype,
            "shape": list(model.image_shape),
        },
        "files": {name: list(model_card.FILES[name]) for name in differences},
        "tolerance": _TOLERANCE,
        "differences": differences,
        "trained_in": run.config.precision,
        "precision_difference": _precision_difference(run, model),
        "metrics": dict(metrics) if metrics.get("step") == run.step else {},
        "data": {"name": run.config.data.name, "fingerprint": described.data_fingerprint},
        "config": flat(run.config.to_dict()),
        "trained_with": dict(described.versions),
        "exported_with": workdir.installed_versions(),
    }


def _precision_difference(run: restore.TrainedModel, model: Autoencoder) -> float:
    """How far the run's own precision is from float32, in reconstructions of random inputs."""
    if model is run.model:
        return 0.0
    rows = np.random.default_rng(_SEED).random((_ROWS, *model.image_shape), np.float32)
    in_float32, own = (map_batches(of, rows) for of in (model, run.model))
    return float(np.abs(own - in_float32).max())
