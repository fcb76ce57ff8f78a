"""Examples through a trained model, as a stream: to codes, back from them, or to and fro."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from trainer.data.dataset import to_unit
from trainer.data.files import images, numpy_files, tables
from trainer.distribution.inference import in_batches
from trainer.errors import require
from trainer.models.base import Autoencoder
from trainer.monitoring import progress
from trainer.run import restore
from trainer.serving import readers, writers
from trainer.storage import paths

_NUMBERS = (*numpy_files.SUFFIXES, *tables.SUFFIXES)  # what codes and vectors are written to
_IMAGES = (paths.FOLDER, *numpy_files.SUFFIXES)
_BATCH_SIZE = 512

_Network: TypeAlias = Callable[[np.ndarray], np.ndarray]


def encode(
    folder: str,
    source: str,
    output: str,
    *,
    which: str = "last",
    array: str = "",
    label_column: str = "",
    resize: bool = False,
    errors: bool = False,
    batch_size: int = _BATCH_SIZE,
    overwrite: bool = False,
) -> int:
    """Writes the codes of images or vectors, by a run's "last" or "best" checkpoint.

    `source` is a file or folder as `inputs.examples` takes it, or a part of the run's own data. The
    output holds `codes`, float32 [N, K]; the `labels` and `files` of the examples, where they have
    any; and, if asked for, `errors`, float32 [N]: the mean squared error of each reconstruction, of
    pixels in [0, 1] or of vectors in the user's units. An .npy file holds the codes alone.

    Returns N.

    Raises:
      UserError: the workdir, the source or the output will not do; the output is then as it was.
    """
    paths.check_stream(source, output, overwrite=overwrite)
    paths.check_kind(output, _NUMBERS, "codes")
    require(
        not errors or not output.lower().endswith(".npy"),
        f"errors are not for output={output!r}: an .npy file holds the codes alone",
    )
    run, examples = _open(folder, source, which, array, label_column, resize)
    size = _block_size(batch_size, examples)
    to_codes, to_examples = _networks(run.model, size)

    def columns(rows: np.ndarray) -> dict[str, np.ndarray]:
        seen = _as_seen(rows, run, examples)
        codes = to_codes(seen)
        if not errors:
            return {"codes": codes}
        wrong = to_examples(codes) - seen
        if run.scaling is not None:
            wrong = wrong * run.scaling.std
        squares = np.square(wrong, dtype=np.float64).mean(axis=tuple(range(1, wrong.ndim)))
        return {"codes": codes, "errors": squares.astype(np.float32)}

    return _stream("encoding", examples, output, size, columns)


def decode(
    folder: str,
    source: str,
    output: str,
    *,
    which: str = "last",
    array: str = "",
    batch_size: int = _BATCH_SIZE,
    overwrite: bool = False,
) -> int:
    """Writes what codes stand for, from a file as `encode` writes it.

    A folder gets a picture for each, called as its file was, or by its number; other outputs hold
    `images`, float32 [N, H, W, C] in [0, 1], or `vectors`, float32 [N, D] in the user's units, with
    the `labels` and `files` of the codes.

    Returns N.

    Raises:
      UserError: as `encode`.
    """
    paths.check_stream(source, output, overwrite=overwrite)
    run = restore.load_model(folder, which)
    _check_examples(output, run)
    codes = readers.codes(paths.path_of(source), run.model.code_size, array=array)
    size = _block_size(batch_size, codes)
    _, to_examples = _networks(run.model, size)
    return _stream("decoding", codes, output, size, lambda rows: _as_given(to_examples(rows), run))


def denoise(
    folder: str,
    source: str,
    output: str,
    *,
    which: str = "last",
    array: str = "",
    label_column: str = "",
    resize: bool = False,
    batch_size: int = _BATCH_SIZE,
    overwrite: bool = False,
) -> int:
    """Writes the reconstructions of images or vectors, which a denoising model has cleaned.

    `source` is as `encode` takes it, the output as `decode` writes it.

    Returns N.

    Raises:
      UserError: as `encode`.
    """
    paths.check_stream(source, output, overwrite=overwrite)
    run, examples = _open(folder, source, which, array, label_column, resize)
    _check_examples(output, run)
    size = _block_size(batch_size, examples)
    to_codes, to_examples = _networks(run.model, size)

    def columns(rows: np.ndarray) -> dict[str, np.ndarray]:
        return _as_given(to_examples(to_codes(_as_seen(rows, run, examples))), run)

    return _stream("denoising", examples, output, size, columns)


def _check_examples(output: str, run: restore.TrainedModel) -> None:
    *_, channels = shape = run.model.image_shape
    if len(shape) == 1:
        paths.check_kind(output, _NUMBERS, "vectors")
    elif channels in images.MODES:
        paths.check_kind(output, _IMAGES, "images")
    else:
        paths.check_kind(output, numpy_files.SUFFIXES, f"images of {channels} channels")


def _open(
    folder: str, source: str, which: str, array: str, label_column: str, resize: bool
) -> tuple[restore.TrainedModel, readers.Input]:
    """The model, and the examples for it."""
    if source in paths.PARTS:
        for name, flag in {"array": array, "label_column": label_column, "resize": resize}.items():
            require(not flag, f"{name}={flag!r} is not for input={source!r}, the run's own data")
        whole = restore.load(folder, which)
        return whole, readers.of_part(whole.dataset, source)
    run = restore.load_model(folder, which)
    own = run.config.data
    training = readers.Training(
        getattr(own, "fit", "stretch"),
        run.feature_names,
        getattr(own, "label_column", ""),
        tuple(tables.split_names(getattr(own, "drop_columns", ""))),
        run.fill,
    )
    return run, readers.examples(
        paths.path_of(source),
        run.model.image_shape,
        training,
        array=array,
        label_column=label_column,
        resize=resize,
    )


def _block_size(batch_size: int, examples: readers.Input) -> int:
    """How many examples are computed at a time: no more than there are, where that is known.

    But as many as by default, which small sources share: their rows then have the same bits.
    """
    count = batch_size if examples.count is None else examples.count
    return min(batch_size, max(count, _BATCH_SIZE))


def _networks(model: Autoencoder, size: int) -> tuple[_Network, _Network]:
    """Examples [N, ...] to codes [N, K], and codes to examples, both as the model sees them."""
    return (
        in_batches(model.encode, model.image_shape, size),
        in_batches(model.decode, (model.code_size,), size),
    )


def _as_seen(rows: np.ndarray, run: restore.TrainedModel, examples: readers.Input) -> np.ndarray:
    """What the model sees of examples as they are given."""
    if run.scaling is None or examples.standardised:
        return to_unit(rows)
    return run.scaling.apply(rows)


def _as_given(seen: np.ndarray, run: restore.TrainedModel) -> dict[str, np.ndarray]:
    """Examples as the model sees them, as a person gives them."""
    if seen.ndim > 2:
        return {"images": np.clip(seen, 0, 1)}
    return {"vectors": seen if run.scaling is None else run.scaling.undo(seen)}


def _stream(
    what: str,
    examples: readers.Input,
    output: str,
    size: int,
    columns: Callable[[np.ndarray], dict[str, np.ndarray]],
) -> int:
    """Writes what `columns` makes of the examples, and what goes along with them; how many."""
    count = 0
    with (
        writers.create(output) as write,
        progress.bar(what, examples.count, unit="examples") as bar,
    ):
        for block in examples.blocks(size):
            along = {"labels": block.labels, "files": block.files}
            kept = {name: column for name, column in along.items() if column is not None}
            write(columns(block.rows) | kept)
            count += len(block.rows)
            bar.update(len(block.rows))
    return count
