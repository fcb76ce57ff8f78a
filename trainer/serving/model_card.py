"""The card of an export: what it holds, where it came from, and how it is called."""

from collections.abc import Mapping, Sequence
from typing import Any

CARD = "card.json"
README = "README.md"
FILES = {
    "saved_model": ("saved_model",),
    "keras": ("encoder.keras", "decoder.keras"),
    "litert": ("model.tflite",),
    "onnx": ("encoder.onnx", "decoder.onnx"),
}
_NEEDS = {
    "saved_model": "tensorflow",
    "keras": "tensorflow and keras",
    "litert": "tensorflow; or ai-edge-litert, whose `Interpreter` does the same",
    "onnx": "onnxruntime",
}
_TITLES = {
    "saved_model": "SavedModel",
    "keras": "Keras",
    "litert": "LiteRT (TFLite)",
    "onnx": "ONNX",
}
_CALLS = {
    "saved_model": """\
import numpy as np
import tensorflow as tf

model = tf.saved_model.load("saved_model")
{rows} = np.zeros({shape}, np.{dtype})  # yours
codes = model.encode({rows})["codes"]  # float32 [2, {code_size}]
rebuilt = model.decode(codes)["{rows}"]  # float32 {shape}
rebuilt = model.reconstruct({rows})["{rows}"]
""",
    "keras": """\
import keras
import numpy as np

encoder = keras.models.load_model("encoder.keras")
decoder = keras.models.load_model("decoder.keras")
{rows} = np.zeros({shape}, np.{dtype})  # yours
codes = encoder.predict({rows})  # float32 [2, {code_size}]
rebuilt = decoder.predict(codes)  # float32 {shape}
""",
    "litert": """\
import numpy as np
import tensorflow as tf

model = tf.lite.Interpreter("model.tflite")
{rows} = np.zeros({shape}, np.{dtype})  # yours
codes = model.get_signature_runner("encode")({rows}={rows})["codes"]  # float32 [2, {code_size}]
rebuilt = model.get_signature_runner("decode")(codes=codes)["{rows}"]  # float32 {shape}
rebuilt = model.get_signature_runner("reconstruct")({rows}={rows})["{rows}"]
""",
    "onnx": """\
import numpy as np
import onnxruntime

encoder = onnxruntime.InferenceSession("encoder.onnx")
decoder = onnxruntime.InferenceSession("decoder.onnx")
{rows} = np.zeros({shape}, np.{dtype})  # yours
(codes,) = encoder.run(None, {{"{rows}": {rows}}})  # float32 [2, {code_size}]
(rebuilt,) = decoder.run(None, {{"codes": codes}})  # float32 {shape}
""",
}
_SAMPLE = (
    'drawn = model.sample(n=16, first=0)["{rows}"]  # from the prior; first=16: the next ones\n'
)
_TRAINING_METRICS = ("wall_seconds", "goodput/")  # begin the names of these


def readme(card: Mapping[str, Any]) -> str:
    """The card as Markdown. Its code is to be run in the folder of the export."""
    parts = [
        f"# {card['kind']}: an autoencoder of {card['data']['name']}",
        f"Takes {_inputs(card['inputs'])}; the code is {card['code_size']} numbers, float32. "
        "Batches may be of any size. What comes before and after the networks is inside. Exported "
        f"from step {card['step']:,} of its training, in float32. {_precision(card)}".strip(),
        "## How to call it\n\nIn this folder:",
    ]
    for name in card["files"]:
        parts.append(f"### {_TITLES[name]}\n\nNeeds {_NEEDS[name]}.")
        parts.append(f"```python\n{_call(card, name)}```")
    parts += [
        "## How it was checked",
        "Loaded in a process of its own, without the trainer, and compared with the trainer on "
        f"random inputs. The largest difference, where 1 is the largest output (or 1); up to "
        f"{card['tolerance']:g} is allowed:",
        _table(
            ("format", "function", "difference"),
            [
                (_TITLES[name], function, f"{difference:.1e}")
                for name, functions in card["differences"].items()
                for function, difference in functions.items()
            ],
        ),
        "## Metrics",
        _metrics(card),
        "## Data",
        f"`{card['data']['name']}`, of the fingerprint `{card['data']['fingerprint']}`.",
        "## Config",
        _table(("key", "value"), [(f"`{k}`", f"`{v!r}`") for k, v in card["config"].items()]),
        "## Versions",
        _table(
            ("package", "trained with", "exported with"),
            [
                (package, card["trained_with"].get(package, "-"), version)
                for package, version in card["exported_with"].items()
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _inputs(inputs: Mapping[str, Any]) -> str:
    shape = ", ".join(map(str, inputs["shape"]))
    pixels = {"uint8": "pixels of 0 to 255", "float32": "pixels in [0, 1]"}[inputs["dtype"]]
    numbers = pixels if inputs["name"] == "images" else "in the units of the training data"
    gives = "float32, pixels in [0, 1]" if inputs["name"] == "images" else "in the same units"
    return (
        f"{inputs['name']}, {inputs['dtype']} [B, {shape}], {numbers}, and gives them back {gives}"
    )


def _precision(card: Mapping[str, Any]) -> str:
    if card["trained_in"] == "float32":
        return ""
    return (
        f"The training computed in {card['trained_in']}, in which the trainer's own "
        f"reconstructions differ from these by up to {card['precision_difference']:.1e}."
    )


def _call(card: Mapping[str, Any], name: str) -> str:
    text = _CALLS[name] + (_SAMPLE if "sample" in card["differences"][name] else "")
    rows, dtype = card["inputs"]["name"], card["inputs"]["dtype"]
    shape = (2, *card["inputs"]["shape"])
    return text.format(rows=rows, dtype=dtype, shape=shape, code_size=card["code_size"])


def _metrics(card: Mapping[str, Any]) -> str:
    if not card["metrics"]:
        return "This checkpoint was not measured; `python -m trainer.evaluate` does it."
    rows = [
        (name, f"{value:.5g}")
        for name, value in card["metrics"].items()
        if isinstance(value, int | float) and not name.startswith(_TRAINING_METRICS)
    ]
    return "On the test part of the data:\n\n" + _table(("metric", "value"), rows)


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
