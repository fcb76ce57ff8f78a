"""Checks the options of the commands that use a run, without TensorFlow or data."""

import dataclasses
import difflib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from trainer.errors import UserError, require, require_at_least, require_choice
from trainer.run.workdir import CONFIG, MAP, SAMPLES
from trainer.run.workdir import read as read_run
from trainer.serving import model_card
from trainer.storage import paths

FORMATS = tuple(model_card.FILES)
IMAGES = ("uint8", "float32")  # types of pixels in an export
METHODS = ("pca", "tsne", "umap")  # of a map
COLOURS = {  # of a map: the column of values, and their label
    "class": ("labels", "class"),
    "error": ("errors", "mean squared error of the reconstruction"),
    "distance": ("distances", "squared Mahalanobis distance per value"),
}
IMAGE_CHANNELS = (1, 3, 4)  # grey, RGB, RGBA
_ROW_SUFFIXES = (*paths.ARRAY_SUFFIXES, *paths.TABLE_SUFFIXES)  # of codes and vectors
_OUTPUT_SUFFIXES = (*paths.ARRAY_SUFFIXES, *paths.OUTPUT_TABLE_SUFFIXES)
_ONNX_PACKAGES = ("tf2onnx", "onnx", "onnxruntime")


@dataclasses.dataclass(frozen=True)
class StreamOptions:
    """Holds the options of encode, decode, denoise and map, named as the flags."""

    checkpoint: str = ""  # "last", "best", or as the config says
    array: str = ""  # the array to read from an .npz file that holds several
    label_column: str = ""  # the labels' column of a table
    unknown_categories: bool = False  # take a table's unknown texts as none of the known ones
    resize: bool = False  # scale image files to the size of the model's images
    errors: bool = False  # also write the mean squared error of each reconstruction
    squared_errors: bool = False  # also write the squared error of each value
    batch_size: int = 512
    overwrite: bool = False
    data: str = ""  # where the run's data are now, written as data.name


DEFAULTS = StreamOptions()


def check_stream(
    workdir: str, source: str, output: str, options: StreamOptions, *, reads: str, writes: str
) -> None:
    """Raises UserError unless the input and the output suit their content and the run.

    `reads` and `writes`, the content of input and output, are "examples" or "codes".
    """
    shape = example_shape(workdir)
    if reads == "examples":
        check_examples(source, shape, options)
    paths.check_input_and_output(source, output, overwrite=options.overwrite)
    if writes == "codes":
        paths.require_suffix(output, _OUTPUT_SUFFIXES, "codes")
    elif len(shape) == 1:
        paths.require_suffix(output, _OUTPUT_SUFFIXES, "vectors")
    elif shape[-1] in IMAGE_CHANNELS:
        paths.require_suffix(output, (paths.FOLDER, *paths.ARRAY_SUFFIXES), "images")
    else:
        paths.require_suffix(output, paths.ARRAY_SUFFIXES, f"images of {shape[-1]} channels")
    for name in ("errors", "squared_errors"):
        require(
            not getattr(options, name) or paths.suffix(output) != ".npy",
            f"{name}=True is not for output={output!r}: an .npy file holds the codes alone",
        )
    require(
        not options.squared_errors or len(shape) == 1 or paths.suffix(output) == ".npz",
        f"squared_errors=True of images needs an .npz file, not output={output!r}",
    )
    if reads == "codes":
        _check_codes(paths.path_of(source), options)


def check_sample(workdir: str, count: int, output: str, *, overwrite: bool) -> Path:
    """Returns the folder of the samples; raises UserError if they cannot be written there."""
    read_run(paths.path_of(workdir))
    require_at_least("n", count, 1)
    return paths.check_output_files(output or workdir, SAMPLES, overwrite=overwrite)


def check_map(
    workdir: str, source: str, output: str, options: StreamOptions, *, method: str, colour: str
) -> Path:
    """Returns the folder of the map; raises UserError if the map cannot be made or written."""
    shape = example_shape(workdir)
    require_choice("method", method, ("", *METHODS))
    require_choice("colour", colour, ("", *COLOURS))
    require(
        method != "umap" or importlib.util.find_spec("umap") is not None,
        "method=umap needs umap-learn: pip install 'autoencoder-trainer[umap]'",
    )
    check_examples(source, shape, options)
    return paths.check_output_files(output or workdir, MAP, overwrite=options.overwrite)


