"""Writes the card of an export: content, origin, checks, and code that calls the networks."""

from collections.abc import Mapping, Sequence
from typing import Any

CARD = "card.json"
README = "README.md"
DECODER = "decoder.py"  # of image files
FILES = {
    "saved_model": ("saved_model",),
    "keras": ("encoder.keras", "decoder.keras"),
    "litert": ("encoder.tflite", "decoder.tflite"),
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
errors = model.errors({rows})["errors"]  # float32 [2], mean squared{scores}
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

encoder = tf.lite.Interpreter("encoder.tflite").get_signature_runner()
decoder = tf.lite.Interpreter("decoder.tflite").get_signature_runner()
{rows} = np.zeros({shape}, np.{dtype})  # yours
codes = encoder({rows}={rows})["output_0"]  # float32 [2, {code_size}]
rebuilt = decoder(codes=codes)["output_0"]  # float32 {shape}
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
_VECTORS = """\
import json

import numpy as np

with open("card.json") as file:
    inputs = json.load(file)["inputs"]


def vectors_of(frame):
    \"\"\"Returns the vectors of the rows of a pandas data frame, float32 [N, D].

    Columns hold numbers or flags, those with categories text; missing values are NaN or None.
    \"\"\"
    features = []
    for name in inputs.get("columns", inputs["feature_names"]):
        column, texts = frame[name], inputs.get("categories", {}).get(name)
        if texts is None:
            features.append(column)
            continue
        column = column.astype("string").str.strip()
        unknown = sorted({*column.dropna()} - {*texts})
        if unknown:
            raise ValueError(f"{name} holds {unknown}, which the training's table does not")
        features += [column == text for text in texts]
    vectors = np.stack([one.to_numpy(float, na_value=np.nan) for one in features], axis=1)
    if "fill" in inputs:
        vectors = np.where(np.isnan(vectors), inputs["fill"], vectors)
    if np.isnan(vectors).any():
        raise ValueError("values are missing; the training's table lacked none")
    return vectors.astype(np.float32)
"""
_IMAGES = """\
import json

import numpy as np
from decoder import Decoder, Unreadable

with open("card.json") as file:
    decode = Decoder(**json.load(file)["inputs"]["decoder"])


def pixels_of(path):
    \"\"\"Returns the pixels of a file, uint8 [H, W, C].\"\"\"
    pixels = decode(path)
    if isinstance(pixels, Unreadable):
        raise ValueError(f"{{path}} cannot be read: {{pixels.reason}}")
    return pixels


images = np.stack([pixels_of(path) for path in ["photo.jpg"]]){scale}  # {dtype} {shape}
"""
_SAMPLE = (
    'samples = model.sample(n=16, first=0)["{rows}"]  # of the prior; first=16: the next ones\n'
)
_SCORES = {  # of the SavedModel, by a metric or a function that shows their presence
    "error_threshold": "is_anomaly",
    "distances": "distances",
    "distance_threshold": "is_anomaly_by_distance",
}
_TRAINING_METRICS = ("wall_seconds", "goodput/")  # prefixes of metrics that are left out


def readme(card: Mapping[str, Any]) -> str:
    """Formats the card as Markdown, with code that runs in the folder of the export."""
    sections = [
        f"# {card['kind']}: an autoencoder of {card['data']['name']}",
        f"{_inputs(card['inputs'])} A code is {card['code_size']} numbers, float32. Batches may "
        "have any size. Preprocessing and postprocessing are part of the networks. Exported from "
        f"step {card['step']:,} of the training, in float32. {_precision(card)}".strip(),
        "## How to call it\n\nIn this folder:",
    ]
    if "feature_names" in card["inputs"]:
        sections.append(f"### Vectors of a table\n\nNeeds pandas.\n\n```python\n{_VECTORS}```")
    if "decoder" in card["inputs"]:
        sections.append(f"### Image files\n\n{_decoding(card['inputs'])}")
    for name in card["files"]:
        sections.append(f"### {_TITLES[name]}\n\nNeeds {_NEEDS[name]}.")
        sections.append(f"```python\n{_call(card, name)}```")
    sections += [
        "## How it was checked",
        "Each format was loaded in a process without the trainer, and its outputs for random "
        "inputs were compared with the trainer's. The largest differences, relative to the "
        f"largest output, or to 1 if that is larger; up to {card['tolerance']:g} is allowed:",
        _table(
            ("format", "function", "difference"),
            [
                (_TITLES[name], function, f"{difference:.1e}")
                for name, functions in card["differences"].items()
                for function, difference in functions.items()
            ],
        ),
        *_anomalies(card),
        "## Metrics",
        _metrics(card),
        "## Data",
        f"`{card['data']['name']}`, fingerprint `{card['data']['fingerprint']}`.",
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
    return "\n\n".join(sections) + "\n"


def _inputs(inputs: Mapping[str, Any]) -> str:
    """Describes the inputs of the encoder and the outputs of the decoder."""
    takes = f"Takes {inputs['name']}, {inputs['dtype']} [B, {', '.join(map(str, inputs['shape']))}]"
    if inputs["name"] == "vectors":
        return (
            f"{takes}, in the units of the training data, and returns them in the same units."
            f"{_columns(inputs)}"
        )
    pixels = {"uint8": "of 0 to 255", "float32": "in [0, 1]"}[inputs["dtype"]]
    text = f"{takes}, pixels {pixels}, and returns them as float32, pixels in [0, 1]."
    if "decoder" in inputs:
        text += f" `{DECODER}` makes them of image files, as the training did."
    if "resize" in inputs:
        resize = inputs["resize"]
        text += (
            f" The training resized images to {resize['size']}x{resize['size']} "
            f"(fit: {resize['fit']}; filter: {resize['filter']})."
        )
    return text


def _decoding(inputs: Mapping[str, Any]) -> str:
    scale = "" if inputs["dtype"] == "uint8" else " / np.float32(255)"
    shape = [1, *inputs["shape"]]
    code = _IMAGES.format(scale=scale, dtype=inputs["dtype"], shape=shape)
    return f"Needs pillow, for HEIC also pillow-heif.\n\n```python\n{code}```"


def _columns(inputs: Mapping[str, Any]) -> str:
    """Describes the features of a table, in their order."""
    if "feature_names" not in inputs:
        return ""
    names = ", ".join(f"`{name}`" for name in inputs["feature_names"])
    text = f" The features are, in this order: {names}."
    if "categories" in inputs:
        text += " A feature `column=text` is 1 where the column holds the text, and else 0."
    if "fill" in inputs:
        text += " Missing values become `inputs.fill` of card.json; of a text, in all its features."
    return text


def _precision(card: Mapping[str, Any]) -> str:
    if card["trained_in"] == "float32":
        return ""
    return (
        f"The training computed in {card['trained_in']}: its reconstructions differ from these by "
        f"up to {card['precision_difference']:.1e}."
    )


def _call(card: Mapping[str, Any], name: str) -> str:
    text = _CALLS[name] + (_SAMPLE if "sample" in card["differences"][name] else "")
    rows, dtype = card["inputs"]["name"], card["inputs"]["dtype"]
    shape = (2, *card["inputs"]["shape"])
    present = {**card["metrics"], **card["differences"][name]}
    others = ", ".join(f'"{score}"' for key, score in _SCORES.items() if key in present)
    scores = f"; also {others}" if others else ""
    names = {"rows": rows, "dtype": dtype, "shape": shape, "scores": scores}
    return text.format(**names, code_size=card["code_size"])


def _anomalies(card: Mapping[str, Any]) -> list[str]:
    """Explains the thresholds that an evaluation has set, and distances where there are any."""
    metrics = card["metrics"]
    has_distances = "distances" in card["differences"].get("saved_model", {})
    lines = []
    if "error_threshold" in metrics:
        lines.append(
            f"A mean squared error above {metrics['error_threshold']:.6g} marks an anomaly: the "
            f"{metrics['error_quantile']:.4g} quantile of {metrics['validation_examples']:,} "
            "validation errors. The errors are of pixels in [0, 1], or of vectors in the units "
            "trained on."
        )
    if has_distances:
        lines.append(
            "A distance is the squared Mahalanobis distance of residual and code from those of the "
            "training examples, divided by their number of values."
        )
    if has_distances and "distance_threshold" in metrics:
        lines.append(
            f"A distance above {metrics['distance_threshold']:.6g}, the same quantile of the "
            "validation distances, marks an anomaly too."
        )
    if lines and "saved_model" in card["files"]:
        lines.append("The SavedModel's `errors` returns errors, distances and anomalies.")
    return ["## Anomalies", " ".join(lines)] if lines else []


def _metrics(card: Mapping[str, Any]) -> str:
    if not card["metrics"]:
        return "This checkpoint was not evaluated; `python -m trainer.evaluate` does it."
    rows = [
        (name, f"{value:.5g}")
        for name, value in card["metrics"].items()
        if type(value) in (int, float) and not name.startswith(_TRAINING_METRICS)
    ]
    return "On the test split:\n\n" + _table(("metric", "value"), rows)


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
