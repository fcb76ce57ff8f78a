"""Takes vectors that a program passes to `data.load`, as the scikit-learn transformer does."""

import numpy as np

from trainer.config import Data
from trainer.data.dataset import Split
from trainer.data.memory import aligned_empty
from trainer.data.sources import Request, Splits
from trainer.errors import UserError

EXAMPLE = "memory"
RESIZES = False
STAYS_IN_FILES = False
PATH_MAY_MOVE = False
Settings = Data


def read(request: Request) -> Splits:
    """Returns a float32 copy of the vectors, and an empty test split."""
    if request.settings.name != EXAMPLE or request.vectors is None:
        raise UserError(
            f"data.name={request.settings.name!r} are vectors that a program held in memory; "
            "in a file they are arrays:FILE.npz"
        )
    rows = aligned_empty(request.vectors.shape, np.float32)
    rows[:] = request.vectors
    return Splits(Split(rows, None), Split(rows[:0], None))
