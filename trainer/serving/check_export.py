"""Loads an export where nothing of this project can be imported, and compares what it computes.

    python -I trainer/serving/check_export.py EXPORT REFERENCE.npz FORMAT ...

`exporting` runs it as a file in a process of its own. The reference holds, for each function,
`<function>/inputs`, `<function>/outputs`, which are the trainer's, and `<function>/units`, in which
a difference is told. Prints JSON: the largest difference of each function of each format.
"""

import importlib.abc
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

_OWN_PACKAGES = ("trainer", "configs", "launch", "benchmarks")

Functions = dict[str, Callable[[np.ndarray], np.ndarray]]


class _NothingOfOurs(importlib.abc.MetaPathFinder):
    """Fails the import of this project, wherever it is installed."""

    def find_spec(self, fullname, path=None, target=None):
        del path, target
        if fullname.partition(".")[0] in _OWN_PACKAGES:
            raise ImportError(f"an export may not need {fullname}")


def _saved_model(path: Path) -> Functions:
    import tensorflow as tf

    signatures = tf.saved_model.load(str(path)).signatures

    def caller(name):
        signature = signatures[name]
        (argument,) = signature.structured_input_signature[1]
        output = "codes" if name == "encode" else next(iter(signature.structured_outputs))
        return lambda rows: signature(**{argument: tf.constant(rows)})[output].numpy()

    def sample(numbers):
        first, count = tf.constant(numbers[0], tf.int64), tf.constant(len(numbers), tf.int32)
        drawn = signatures["sample"](n=count, first=first)
        return next(rows for name, rows in drawn.items() if name != "codes").numpy()

    names = [name for name in ("encode", "decode", "reconstruct") if name in signatures]
    functions: Functions = {name: caller(name) for name in names}
    return functions | ({"sample": sample} if "sample" in signatures else {})


def _keras(folder: Path) -> Functions:
    import keras

    networks = {
        function: keras.models.load_model(folder / f"{name}.keras", safe_mode=True)
        for function, name in (("encode", "encoder"), ("decode", "decoder"))
    }

    def caller(network):
        return lambda rows: np.asarray(network(rows))

    return {name: caller(network) for name, network in networks.items()}


def _litert(path: Path) -> Functions:
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(str(path))

    def caller(name, argument, output):
        runner = interpreter.get_signature_runner(name)
        return lambda rows: runner(**{argument: rows})[output]

    return {
        name: caller(name, signature["inputs"][0], signature["outputs"][0])
        for name, signature in interpreter.get_signature_list().items()
    }


def _onnx(folder: Path) -> Functions:
    import onnxruntime

    def caller(name):
        session = onnxruntime.InferenceSession(
            folder / f"{name}.onnx", providers=["CPUExecutionProvider"]
        )
        (argument,) = session.get_inputs()
        return lambda rows: session.run(None, {argument.name: rows})[0]

    return {"encode": caller("encoder"), "decode": caller("decoder")}


def _difference(function: Callable[[np.ndarray], np.ndarray], inputs, outputs, units) -> float:
    """The largest, in these units, from batches of one row and of all others."""
    found = [function(inputs[:1]), function(inputs[1:])]
    for rows, expected in zip(found, (outputs[:1], outputs[1:]), strict=True):
        if rows.shape != expected.shape:
            raise ValueError(f"a shape of {rows.shape} is not {expected.shape}")
    return float(np.max(np.abs(np.concatenate(found) - outputs) / units))


def main() -> None:
    """Compares every format that the folder holds."""
    sys.meta_path.insert(0, _NothingOfOurs())
    export = Path(sys.argv[1])
    loaders = {
        "saved_model": (_saved_model, export / "saved_model"),
        "keras": (_keras, export),
        "litert": (_litert, export / "model.tflite"),
        "onnx": (_onnx, export),
    }
    with np.load(sys.argv[2], allow_pickle=False) as arrays:
        reference = dict(arrays)
    found = {
        name: {
            function: _difference(
                call, *(reference[f"{function}/{part}"] for part in ("inputs", "outputs", "units"))
            )
            for function, call in loaders[name][0](loaders[name][1]).items()
        }
        for name in sys.argv[3:]
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
