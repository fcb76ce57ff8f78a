"""Lists the images of a user's folder: its splits, its classes, and what is left out."""

import contextlib
import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from trainer.errors import UserError, require
from trainer.storage import paths

# Names of the folders of splits, in any capitals.
SPLITS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
# Files and folders that operating systems and file servers write, in lower case.
_SYSTEM_NAMES = (
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
    *("__macosx", "@eadir", "$recycle.bin", "system volume information"),
)
_MAX_SUFFIXES = 5  # in a note


@dataclasses.dataclass(frozen=True)
class Listing:
    """Lists the image files of a folder, split by split, each sorted."""

    files: tuple[str, ...]  # relative to the folder
    labels: np.ndarray | None  # int64 [N]
    class_names: tuple[str, ...]  # by label
    counts: dict[str, int]  # of the files of each split, in the order of the files
    digest: str  # of the names, sizes and modification times of the files
    notes: tuple[str, ...] = ()  # for the user: what was left out

    def without(self, unreadable: set[str]) -> "Listing":
        """Returns the listing without some files."""
        kept = np.array([file not in unreadable for file in self.files], bool)
        ends = np.cumsum(list(self.counts.values()))
        counts = [int(part.sum()) for part in np.split(kept, ends[:-1])]
        return dataclasses.replace(
            self,
            files=tuple(file for file, keep in zip(self.files, kept, strict=True) if keep),
            labels=None if self.labels is None else self.labels[kept],
            counts=dict(zip(self.counts, counts, strict=True)),
        )


def is_image(name: str) -> bool:
    """Returns whether a file of this name is an image."""
    return name.lower().endswith(paths.IMAGE_SUFFIXES)


def names(folder: Path) -> list[str]:
    """Returns the image files in a folder and its subfolders, sorted, without hidden ones.

    Raises:
      UserError: the folder cannot be read.
    """
    with _readable(folder):
        return [name for name, _ in _walk(folder) if is_image(name)]


def classes_of(files: Sequence[str]) -> dict[str, str] | None:
    """Returns the class folder of each file below a folder or a split's; None if one has none."""
    splits = {name for names in SPLITS.values() for name in names}
    classes = {}
    for file in files:
        first, _, rest = file.partition("/")
        inside = rest if first.lower() in splits and "/" in rest else file
        classes[file] = _class_folder(inside) if "/" in inside else ""
    return classes if all(classes.values()) else None


def scan(folder: Path, *, class_folders: bool = True) -> Listing:
    """Lists the images of the folders of `SPLITS` in a folder, or else all its images to train on.

    The subfolders of a split are classes, labelled 0, 1, ... in the order of their names, the
    training split's first: a class may be in another split alone. Hidden files and folders are left
    out.

    Args:
      folder: the folder to list.
      class_folders: False takes the images of subfolders without a class.

    Raises:
      UserError: the folder cannot be read, holds no images, or holds images next to class folders.
    """
    require(folder.is_dir(), f"{folder} is not a folder; data.name=images:DIR needs one of images")
    with _readable(folder):
        present = _split_folders(folder)
        splits = {
            split: _SplitFolder.scan(folder, name, class_folders) for split, name in present.items()
        }
    with_classes = [split for split in splits.values() if split.class_names]
    require(
        len(with_classes) in (0, len(splits)),
        f"of the folders {', '.join(map(repr, present.values()))} in {folder}, some have class "
        "folders and some have not; data.class_folders=False takes all images without classes",
    )
    train_classes = splits["train"].class_names
    others = {name for split in splits.values() for name in split.class_names}
    class_names = (*train_classes, *sorted(others - set(train_classes)))
    places = {name: place for place, name in enumerate(class_names)}
    digest = hashlib.sha256()
    files, labels = [], []
    for split in splits.values():
        for file, status in split.files:
            files.append(split.prefix + file)
            state = f"{split.prefix}{file}\0{status.st_size}\0{status.st_mtime_ns}\n"
            digest.update(state.encode(errors="surrogateescape"))
            if class_names:
                labels.append(places[_class_folder(file)])
    return Listing(
        tuple(files),
        np.array(labels, np.int64) if class_names else None,
        class_names,
        {name: len(split.files) for name, split in splits.items()},
        digest.hexdigest(),
        tuple(_notes(splits, class_names[len(train_classes) :])),
    )


