"""Encodes, decodes and denoises any number of examples, a batch at a time."""

from collections.abc import Callable

import numpy as np

from trainer.errors import listed, require
from trainer.monitoring import progress
from trainer.run import error_reference, restore
from trainer.serving import readers, writers
from trainer.serving.batched_model import BatchedModel, Columns
from trainer.serving.options import DEFAULTS, StreamOptions, check_stream
from trainer.storage import paths


def encode(workdir: str, source: str, output: str, options: StreamOptions = DEFAULTS) -> int:
    """Encodes images or vectors and writes the codes; returns their number N.

    The source is a file or folder as `readers.examples` takes it, or a split of the run's own data.
    The output gets `codes`, float32 [N, K], and the `labels` and `files` that the examples have;
    with `options.errors` also `errors`, float32 [N], the mean squared error of each
    reconstruction, of pixels in [0, 1] or of vectors as the model takes them: of standardised ones
    in squared standard deviations; after an evaluation PCA's `pca_errors` and `run.distances`, and
    with thresholds `is_anomaly` and `is_anomaly_by_distance`; with `options.squared_errors` the
    error of each value. An .npy file gets only the codes.

    Raises:
      UserError: the run, the source or the output cannot be used; an existing output is unchanged.
    """
    check_stream(workdir, source, output, options, reads="examples", writes="codes")
    trained, examples = open_examples(workdir, source, options)
    model = BatchedModel(trained, examples, options.batch_size)

    def compute(rows: np.ndarray) -> Columns:
        return model.codes_and_errors(rows, squared_errors=options.squared_errors)

    has_errors = options.errors or options.squared_errors
    count = _stream("encoding", examples, output, model, compute if has_errors else model.codes)
    if has_errors and model.has_stale_evaluation:
        print(error_reference.STALE)
    return count


def decode(workdir: str, source: str, output: str, options: StreamOptions = DEFAULTS) -> int:
    """Decodes codes and writes the examples; returns their number N.

    The source is a file of codes as `encode` writes it. An output folder gets a PNG for each code,
    named as the code's file or by its number. A file gets `images`, float32 [N, H, W, C] in [0, 1],
    or `vectors`, float32 [N, D] in the user's units, with the `labels` and `files` of the codes.

    Raises:
      UserError: as `encode`.
    """
    check_stream(workdir, source, output, options, reads="codes", writes="examples")
    trained = restore.load_model(workdir, options.checkpoint)
    codes = readers.codes(paths.path_of(source), trained.model.code_size, options)
    model = BatchedModel(trained, codes, options.batch_size)

    return _stream("decoding", codes, output, model, model.decoded)


def denoise(workdir: str, source: str, output: str, options: StreamOptions = DEFAULTS) -> int:
    """Writes reconstructions of images or vectors; a model of kind denoising removes noise.

    The source is as for `encode`, the output as for `decode`. Returns the number of examples.

    Raises:
      UserError: as `encode`.
    """
    check_stream(workdir, source, output, options, reads="examples", writes="examples")
    trained, examples = open_examples(workdir, source, options)
    model = BatchedModel(trained, examples, options.batch_size)

    return _stream("denoising", examples, output, model, model.reconstructions)


def open_examples(
    workdir: str, source: str, options: StreamOptions
) -> tuple[restore.TrainedModel, readers.Input]:
    """Restores a run's model and opens a source as `encode` does."""
    if source in paths.SPLITS:
        restored = restore.load(workdir, options.checkpoint, options.data)
        return restored, readers.split(restored.dataset, source)
    trained = restore.load_model(workdir, options.checkpoint)
    training = readers.preprocessing_of(trained)
    return trained, readers.examples(paths.path_of(source), training, options)


def _stream(
    title: str,
    rows: readers.Input,
    output: str,
    model: BatchedModel,
    compute: Callable[[np.ndarray], Columns],
) -> int:
    """Computes and writes columns block by block, with labels, files and ids; returns the count."""
    count, names = 0, model.feature_names
    with (
        writers.create(output, names) as write,
        progress.bar(title, rows.count, unit="examples") as bar,
    ):
        for block in rows.blocks(model.batch_size):
            write({**compute(block.rows), **given(block)}, block.ids)
            count += len(block.rows)
            bar.update(len(block.rows))
        require_any(rows, count)
    report_input(rows, model, f"{output} holds {count:,} examples")
    return count


def given(block: readers.Block) -> Columns:
    """Returns the labels and files that the rows of a block have."""
    columns = {"labels": block.labels, "files": block.files}
    return {name: column for name, column in columns.items() if column is not None}


def require_any(rows: readers.Input, count: int) -> None:
    """Raises UserError if no row could be read."""
    require(count > 0, f"no image can be read: {listed(rows.unreadable, '; ')}")


def report_input(rows: readers.Input, model: BatchedModel, done: str) -> None:
    """Prints which texts were unknown, and which files were left out.

    Raises:
      UserError: files were left out, but the run skipped no such files.
    """
    if rows.unknown:
        print(f"unknown texts, taken as none of their column's: {listed(rows.unknown, '; ')}")
    if rows.unreadable:
        files = listed(rows.unreadable, "; ")
        line = f"unreadable files left out ({len(rows.unreadable):,}): {files}"
        require(model.skips_unreadable, f"{done}; {line}")
        print(line)
