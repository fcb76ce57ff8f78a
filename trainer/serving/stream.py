"""Encodes, decodes and denoises any number of examples, a batch at a time."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from trainer.data.dataset import to_unit
from trainer.distribution.inference import in_batches
from trainer.errors import require
from trainer.monitoring import progress
from trainer.run import restore
from trainer.serving import readers, writers
from trainer.serving.options import DEFAULTS, StreamOptions, check_stream
from trainer.storage import paths

_MAX_NAMED = 8  # unreadable files in a line
_Columns: TypeAlias = dict[str, np.ndarray]


def encode(workdir: str, source: str, output: str, options: StreamOptions = DEFAULTS) -> int:
    """Encodes images or vectors and writes the codes; returns their number N.

    The source is a file or folder as `readers.examples` takes it, or a split of the run's own data.
    The output gets `codes`, float32 [N, K], and the `labels` and `files` that the examples have;
    with `options.errors` also `errors`, float32 [N], the mean squared error of each
    reconstruction, of pixels in [0, 1] or of vectors in the user's units. An .npy file gets only
    the codes.

    Raises:
      UserError: the run, the source or the output cannot be used; an existing output is unchanged.
    """
    check_stream(workdir, source, output, options, reads="examples", writes="codes")
    trained, examples = _open_examples(workdir, source, options)
    model = _BatchedModel(trained, examples, options.batch_size)

    def compute(rows: np.ndarray) -> _Columns:
        inputs = model.preprocess(rows)
        codes = model.encode(inputs)
        errors = {"errors": model.errors(inputs, codes)} if options.errors else {}
        return {"codes": codes} | errors

    return _stream("encoding", examples, output, model, compute)


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
    model = _BatchedModel(trained, codes, options.batch_size)

    def compute(rows: np.ndarray) -> _Columns:
        return model.postprocess(model.decode(rows))

    return _stream("decoding", codes, output, model, compute)


def denoise(workdir: str, source: str, output: str, options: StreamOptions = DEFAULTS) -> int:
    """Writes reconstructions of images or vectors; a model of kind denoising removes noise.

    The source is as for `encode`, the output as for `decode`. Returns the number of examples.

    Raises:
      UserError: as `encode`.
    """
    check_stream(workdir, source, output, options, reads="examples", writes="examples")
    trained, examples = _open_examples(workdir, source, options)
    model = _BatchedModel(trained, examples, options.batch_size)

    def compute(rows: np.ndarray) -> _Columns:
        return model.postprocess(model.decode(model.encode(model.preprocess(rows))))

    return _stream("denoising", examples, output, model, compute)


class _BatchedModel:
    """Applies a trained model to examples in the user's units, in batches of one size."""

    def __init__(self, trained: restore.TrainedModel, rows: readers.Input, batch_size: int):
        # A batch is as large as the input, at least the default size and at most `batch_size`: all
        # small inputs share one size, so their rows get the same bits.
        count = batch_size if rows.count is None else rows.count
        self.batch_size = min(batch_size, max(count, DEFAULTS.batch_size))
        self._scaling = trained.scaling
        self.feature_names = trained.features.names if trained.features else ()
        self._is_standardised = rows.is_standardised
        self.encode = in_batches(trained.model.encode, trained.model.image_shape, self.batch_size)
        self.decode = in_batches(trained.model.decode, (trained.model.code_size,), self.batch_size)

    def preprocess(self, rows: np.ndarray) -> np.ndarray:
        """Returns the model's inputs: pixels in [0, 1] or standardised vectors, float32."""
        if self._scaling is None or self._is_standardised:
            return to_unit(rows)
        return self._scaling.apply(rows)

    def postprocess(self, outputs: np.ndarray) -> _Columns:
        """Returns the model's outputs as pixels in [0, 1] or vectors in the user's units."""
        if outputs.ndim > 2:
            return {"images": np.clip(outputs, 0, 1)}
        return {"vectors": outputs if self._scaling is None else self._scaling.undo(outputs)}

    def errors(self, inputs: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Returns the mean squared error of each reconstruction in the user's units [B]."""
        differences = self.decode(codes) - inputs
        if self._scaling is not None:
            differences = differences * self._scaling.std
        squares = np.square(differences, dtype=np.float64)
        return squares.mean(axis=tuple(range(1, squares.ndim))).astype(np.float32)


def _open_examples(
    workdir: str, source: str, options: StreamOptions
) -> tuple[restore.TrainedModel, readers.Input]:
    if source in paths.SPLITS:
        trained_run = restore.load(workdir, options.checkpoint, options.data)
        return trained_run, readers.split(trained_run.dataset, source)
    trained = restore.load_model(workdir, options.checkpoint)
    training = readers.TrainingData(
        trained.model.image_shape, trained.config.data, trained.features, trained.fill
    )
    return trained, readers.examples(paths.path_of(source), training, options)


def _stream(
    title: str,
    rows: readers.Input,
    output: str,
    model: _BatchedModel,
    compute: Callable[[np.ndarray], _Columns],
) -> int:
    """Computes and writes columns block by block, with labels, files and ids; returns the count."""
    count, names = 0, model.feature_names
    with (
        writers.create(output, names) as write,
        progress.bar(title, rows.count, unit="examples") as bar,
    ):
        for block in rows.blocks(model.batch_size):
            others = {"labels": block.labels, "files": block.files}
            given = {name: column for name, column in others.items() if column is not None}
            write({**compute(block.rows), **given, **block.ids})
            count += len(block.rows)
            bar.update(len(block.rows))
        require(count > 0, f"no image can be read: {'; '.join(rows.unreadable[:_MAX_NAMED])}")
    some = "; ".join(rows.unreadable[:_MAX_NAMED])
    require(
        not rows.unreadable,
        f"{output} holds {count:,} examples, but lacks {len(rows.unreadable):,} unreadable files: "
        f"{some}{' …' if len(rows.unreadable) > _MAX_NAMED else ''}",
    )
    return count