def _split_folders(folder: Path) -> dict[str, str]:
    """Returns the name of the folder of each split that is there; {"train": ""} without any."""
    found: dict[str, str] = {}
    folders = sorted(path.name for path in folder.iterdir() if path.is_dir())
    for split, split_names in SPLITS.items():
        same = [name for name in folders if name.lower() in split_names]
        require(
            len(same) <= 1,
            f"{folder} holds {' and '.join(map(repr, same))}, which are both the {split} split",
        )
        found |= {split: same[0]} if same else {}
    if not found:
        return {"train": ""}
    require(
        "train" in found,
        f"{folder} holds the folder {next(iter(found.values()), '')!r}, but none named train",
    )
    return found


def _notes(splits: dict[str, "_SplitFolder"], other_classes: tuple[str, ...]) -> Iterator[str]:
    suffixes: Counter[str] = Counter()
    for split in splits.values():
        suffixes.update(split.left_out)
    if suffixes:
        some = [
            f"{suffix or 'no suffix'} {n:,}" for suffix, n in suffixes.most_common(_MAX_SUFFIXES)
        ]
        more = ", …" if len(suffixes) > _MAX_SUFFIXES else ""
        yield f"files of other kinds left out ({suffixes.total():,}): {', '.join(some)}{more}"
    if other_classes:
        yield f"classes without training images: {', '.join(other_classes)}"


@dataclasses.dataclass(frozen=True)
class _SplitFolder:
    """Holds the image files of one split."""

    prefix: str  # of the files' names; "" or a folder and a slash
    files: list[tuple[str, os.stat_result]]  # relative to the split's folder, sorted
    class_names: tuple[str, ...]
    left_out: Counter[str]  # other files, by suffix

    @classmethod
    def scan(cls, root: Path, name: str, class_folders: bool) -> "_SplitFolder":
        folder = root / name
        files, left_out = [], Counter[str]()
        for file, status in _walk(folder):
            if is_image(file):
                files.append((file, status))
            else:
                left_out[Path(file).suffix.lower()] += 1
        prefix = f"{name}/" if name else ""
        require(
            len(files) > 0,
            f"{folder} holds no images: no file that ends in {', '.join(paths.IMAGE_SUFFIXES)}",
        )
        if not class_folders:
            return cls(prefix, files, (), left_out)
        without_class = [file for file, _ in files if "/" not in file]
        folders = {_class_folder(file) for file, _ in files}
        class_names = tuple(sorted(folders - set(without_class)))
        subfolders = (path.name for path in sorted(folder.iterdir()) if path.is_dir())
        for subfolder in subfolders:
            require(
                _is_ignored(subfolder) or subfolder in class_names,
                f"{folder / subfolder} is a class without images",
            )
        if without_class and class_names:
            raise UserError(
                f"{folder} holds {len(without_class):,} images, such as {without_class[0]}, next "
                f"to folders, such as {class_names[0]}; either all images have a class, or none "
                "has: data.class_folders=False takes all images without classes"
            )
        return cls(prefix, files, class_names, left_out)


def _is_ignored(name: str) -> bool:
    """Returns whether a file or folder is hidden, or one that systems write."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def _walk(
    folder: Path, prefix: str = "", seen: dict[tuple[int, int], str] | None = None
) -> Iterator[tuple[str, os.stat_result]]:
    """Yields the files in a folder and its subfolders, sorted, with their status.

    Names are text: a Path costs ten times as much, and there may be a million files.
    """
    seen = {} if seen is None else seen
    status = (folder / prefix).stat()
    before = seen.setdefault((status.st_dev, status.st_ino), prefix)
    require(  # a link to a parent folder would never end
        before == prefix,
        f"{folder / prefix} is the same folder as {folder / before}, by a link; each may be there "
        "once",
    )
    with os.scandir(folder / prefix) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if _is_ignored(entry.name):
            continue
        if entry.is_dir():
            yield from _walk(folder, f"{prefix}{entry.name}/", seen)
        else:
            yield prefix + entry.name, entry.stat()


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be read: {error.strerror}") from error


def _class_folder(name: str) -> str:
    return name.partition("/")[0]