def check_examples(source: str | Path, shape: tuple[int, ...], options: StreamOptions) -> None:
    """Raises UserError unless the source is a split of the run's own data, or files of examples."""
    paths.require_named("input", str(source))
    if source not in paths.SPLITS:
        _check_files(paths.path_of(source), shape, options)
        return
    for name in ("array", "label_column", "resize", "unknown_categories"):
        value = getattr(options, name)
        require(not value, f"{name}={value!r} is not for input={source!r}, a split of the run")


def check_export(
    workdir: str, output: str, formats: Sequence[str], images: str, *, overwrite: bool
) -> Path:
    """Returns the folder of the export; raises UserError if the folder or a choice is wrong."""
    require_choice("images", images, IMAGES)
    for name in formats:
        require_choice("formats", name, FORMATS)
    require(len(formats) > 0, f"formats is empty; allowed: {', '.join(FORMATS)}")
    if "onnx" in formats:
        missing = [name for name in _ONNX_PACKAGES if importlib.util.find_spec(name) is None]
        require(
            not missing,
            f"formats=onnx needs {', '.join(missing)}: pip install 'autoencoder-trainer[onnx]'",
        )
    read_run(paths.path_of(workdir))
    return paths.check_output_folder(output, model_card.CARD, overwrite=overwrite)


def example_shape(workdir: str) -> tuple[int, ...]:
    """Returns the shape of the run's examples: (H, W, C) of images or (D,) of vectors.

    Raises:
      UserError: the workdir holds no run, or its config.json is damaged.
    """
    path = paths.path_of(workdir)
    inputs = read_run(path).inputs
    try:
        return tuple(map(int, inputs["image_shape"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path / CONFIG} is damaged: it holds no shape of the inputs") from error


def describe(shape: tuple[int, ...], content: str = "") -> str:
    """Describes rows of a shape for messages, as "images of 28x28x1"."""
    content = content or ("vectors" if len(shape) == 1 else "images")
    return f"{content} of {'x'.join(map(str, shape))}"


def _check_codes(path: Path, options: StreamOptions) -> None:
    require(
        not path.is_dir()
        and (paths.table_suffix(path) != "" or path.suffix.lower() in paths.ARRAY_SUFFIXES),
        f"input={str(path)!r} is not allowed; codes are read from {', '.join(_ROW_SUFFIXES)}",
    )
    _require_npz(path, options.array)


def _check_files(path: Path, shape: tuple[int, ...], options: StreamOptions) -> None:
    suffix = path.suffix.lower()
    is_images = path.is_dir() or suffix in paths.IMAGE_SUFFIXES
    is_table = paths.table_suffix(path) != "" and not is_images
    close = difflib.get_close_matches(str(path), paths.SPLITS, n=1)
    hint = f"did you mean {close[0]!r}? " if close and str(path) not in paths.SPLITS else ""
    require(
        is_images or is_table or suffix in _ROW_SUFFIXES,
        f"input={str(path)!r} is neither a folder nor a known file; {hint}allowed: "
        f"{', '.join(paths.SPLITS)}, a folder of images, or a file that ends in "
        f"{', '.join((*paths.IMAGE_SUFFIXES, *_ROW_SUFFIXES))}",
    )
    paths.require_exists(path)
    _require_npz(path, options.array)
    require(
        options.label_column == "" or is_table,
        f"label_column={options.label_column!r} is for tables only, not {path}",
    )
    require(
        not options.unknown_categories or is_table,
        f"unknown_categories is for tables only, not {path}",
    )
    require(
        not options.resize or is_images,
        f"resize is for image files only; {path} keeps the shape that it has",
    )
    takes = f"but the model takes {describe(shape)}"
    if is_images:
        require(len(shape) > 1, f"{path} holds images, {takes}")
        channels = ", ".join(map(str, IMAGE_CHANNELS))
        require(shape[-1] in IMAGE_CHANNELS, f"{path} holds images of {channels} channels, {takes}")
    require(len(shape) == 1 or not is_table, f"{path} is a table, {takes}")


def _require_npz(path: Path, array: str) -> None:
    require(
        array == "" or path.suffix.lower() == ".npz",
        f"array={array!r} is for .npz files only, not {path}",
    )
