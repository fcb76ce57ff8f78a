"""Draws samples from the prior of a trained run."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trainer.distribution.inference import in_batches
from trainer.errors import UserError
from trainer.monitoring import figures, progress
from trainer.positions import Noise
from trainer.run import restore
from trainer.run.workdir import SAMPLES
from trainer.serving import writers
from trainer.serving.batched_model import Columns, postprocess
from trainer.serving.options import check_sample
from trainer.storage import paths

_MAX_SHOWN = 1024
_NUMBER_BYTES = 4  # of float32
# A multiple of any CPU's vector, so that blocks of codes have the bits of a single draw.
_BLOCK_ROWS = 512


def sample(
    workdir: str,
    count: int,
    *,
    checkpoint: str = "",
    output: str = "",
    overwrite: bool = False,
) -> Path:
    """Writes samples of a run's "last" or "best" checkpoint; returns the folder.

    `samples.npz` holds `codes`, float32 [N, K], drawn from the prior, and their means: `images`,
    float32 [N, H, W, C] in [0, 1], or `vectors`, float32 [N, D] in the user's units. `samples.png`
    shows the first 1024 samples. A larger count begins with the same samples.

    Args:
      workdir: the folder of the trained run.
      count: N.
      checkpoint: "last", "best", or "": as the config says.
      output: the folder of the files; "": the workdir.
      overwrite: replace existing samples.

    Raises:
      UserError: the kind has no prior, the run cannot be loaded, or the files exist or cannot be
        written.
      StorageError: the disk is full, or has less free space than the files take.
    """
    folder = check_sample(workdir, count, output, overwrite=overwrite)
    trained = restore.load_model(workdir, checkpoint)
    require_prior(trained)
    row_bytes = _NUMBER_BYTES * (trained.model.code_size + math.prod(trained.model.image_shape))
    paths.require_disk_space(f"n={count} samples", folder, count * row_bytes)
    arrays, figure = (str(folder / name) for name in SAMPLES)
    shown: list[np.ndarray] = []
    with writers.create(arrays) as write, progress.bar("sampling", count) as bar:
        for columns in blocks(trained, count):
            write(columns)
            *_, rows = columns.values()
            shown += [*rows[: _MAX_SHOWN - len(shown)]]
            bar.update(len(rows))
    side = math.ceil(math.sqrt(len(shown)))
    figures.write_png(figure, figures.labelled_grid("prior_samples", np.stack(shown), side))
    return folder


def require_prior(trained: restore.TrainedModel) -> None:
    """Raises UserError unless the kind of a model has a prior."""
    noise = Noise(trained.config.seed, 0, 1, stream="evaluation")
    if trained.model.prior_codes(noise) is None:
        raise UserError(
            f"{trained.run.workdir} holds a {trained.config.model.name!r}, which has no prior to "
            "sample from"
        )


def blocks(trained: restore.TrainedModel, count: int) -> Iterator[Columns]:
    """Yields blocks of up to _BLOCK_ROWS codes and their mean images or vectors."""
    model = trained.model
    size = min(_BLOCK_ROWS, count)
    decode = in_batches(model.decode, (model.code_size,), size)
    for first in range(0, count, size):
        noise = Noise(trained.config.seed, first, min(size, count - first), stream="evaluation")
        codes = np.asarray(model.prior_codes(noise))
        yield {"codes": codes, **postprocess(decode(codes), trained.scaling)}
