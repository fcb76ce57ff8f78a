"""Flags that cannot be right are refused before any model is loaded."""

from typing import Any

import numpy as np
import pytest

from tests.verbs.refusals import refused
from tests.verbs.sources import SIDE
from trainer.serving import options
from trainer.serving.options import StreamOptions

DEFAULTS: dict[str, Any] = {"options": StreamOptions()}
EXAMPLES = {"source": "rows.npz", "reads": "examples"}
VERBS = {
    "encode": EXAMPLES | {"output": "codes.npz", "writes": "codes"},
    "decode": {"source": "codes.npy", "reads": "codes", "output": "a.npz", "writes": "examples"},
    "denoise": EXAMPLES | {"output": "clean.npz", "writes": "examples"},
}
ARRAY = {"options": StreamOptions(array="x")}
LABEL = {"options": StreamOptions(label_column="x")}
RESIZE = {"options": StreamOptions(resize=True)}
UNKNOWN = {"options": StreamOptions(unknown_categories=True)}
OVERWRITE = StreamOptions(overwrite=True)
ERRORS = {"options": StreamOptions(errors=True)}

MISTAKES: list[Any] = [  # a verb; a run; flags; the line
    ("encode", "vector", {"source": "none.npz"}, "input='none.npz' does not exist"),
    ("encode", "vector", {"source": ""}, "input='' is not allowed"),
    ("encode", "vector", {"output": ""}, "output='' is not allowed"),
    ("encode", "vector", {"source": "text.rtf"}, "allowed: train, validation, test, a folder"),
    ("encode", "vector", {"source": "tset"}, "allowed: train, validation, test, a folder"),
    ("encode", "vector", {"source": "image.png"}, "holds images, but the model takes vectors of 5"),
    ("encode", "image", {"source": "rows.csv"}, "is a table, but the model takes images of 8x8x1"),
    ("encode", "vector", {"source": "test"} | RESIZE, "resize=True is not for input='test'"),
    ("encode", "vector", LABEL, "label_column='x' is for tables only"),
    ("encode", "vector", UNKNOWN, "unknown_categories is for tables only"),
    ("encode", "vector", RESIZE, "resize is for image files only"),
    ("encode", "vector", {"source": "codes.npy"} | ARRAY, "array='x' is for .npz files only"),
    ("encode", "vector", {"output": "codes"}, "allowed for codes; allowed: .npy, .npz, .csv"),
    ("encode", "vector", {"output": "new.npy"} | ERRORS, "errors=True is not for"),
    (
        "encode",
        "image",
        {"output": "new.csv", "options": StreamOptions(squared_errors=True)},
        "needs an .npz file",
    ),
    ("encode", "image", {"output": "in/x.npz", "source": "in"}, "one contains the other"),
    ("encode", "vector", {"output": "rows.npz", "options": OVERWRITE}, "one contains the other"),
    ("encode", "vector", {"output": "folder.npz", "options": OVERWRITE}, "is a folder and is not"),
    ("encode", "vector", {"output": "file.npz"}, "exists; --overwrite replaces it"),
    ("denoise", "image", {"source": "in", "output": "home", "options": OVERWRITE}, "thesis.tex"),
    ("denoise", "image", {"source": "in", "output": "out.csv"}, "allowed: FOLDER/, .npy, .npz"),
    ("decode", "vector", {"output": "out"}, "allowed for vectors; allowed: .npy, .npz, .csv"),
    ("decode", "image", {"output": "out.csv"}, "allowed for images; allowed: FOLDER/, .npy, .npz"),
    ("decode", "vector", {"source": "image.png"}, "codes are read from .npy, .npz, .csv"),
    ("decode", "vector", {"source": "in"}, "codes are read from .npy, .npz, .csv"),
    ("decode", "vector", ARRAY, "array='x' is for .npz files only"),
]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Files of the table above, in the folder to work in."""
    monkeypatch.chdir(tmp_path)
    for folder in ("in", "home", "folder.npz"):
        (tmp_path / folder).mkdir()
    for name in ("text.rtf", "image.png", "rows.csv", "file.npz", "home/thesis.tex"):
        (tmp_path / name).touch()
    np.savez("rows.npz", x=np.zeros((3, 5)))
    np.save("codes.npy", np.zeros((3, 3)))
    return tmp_path


def test_flags_that_contradict_get_one_line(image_run, vector_run, files):
    for verb, kind, flags, message in MISTAKES:
        run = {"image": image_run, "vector": vector_run}[kind]
        with refused(message, files):
            options.check_stream(run, **DEFAULTS | VERBS[verb] | flags)


@pytest.mark.usefixtures("files")
def test_images_of_other_channels_have_no_image_files(monkeypatch):
    monkeypatch.setattr(options, "example_shape", lambda _: (SIDE, SIDE, 2))
    with refused("image.png holds images of 1, 3, 4 channels, but"):
        options.check_stream("", **DEFAULTS | VERBS["encode"] | {"source": "image.png"})
    with refused("not allowed for images of 2 channels; allowed: .npy"):
        options.check_stream("", **DEFAULTS | VERBS["decode"] | {"output": "o/"})


def test_an_export_that_cannot_be_is_refused(image_run, tmp_path, monkeypatch):
    (tmp_path / "thesis.tex").touch()
    monkeypatch.setattr(options.importlib.util, "find_spec", lambda _: None)
    for output, formats, message in (
        ("out", ["pickle"], "formats='pickle' is not known; allowed: saved_model, keras"),
        ("out", [], "formats is empty; allowed: saved_model, keras"),
        ("out", ["onnx"], "needs tf2onnx, onnx, onnxruntime: pip install"),
        ("", ["keras"], "is not an export: it holds no card.json"),
    ):
        with refused(message, tmp_path):
            options.check_export(
                image_run, str(tmp_path / output), formats, "uint8", overwrite=True
            )
    with refused("images='int8' is not known", tmp_path):
        options.check_export(image_run, str(tmp_path / "out"), ["keras"], "int8", overwrite=True)
