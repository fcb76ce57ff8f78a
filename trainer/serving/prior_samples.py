"""Draws images from the prior of a trained run."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trainer.distribution.inference import in_batches
from trainer.errors import UserError, require_at_least
from trainer.monitoring import figures, progress
from trainer.positions import Noise
from trainer.run import restore, workdir
from trainer.serving import writers
from trainer.storage import paths

_MOST_SHOWN = 1024
_NUMBER_BYTES = 4
_AT_A_TIME = 512  # in whole vectors of any CPU, so that the codes have the bits of one draw


def sample(
    folder: str, count: int, *, which: str = "last", output: str = "", overwrite: bool = False
) -> Path:
    """Writes so many images from a run's "last" or "best" checkpoint; returns where to.

    `samples.npz` holds `codes`, float32 [N, K], drawn from the prior, and `images`, float32
    [N, H, W, C] in [0, 1], the mean image of each, or `vectors` [N, D] in the user's units;
    `samples.png` shows them, 1024 at most. The workdir gets them unless another folder is given. A
    larger count begins with the same images.

    Raises:
      UserError: the kind has no prior, what `trained.load_model` raises, or the files are there,
        are larger than the disk or cannot be written.
    """
    require_at_least("n", count, 1)
    target = paths.check_files(output or folder, workdir.SAMPLES, overwrite=overwrite)
    run = restore.load_model(folder, which)
    if run.model.prior_codes(Noise(run.config.seed, 0, 1, stream="evaluation")) is None:
        raise UserError(f"{folder} holds a {run.config.model.name!r}, which has no prior to sample")
    row_bytes = _NUMBER_BYTES * (run.model.code_size + math.prod(run.model.image_shape))
    paths.require_room(f"n={count}", target, count * row_bytes)
    arrays, picture = (str(target / name) for name in workdir.SAMPLES)
    shown: list[np.ndarray] = []
    with writers.create(arrays) as write, progress.bar("drawing", count) as bar:
        for first, columns in _blocks(run, count):
            write(columns)
            *_, rows = columns.values()
            shown += [*rows[: max(0, _MOST_SHOWN - first)]]
            bar.update(len(rows))
    figures.write_png(
        picture, figures.grid(np.stack(shown), columns=math.ceil(math.sqrt(len(shown))))
    )
    return target


def _blocks(run: restore.TrainedModel, count: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """So many codes and what they stand for, a block at a time, with the number of its first."""
    model = run.model
    size = min(_AT_A_TIME, count)
    decode = in_batches(model.decode, (model.code_size,), size)
    for first in range(0, count, size):
        noise = Noise(run.config.seed, first, min(size, count - first), stream="evaluation")
        codes = np.asarray(model.prior_codes(noise))
        rows = decode(codes)
        if rows.ndim > 2:
            yield first, {"codes": codes, "images": np.clip(rows, 0, 1)}
        else:
            vectors = rows if run.scaling is None else run.scaling.undo(rows)
            yield first, {"codes": codes, "vectors": vectors}
