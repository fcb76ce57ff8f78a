"""Loads an export where this project cannot be imported, and compares its outputs.

    python -I trainer/serving/check_export.py EXPORT REFERENCE.npz FORMAT ...

`trainer.serving.export` runs this file in another process. For each function, the reference holds
`<function>/inputs`; `<function>/outputs`, computed by the trainer; and `<function>/units`, in which
differences are measured. Prints JSON: the largest difference of each function by format.
"""

import importlib.abc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np

_OWN_PACKAGES = ("trainer", "configs", "launch", "benchmarks")
_NETWORKS = {"encode": "encoder", "decode": "decoder"}  # files, by their functions

Function: TypeAlias = Callable[[np.ndarray], np.ndarray]


class _ImportBlocker(importlib.abc.MetaPathFinder):
    """Makes every import of this project fail, wherever it is installed."""

    def find_spec(self, fullname, path=None, target=None):
        del path, target
        if fullname.partition(".")[0] in _OWN_PACKAGES:
            raise ImportError(f"an export may not need {fullname}")


def _saved_model(path: Path) -> dict[str, Function]:
    import tensorflow as tf

    signatures = tf.saved_model.load(str(path)).signatures

    def function(signature, output: str) -> Function:
        (argument,) = signature.structured_input_signature[1]
        return lambda rows: signature(**{argument: tf.constant(rows)})[output].numpy()

    def sample(positions: np.ndarray) -> np.ndarray:
        first, count = tf.constant(positions[0], tf.int64), tf.constant(len(positions), tf.int32)
        samples = signatures["sample"](n=count, first=first)
        return next(rows for name, rows in samples.items() if name != "codes").numpy()

    functions: dict[str, Function] = {}
    for name in ("encode", "decode", "reconstruct"):
        (output,) = signatures[name].structured_outputs
        functions[name] = function(signatures[name], output)
    scores = signatures["errors"]
    for output in ("errors", "distances"):
        if output in scores.structured_outputs:
            functions[output] = function(scores, output)
    return functions | ({"sample": sample} if "sample" in signatures else {})


def _keras(path: Path) -> Function:
    import keras

    network = keras.models.load_model(path, safe_mode=True)
    return lambda rows: np.asarray(network(rows))


def _litert(path: Path) -> Function:
    import tensorflow as tf

    runner = tf.lite.Interpreter(str(path)).get_signature_runner()
    (argument,) = runner.get_input_details()
    return lambda rows: next(iter(runner(**{argument: rows}).values()))


def _onnx(path: Path) -> Function:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (argument,) = session.get_inputs()
    return lambda rows: session.run(None, {argument.name: rows})[0]


_LOADERS = {"keras": (_keras, "keras"), "litert": (_litert, "tflite"), "onnx": (_onnx, "onnx")}


def _load(export: Path, name: str) -> dict[str, Function]:
    """Loads the functions of an export in a format."""
    if name == "saved_model":
        return _saved_model(export / name)
    load, suffix = _LOADERS[name]
    return {function: load(export / f"{file}.{suffix}") for function, file in _NETWORKS.items()}


def _difference(function: Function, inputs, outputs, units) -> float:
    """Returns the largest difference in the units, over a batch of one row and one of the rest."""
    batches = [function(inputs[:1]), function(inputs[1:])]
    for rows, expected in zip(batches, (outputs[:1], outputs[1:]), strict=True):
        if rows.shape != expected.shape:
            raise ValueError(f"the shape is {rows.shape}, not {expected.shape}")
    return float(np.max(np.abs(np.concatenate(batches) - outputs) / units))


def main() -> None:
    """Compares every format that is named on the command line."""
    sys.meta_path.insert(0, _ImportBlocker())
    export, arrays, *formats = sys.argv[1:]
    with np.load(arrays, allow_pickle=False) as file:
        reference = dict(file)
    differences = {
        name: {
            function: _difference(
                call, *(reference[f"{function}/{key}"] for key in ("inputs", "outputs", "units"))
            )
            for function, call in _load(Path(export), name).items()
        }
        for name in formats
    }
    print(json.dumps(differences))


if __name__ == "__main__":
    main()
