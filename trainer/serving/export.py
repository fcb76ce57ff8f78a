"""Exports a trained run in formats that load without this project.

The outputs of every format are compared with the trainer's before the export is moved into place.
"""

import dataclasses
import json
import logging
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.config import flat
from trainer.data.dataset import to_unit
from trainer.data.files import decoder
from trainer.data.sources import images as images_source
from trainer.distribution.inference import map_batches
from trainer.distribution.strategy import build_autoencoder
from trainer.distribution.variables import assign_values, model_variables, values_of
from trainer.errors import ExportError, UserError, unwritable
from trainer.models.base import Autoencoder
from trainer.monitoring import progress
from trainer.positions import Noise
from trainer.run import error_reference, restore
from trainer.run.distances import Distances, mean_squared_errors
from trainer.run.workdir import installed_versions, read_metrics
from trainer.serving import check_export, model_card, options, plain_keras, saved_model
from trainer.storage import atomic, paths
from trainer.tensorflow_import import muted_stderr

_TOLERANCE = 1e-4  # of the largest output, or of 1
_MAX_ROUNDINGS = 4  # of a float32 in the user's units, allowed on top of the tolerance
_ROWS = 16  # number of compared rows
_CANDIDATE_ROWS = 64  # from which the compared rows are chosen
_PERTURBATION = 1e-5  # of an input, relative: about a hundred roundings
_SEED = 0  # of the inputs
_FIRST_SAMPLE = 3


