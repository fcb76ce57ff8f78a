"""Draws images from the prior of a trained run."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.image import imsave

from trainer import pictures, replicas, trained
from trainer.errors import UserError
from trainer.positions import Noise

IMAGES = "samples.npz"
PICTURE = "samples.png"
_MOST_SHOWN = 1024


def sample(folder: str, count: int, *, which: str = "last", output: str = "") -> Path:
    """Writes so many images from a run's "last" or "best" checkpoint; returns where to.

    `samples.npz` holds `codes`, float32 [N, K], drawn from the prior, and `images`, float32
    [N, H, W, C] in [0, 1], the mean image of each, or `vectors` [N, D]; `samples.png` shows them,
    1024 at most. The workdir gets them unless another folder is given. A larger count begins with
    the same images.

    Raises:
      UserError: the kind has no prior, or what `trained.load` raises, or the folder cannot be made.
    """
    run = trained.load(Path(folder), which)
    drawn = run.model.prior_codes(Noise(run.config.seed, 0, count, stream="evaluation"))
    if drawn is None:
        raise UserError(f"{folder} holds a {run.config.model.name!r}, which has no prior to sample")
    codes = drawn.numpy()
    images = replicas.map_batches(run.model.decode, codes)
    are_vectors = images.ndim == 2
    if not are_vectors:
        images = np.clip(images, 0, 1)
    arrays: dict[str, Any] = {"codes": codes, "vectors" if are_vectors else "images": images}

    target = Path(output or folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        np.savez(target / IMAGES, **arrays)
        shown = images[:_MOST_SHOWN]
        imsave(target / PICTURE, pictures.grid(shown, columns=math.ceil(math.sqrt(len(shown)))))
    except OSError as error:
        raise UserError(f"output={str(target)!r} cannot be written: {error.strerror}") from error
    return target
