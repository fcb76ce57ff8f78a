"""Takes vectors that a program passes to `data.load`, as the scikit-learn transformer does."""

import numpy as np

from trainer.config import Data
from trainer.data import statistics
from trainer.data.dataset import Split
from trainer.data.memory import aligned_empty, blocks
from trainer.data.sources import Request, Splits
from trainer.errors import UserError

EXAMPLE = "memory"
RESIZES = False
STAYS_IN_FILES = False
PATH_MAY_MOVE = False
SEVERAL_PATHS = False
Settings = Data


def read(request: Request) -> Splits:
    """Returns a float32 copy of the vectors, and an empty test split.

    Features that are standardised are shifted first if float32 would round them.
    """
    if request.settings.name != EXAMPLE or request.vectors is None:
        raise UserError(
            f"data.name={request.settings.name!r} are vectors that a program held in memory; "
            "in a file they are arrays:FILE.npz"
        )
    offset = np.zeros(request.vectors.shape[1])
    if request.settings.standardise:
        moments = statistics.Moments.of(request.vectors)
        offset = np.where(statistics.are_rounded(moments), moments.mean, 0)
    rows = aligned_empty(request.vectors.shape, np.float32)
    for copied, given in zip(blocks(rows), blocks(request.vectors), strict=True):
        copied[:] = given - offset
    return Splits(Split(rows, None), Split(rows[:0], None), offset=offset)
