"""Draws images from the prior of a trained run."""

import math
from pathlib import Path

import numpy as np

from trainer import outputs, pictures, places, replicas, trained, workdir
from trainer.errors import UserError, require_at_least
from trainer.positions import Noise

_MOST_SHOWN = 1024


def sample(
    folder: str, count: int, *, which: str = "last", output: str = "", overwrite: bool = False
) -> Path:
    """Writes so many images from a run's "last" or "best" checkpoint; returns where to.

    `samples.npz` holds `codes`, float32 [N, K], drawn from the prior, and `images`, float32
    [N, H, W, C] in [0, 1], the mean image of each, or `vectors` [N, D] in the user's units;
    `samples.png` shows them, 1024 at most. The workdir gets them unless another folder is given. A
    larger count begins with the same images.

    Raises:
      UserError: the kind has no prior, what `trained.load_model` raises, or the files are there or
        cannot be written.
    """
    require_at_least("n", count, 1)
    target = places.check_files(output or folder, workdir.SAMPLES, overwrite=overwrite)
    run = trained.load_model(folder, which)
    drawn = run.model.prior_codes(Noise(run.config.seed, 0, count, stream="evaluation"))
    if drawn is None:
        raise UserError(f"{folder} holds a {run.config.model.name!r}, which has no prior to sample")
    codes = drawn.numpy()
    images = replicas.map_batches(run.model.decode, codes)
    are_vectors = images.ndim == 2
    if not are_vectors:
        images = np.clip(images, 0, 1)
    elif run.scaling is not None:
        images = run.scaling.undo(images)
    arrays, picture = (str(target / name) for name in workdir.SAMPLES)
    with outputs.create(arrays) as write:
        write({"codes": codes, "vectors" if are_vectors else "images": images})
    shown = images[:_MOST_SHOWN]
    columns = math.ceil(math.sqrt(len(shown)))
    outputs.write_picture(picture, pictures.grid(shown, columns))
    return target
