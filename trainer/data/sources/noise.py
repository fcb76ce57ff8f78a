"""Makes images of uniform noise, with nothing to learn, to measure speed at any data size."""

import numpy as np

from trainer.config import Data
from trainer.data.dataset import Split
from trainer.data.memory import aligned_empty, blocks, require_fits
from trainer.data.sources import Request, Splits
from trainer.errors import require

EXAMPLE = "noise:5000"
RESIZES = True
STAYS_IN_FILES = False
PATH_MAY_MOVE = False
SEVERAL_PATHS = False
_SIDE = 28  # pixels, as of MNIST
_TEST_IMAGES = 1000
_MAX_DIGITS = 12  # of N


class Settings(Data):
    """Declares the keys of every source, and checks the name."""

    def check(self) -> None:
        number = self.name.partition(":")[2]
        require(
            number.isdecimal() and len(number) <= _MAX_DIGITS and int(number) > 2,
            f"data.name={self.name!r} is not allowed; noise:N takes a number of images above 2",
        )


def read(request: Request) -> Splits:
    """Returns N grey images to train on and 1,000 to test."""
    count, side = int(request.argument), request.settings.image_size or _SIDE
    require_fits(
        request.settings.name,
        (count + _TEST_IMAGES) * side**2,
        request.allowed_bytes,
        "fewer images or a smaller data.image_size take less",
    )
    generator = np.random.default_rng(0)

    def noise(size: int) -> Split:
        images = aligned_empty((size, side, side, 1))
        for block in blocks(images):
            block[:] = generator.integers(0, 256, block.shape, np.uint8)
        return Split(images, None)

    return Splits(noise(count), noise(_TEST_IMAGES))