def export(
    workdir: str,
    output: str,
    *,
    checkpoint: str = "",
    formats: Sequence[str] = ("saved_model", "keras", "litert"),
    images: str = "uint8",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Exports a run's "last" or "best" checkpoint; returns the model card.

    The output gets the files of `model_card.FILES`, `README.md` and `card.json`. The networks
    compute in float32, whatever the precision of the training.

    Args:
      workdir: the folder of the trained run.
      output: the folder to create.
      checkpoint: "last", "best", or "": as the config says.
      formats: some of `options.FORMATS`.
      images: the dtype of images, "uint8" of 0 to 255 or "float32" in [0, 1]; vectors are always
        float32, in the user's units.
      overwrite: replace an existing export.

    Raises:
      UserError: the run cannot be loaded, the output exists or cannot be written, or a format is
        unknown or cannot hold this model.
      StorageError: the disk is full; nothing is kept.
      ExportError: an exported function differs from the trainer's.
    """
    target = options.check_export(workdir, output, formats, images, overwrite=overwrite)
    formats = [name for name in options.FORMATS if name in formats]
    trained = restore.load_model(workdir, checkpoint)
    metrics = read_metrics(paths.path_of(workdir)) or {}
    if metrics.get("step") != trained.step:  # of another checkpoint
        metrics = {}
    exported = _in_float32(trained)
    reference = error_reference.read(trained.run.workdir, trained.step)
    dtype = images if len(exported.model.image_shape) > 1 else "float32"
    try:
        with (
            atomic.temporary_sibling(target) as tmp,
            progress.bar("exporting", len(formats) + 1, unit="stages") as bar,
        ):
            folder = tmp / "export"
            folder.mkdir()
            for _ in _write(folder, exported, dtype, formats, reference):
                bar.update()
            differences = compare(folder, _expected(exported, dtype, reference.distances), formats)
            bar.update()
            card = {
                **_describe(exported, dtype),
                "files": {name: list(model_card.FILES[name]) for name in formats},
                "tolerance": _TOLERANCE,
                "differences": differences,
                "precision_difference": _precision_difference(trained.model, exported.model),
                "metrics": metrics,
            }
            if "decoder" in card["inputs"]:
                shutil.copy(decoder.__file__, folder / model_card.DECODER)
            atomic.write_json(folder / model_card.CARD, card)
            (folder / model_card.README).write_text(model_card.readme(card))
            atomic.move_into_place(folder, target, tmp / "backup")
    except (
        OSError,
        tf.errors.ResourceExhaustedError,
    ) as error:  # the latter by TensorFlow's writers
        raise unwritable(f"output={output!r}", error) from error
    return card


def print_summary(card: Mapping[str, Any], output: str) -> None:
    """Prints the largest differences from the trainer's outputs, and the path of the export."""
    for name, functions in card["differences"].items():
        for function, difference in functions.items():
            print(f"{name:>12}  {function:<12} largest difference {difference:.1e}")
    if card["trained_in"] != "float32":
        print(
            f"\nThe run computed in {card['trained_in']}, the export computes in float32: their "
            f"reconstructions differ by up to {card['precision_difference']:.1e}."
        )
    if not card["metrics"]:
        print("\nThis checkpoint was not evaluated: the export has no distances and no thresholds.")
    print(f"\nexport     {output}\ncard       {Path(output) / model_card.README}")


def compare(
    folder: Path, expected: Mapping[str, np.ndarray], formats: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Measures the largest difference of each function by format, in a process without trainer.

    Args:
      folder: the folder of the export, whose parent gets temporary files.
      expected: inputs, outputs and units of each function, as `check_export` takes them.
      formats: the formats to compare.

    Raises:
      ExportError: a format cannot be loaded, or differs by more than the tolerance.
    """
    arrays = folder.parent / "reference.npz"
    np.savez(arrays, **expected)  # type: ignore[arg-type]
    command = [sys.executable, "-I", check_export.__file__, str(folder), str(arrays), *formats]
    done = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        last_line = (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]
        raise ExportError(f"the export does not load without the trainer: {last_line}")
    differences = json.loads(done.stdout.splitlines()[-1])
    for name, functions in differences.items():
        for function, difference in functions.items():
            if not difference <= _TOLERANCE:
                raise ExportError(
                    f"{function} of {name} differs from the trainer by {difference:.1e}, "
                    f"where {_TOLERANCE:g} is allowed; nothing was kept"
                )
    return differences


def _in_float32(trained: restore.TrainedModel) -> restore.TrainedModel:
    """Returns the run with a model that has the same weights but computes in float32."""
    if trained.config.precision == "float32":
        return trained
    model = build_autoencoder(
        trained.strategy, "float32", trained.model.image_shape, trained.config.model
    )
    assign_values(model_variables(model), values_of(model_variables(trained.model)))
    return dataclasses.replace(trained, model=model)


def _write(
    folder: Path,
    trained: restore.TrainedModel,
    dtype: str,
    formats: Sequence[str],
    reference: error_reference.ErrorReference,
) -> Iterator[str]:
    """Writes the formats, and yields each when it is written."""
    encoder = plain_keras.encoder(trained.model, trained.scaling, dtype)
    networks = encoder, plain_keras.decoder(trained.model, trained.scaling)
    if "saved_model" in formats:
        residuals = plain_keras.residuals(trained.model, trained.scaling, encoder)
        scores = saved_model.Scores(residuals, reference)
        path, seed = folder / "saved_model", trained.config.seed
        saved_model.write(path, *networks, trained.model, seed, scores)
        yield "saved_model"
    for name in (name for name in formats if name != "saved_model"):
        for network in networks:
            _write_network(network, folder, name)
        yield name


def _write_network(network: keras.Model, folder: Path, name: str) -> None:
    """Writes a network to its file in a format."""
    if name == "keras":
        network.save(folder / f"{network.name}.keras")
    elif name == "litert":  # only LiteRT's operations: TensorFlow's need another library
        operations = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
        _convert(network, folder / f"{network.name}.tflite", name, target_spec=operations)
    else:
        network(network.inputs)  # Keras converts no network that was never called
        _convert(network, folder / f"{network.name}.onnx", name)


def _convert(network: keras.Model, path: Path, name: str, **settings: Any) -> None:
    """Writes a network in a format that Keras converts to.

    Raises:
      UserError: the format lacks an operation of the network.
    """
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # errors are raised here instead
    try:
        with muted_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of Keras's patch of tf2onnx
            network.export(path, format=name, verbose=False, **settings)
        if name == "onnx":
            import onnx

            onnx.checker.check_model(path)
    except (OSError, tf.errors.ResourceExhaustedError):
        raise
    except Exception as error:  # the converters raise many types, some of them private
        line = str(error).strip().splitlines()[0]
        raise UserError(f"formats={name} cannot hold this model ({line}); leave it out") from error


def _expected(
    trained: restore.TrainedModel, dtype: str, distances: Distances | None
) -> dict[str, np.ndarray]:
    """Returns inputs and the trainer's outputs of each function, and the units of differences."""
    model, scaling = trained.model, trained.scaling
    rows = _test_inputs(trained, dtype)
    inputs = _model_inputs(trained, rows)
    codes = map_batches(model.encode, inputs)
    reconstructions = map_batches(model.decode, codes)
    calls = {
        "encode": (rows, codes),
        "decode": (codes, reconstructions),
        "reconstruct": (rows, reconstructions),
    }
    residuals = inputs - reconstructions
    calls["errors"] = rows, mean_squared_errors(residuals).astype(np.float32)
    roundings = {}
    if distances is not None:
        calls["distances"] = rows, distances.of(residuals, codes)
        # The residuals of a good model are small, and so a distance consists of roundings.
        rounded = residuals + _MAX_ROUNDINGS * np.spacing(np.abs(reconstructions))
        roundings["distances"] = np.abs(distances.of(rounded, codes) - calls["distances"][1])
    samples = model.prior_codes(Noise(trained.config.seed, 0, _FIRST_SAMPLE + _ROWS, "evaluation"))
    if samples is not None:
        positions = np.arange(_FIRST_SAMPLE, _FIRST_SAMPLE + _ROWS)
        calls["sample"] = positions, map_batches(model.decode, samples.numpy()[_FIRST_SAMPLE:])
    expected: dict[str, np.ndarray] = {}
    for name, (given, outputs) in calls.items():
        units = np.full(outputs.shape[1:], max(1.0, float(np.abs(outputs).max())))
        if scaling is not None and name in ("decode", "reconstruct", "sample"):
            outputs = scaling.undo(outputs)
            units = units * scaling.std
        rounding = roundings.get(name, _MAX_ROUNDINGS * np.spacing(np.abs(outputs)))
        arrays = {"inputs": given, "outputs": outputs, "units": units + rounding / _TOLERANCE}
        expected |= {f"{name}/{key}": array for key, array in arrays.items()}
    return expected


def _model_inputs(trained: restore.TrainedModel, rows: np.ndarray) -> np.ndarray:
    return to_unit(rows if trained.scaling is None else trained.scaling.apply(rows))


def _test_inputs(trained: restore.TrainedModel, dtype: str) -> np.ndarray:
    """Returns random rows whose codes change least when the inputs change by rounding errors.

    If two units of a k-sparse code are almost equal, rounding decides which unit is kept.
    """
    generator = np.random.default_rng(_SEED)
    shape = (_CANDIDATE_ROWS, *trained.model.image_shape)
    if len(trained.model.image_shape) == 1:
        rows = generator.normal(size=shape).astype(np.float32)
        rows = rows if trained.scaling is None else trained.scaling.undo(rows)
    else:
        rows = generator.integers(0, 256, shape, np.uint8)
        rows = rows if dtype == "uint8" else to_unit(rows)
    inputs = _model_inputs(trained, rows)
    perturbed = inputs * (1 + _PERTURBATION * generator.normal(size=shape)).astype(np.float32)
    codes, other_codes = (map_batches(trained.model.encode, x) for x in (inputs, perturbed))
    change = np.abs(other_codes - codes).max(axis=1)
    return rows[np.argsort(change, kind="stable")[:_ROWS]]


def _describe(trained: restore.TrainedModel, dtype: str) -> dict[str, Any]:
    return {
        "kind": trained.config.model.name,
        "step": trained.step,
        "trained_in": trained.config.precision,
        "code_size": trained.model.code_size,
        "inputs": {
            "name": plain_keras.input_name(trained.model),
            "dtype": dtype,
            "shape": list(trained.model.image_shape),
            **_preprocessing(trained),
        },
        "data": {"name": trained.config.data.name, "fingerprint": trained.run.data_fingerprint},
        "config": flat(trained.config.to_dict()),
        "trained_with": dict(trained.run.versions),
        "exported_with": installed_versions(),
    }


def _preprocessing(trained: restore.TrainedModel) -> dict[str, Any]:
    """Returns what the training did before the networks: names, categories, fill, resizing."""
    known = ("feature_names", "columns", "categories", "class_names", "fill")
    inputs: dict[str, Any] = {
        name: trained.run.inputs[name] for name in known if name in trained.run.inputs
    }
    settings = trained.config.data
    if isinstance(settings, images_source.Settings):
        made = images_source.decoder_of(settings)
        inputs["decoder"] = vars(made) | {"channels": trained.model.image_shape[-1]}
    elif settings.image_size:
        inputs["resize"] = {
            "size": settings.image_size,
            "fit": "stretch",
            "filter": "bilinear, antialiased",
        }
    return inputs


def _precision_difference(trained: Autoencoder, exported: Autoencoder) -> float:
    """Returns the largest difference of two models' reconstructions of random inputs."""
    if exported is trained:
        return 0.0
    rows = np.random.default_rng(_SEED).random((_ROWS, *trained.image_shape), np.float32)
    reconstructions, expected = (map_batches(model, rows) for model in (exported, trained))
    return float(np.abs(expected - reconstructions).max())
