"""Flags that cannot be right are refused before any model is loaded."""

from typing import Any

import numpy as np
import pytest

from tests.verbs.refusals import refused
from tests.verbs.sources import SIDE, pixels
from trainer.serving import options
from trainer.serving.options import StreamOptions

EXAMPLES = {"source": "rows.npz", "reads": "examples"}
VERBS = {
    "encode": EXAMPLES | {"output": "codes.npz", "writes": "codes"},
    "decode": {"source": "codes.npy", "reads": "codes", "output": "a.npz", "writes": "examples"},
    "denoise": EXAMPLES | {"output": "clean.npz", "writes": "examples"},
}
ARRAY = {"options": StreamOptions(array="x")}
LABEL = {"options": StreamOptions(label_column="x")}
RESIZE = {"options": StreamOptions(resize=True)}
OVERWRITE = StreamOptions(overwrite=True)
ERRORS = {"options": StreamOptions(errors=True)}

MISTAKES = [  # a verb; a run; flags; the line
    ("encode", "vector", {"source": "none.npz"}, "input='none.npz' does not exist"),
    ("encode", "vector", {"source": ""}, "input='' is not allowed"),
    ("encode", "vector", {"output": ""}, "output='' is not allowed"),
    ("encode", "vector", {"source": "text.txt"}, "allowed: train, validation, test, a folder"),
    ("encode", "vector", {"source": "image.png"}, "holds images, but the model takes vectors of 5"),
    ("encode", "image", {"source": "rows.csv"}, "is a table, but the model takes images of 8x8x1"),
    ("encode", "vector", {"source": "test"} | RESIZE, "resize=True is not for input='test'"),
    ("encode", "vector", LABEL, "label_column='x' is for tables only"),
    ("encode", "vector", RESIZE, "resize is for image files only"),
    ("encode", "vector", {"source": "codes.npy"} | ARRAY, "array='x' is for .npz files only"),
    ("encode", "vector", {"output": "codes"}, "allowed for codes; allowed: .npy, .npz, .csv"),
    (
        "encode",
        "vector",
        {"output": "new.npy"} | ERRORS,
        "errors=True is not for",
    ),
    ("encode", "vector", {"output": "in/x.npz", "source": "in"}, "one contains the other"),
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
    for name in ("text.txt", "image.png", "rows.csv", "file.npz", "home/thesis.tex"):
        (tmp_path / name).touch()
    np.savez("rows.npz", x=np.zeros((3, 5)))
    np.save("codes.npy", np.zeros((3, 3)))
    return tmp_path


@pytest.mark.parametrize(("verb", "kind", "flags", "message"), MISTAKES)
def test_flags_that_contradict_get_one_line(verb, kind, flags, message, request, files):
    run = request.getfixturevalue(f"{kind}_run")
    with refused(message, files):
        options.check_stream(run, **{"options": StreamOptions()} | VERBS[verb] | flags)


@pytest.mark.parametrize("shape", [(SIDE, SIDE, 2), (SIDE, SIDE, 5)])
def test_images_of_other_channels_have_no_image_files(shape, tmp_path, monkeypatch):
    monkeypatch.setattr(options, "example_shape", lambda _: shape)
    np.save(tmp_path / "rows.npy", pixels(shape, 2))
    (tmp_path / "image.png").touch()
    monkeypatch.chdir(tmp_path)
    flags: dict[str, Any] = {"options": StreamOptions()}
    with refused("image.png holds images of 1, 3, 4 channels, but", tmp_path):
        options.check_stream("", **flags | VERBS["encode"] | {"source": "image.png"})
    with refused(f"not allowed for images of {shape[-1]} channels; allowed: .npy", tmp_path):
        options.check_stream("", **flags | VERBS["decode"] | {"source": "rows.npy", "output": "o/"})


@pytest.mark.parametrize(
    ("formats", "message"),
    [
        (["pickle"], "formats='pickle' is not known; allowed: saved_model, keras"),
        ([], "formats is empty; allowed: saved_model, keras"),
    ],
)
def test_formats_that_there_are_not_are_refused(formats, message, image_run, tmp_path):
    with refused(message, tmp_path):
        options.check_export(image_run, f"{tmp_path}/out", formats, overwrite=False)


def test_onnx_names_the_packages_that_it_needs(image_run, tmp_path, monkeypatch):
    monkeypatch.setattr(options.importlib.util, "find_spec", lambda _: None)
    with refused("needs tf2onnx, onnx, onnxruntime: pip install", tmp_path):
        options.check_export(image_run, f"{tmp_path}/out", ["onnx"], overwrite=False)


def test_a_folder_that_is_no_export_is_never_replaced(image_run, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with refused("is no export: it holds no card.json", tmp_path):
        options.check_export(image_run, str(tmp_path), ["keras"], overwrite=True)
