"""Reads the 1,797 handwritten digits of 8x8 pixels that come with scikit-learn, resized."""

import numpy as np

from trainer.config import Data
from trainer.data.dataset import Split
from trainer.data.memory import aligned_empty, require_fits
from trainer.data.sources import Request, Splits
from trainer.errors import require

EXAMPLE = "digits"
RESIZES = True
STAYS_IN_FILES = False
PATH_MAY_MOVE = False
SEVERAL_PATHS = False
_COUNT = 1797
_SIDE = 28  # pixels, as of MNIST


class Settings(Data):
    """Declares the keys of every source, and checks the name."""

    def check(self) -> None:
        require(self.name == EXAMPLE, f"{self.name!r} is not known; it is written {EXAMPLE}")


def read(request: Request) -> Splits:
    """Returns the digits as training examples, resized by bicubic interpolation."""
    import tensorflow as tf
    from sklearn.datasets import load_digits

    side = request.settings.image_size or _SIDE
    require_fits(
        EXAMPLE, _COUNT * side**2, request.allowed_bytes, "a smaller data.image_size takes less"
    )
    digits = load_digits()
    resized = tf.image.resize(digits.images[..., np.newaxis] / 16, (side, side), "bicubic")
    images = aligned_empty(tuple(resized.shape))
    images[:] = tf.round(255 * tf.clip_by_value(resized, 0, 1))
    return Splits(Split(images, digits.target))
