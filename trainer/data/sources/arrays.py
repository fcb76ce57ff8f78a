"""Reads a user's vectors or images from an .npy or .npz file."""

from trainer.config import Data
from trainer.data.dataset import Split
from trainer.data.sources import Request, Splits
from trainer.errors import require
from trainer.storage import paths

EXAMPLE = "arrays:FILE"
RESIZES = False
STAYS_IN_FILES = False
PATH_MAY_MOVE = True


class Settings(Data):
    """Declares the keys of every source, and checks the name."""

    def check(self) -> None:
        require(
            ":" in self.name and not self.name.endswith(":"),
            "data.name='arrays' names no file; it is written arrays:FILE.npz or arrays:FILE.npy",
        )


def read(request: Request) -> Splits:
    """Reads the array of an .npy file, or `train` and, if present, `test` of an .npz file."""
    from trainer.data.files import numpy_files

    arrays = numpy_files.read(paths.path_of(request.argument), request.allowed_bytes)
    train, test = (
        Split(arrays[name], arrays.get(f"{name}_labels")) if name in arrays else None
        for name in ("train", "test")
    )
    assert train is not None
    return Splits(train, test)
