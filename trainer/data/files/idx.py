"""Reads MNIST's four original files, and checks that they are whole."""

import dataclasses
import gzip
import hashlib
import zlib
from collections.abc import Mapping
from pathlib import Path

from trainer.errors import UserError, require


@dataclasses.dataclass(frozen=True)
class Original:
    """Describes the unpacked content of a file."""

    size_bytes: int
    sha256: str


MNIST = {
    "train-images-idx3-ubyte": Original(
        47_040_016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
    ),
    "train-labels-idx1-ubyte": Original(
        60_008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
    ),
    "t10k-images-idx3-ubyte": Original(
        7_840_016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
    ),
    "t10k-labels-idx1-ubyte": Original(
        10_008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
    ),
}


def read(folder: Path, originals: Mapping[str, Original] = MNIST) -> dict[str, bytes]:
    """Returns the unpacked content of each file by its name; files may be gzipped, NAME.gz.

    Raises:
      UserError: a file is missing, cannot be read, or differs from the original.
    """
    require(
        folder.is_dir(), f"{str(folder)!r} is not a folder; it must hold {', '.join(originals)}"
    )
    return {name: _read(folder, name, original) for name, original in originals.items()}


def _read(folder: Path, name: str, original: Original) -> bytes:
    found = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
    require(bool(found), f"{folder} holds neither {name} nor {name}.gz")
    path = found[0]
    max_bytes = original.size_bytes + 1
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(max_bytes)
    except (OSError, EOFError, zlib.error) as error:
        why = (isinstance(error, OSError) and error.strerror) or error
        raise UserError(
            f"{path} cannot be read ({why}); unpacked, it must hold {original.size_bytes:,} bytes"
        ) from error
    size = f"{len(content):,}" if len(content) < max_bytes else "more"
    require(
        len(content) == original.size_bytes,
        f"{path} holds {size} bytes, unpacked; it must hold {original.size_bytes:,}",
    )
    sha256 = hashlib.sha256(content).hexdigest()
    require(
        sha256 == original.sha256,
        f"{path} is damaged or of another data set: unpacked, its SHA-256 is {sha256}; "
        f"it must be {original.sha256}",
    )
    return content
