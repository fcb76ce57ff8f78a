"""One small data set of each source, and the config of a tiny run on it."""

import dataclasses
import functools
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from PIL import Image

from tests.all_configs import CONFIG_OF, load_config, tiny
from tests.tiny_colour import TinyColour
from trainer.config import kind_settings

SIDE = 8  # of the images
FEATURES = 5  # of the vectors
EXAMPLES = 40
CLASSES = 2
FINETUNING: dict[str, Any] = {
    "num_epochs": 1,
    "batch_size": 10,
    "learning_rate": 1e-3,
    "schedule": "constant",
    "patience_epochs": 1,
}


@dataclasses.dataclass(frozen=True)
class Source:
    """Data to train on, and an input like them for the verbs that read files."""

    settings: dict[str, Any]  # of the config's data
    shape: tuple[int, ...]
    labelled: bool
    like: str  # such an input; a split of the run's own data where they are not files

    @property
    def of_vectors(self):
        return len(self.shape) == 1


def pixels(shape, count=EXAMPLES, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def vectors(count=EXAMPLES, seed=0, features=FEATURES):
    return np.random.default_rng(seed).normal(5, 2, (count, features))


def save_images(folder, images):
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:02}.png")


def write_table(path, rows, **others):
    table = pa.table({f"x{k}": column for k, column in enumerate(rows.T)} | others)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        pyarrow.csv.write_csv(table, path)


def classes(count=EXAMPLES):
    return np.arange(count) % CLASSES


# Each makes its files in an empty folder.


def digits(_):
    settings = {"name": "digits", "image_size": SIDE, "resplit_test": 0.5}  # a fifth of them
    return Source(settings, (SIDE, SIDE, 1), True, "validation")


def tfds(folder):
    TinyColour(data_dir=folder).download_and_prepare()
    name = TinyColour.name
    return Source({"name": name, "image_size": SIDE}, (SIDE, SIDE, 3), True, "validation")


def grey_images(folder):
    save_images(folder / "own", pixels((SIDE, SIDE)))
    return Source({"name": f"images:{folder / 'own'}"}, (SIDE, SIDE, 1), False, f"{folder}/own")


def colour_images(folder):
    for split in ("train", "test"):
        for number, name in enumerate("ab"):
            save_images(folder / split / name, pixels((SIDE, SIDE, 3), 20, number))
    return Source({"name": f"images:{folder}"}, (SIDE, SIDE, 3), True, f"{folder}/test")


def csv(folder):
    words = np.array(["iris", "rose"])[classes()]
    write_table(folder / "own.csv", vectors(), kind=words)
    settings = {"name": f"table:{folder / 'own.csv'}", "label_column": "kind"}
    return Source(settings | {"standardise": True}, (FEATURES,), True, str(folder / "own.csv"))


def parquet(folder):
    for seed, split in enumerate(("train", "test")):
        rows = vectors(seed=seed)
        rows[3, 1] = np.nan
        write_table(folder / f"{split}.parquet", rows, kind=classes())
    train, test = (folder / f"{split}.parquet" for split in ("train", "test"))
    settings = {"name": f"table:{train},{test}", "label_column": "kind", "impute": "mean"}
    return Source(settings, (FEATURES,), True, str(test))


def npz(folder, make, shape):
    splits = {"train": make(), "test": make(20, seed=1)}
    labels = {"train_labels": classes(), "test_labels": classes(20)}
    np.savez(folder / "own.npz", **splits, **labels)
    np.savez(folder / "like.npz", rows=make())
    return Source({"name": f"arrays:{folder / 'own.npz'}"}, shape, True, f"{folder}/like.npz")


def npz_vectors(folder):
    return npz(folder, vectors, (FEATURES,))


def npz_images(folder):
    shape = (SIDE, SIDE, 3)
    return npz(folder, functools.partial(pixels, shape), shape)


def npy(folder):
    path = folder / "own.npy"
    np.save(path, pixels((SIDE, SIDE)) / 255)
    return Source({"name": f"arrays:{path}"}, (SIDE, SIDE, 1), False, str(path))


SOURCES = {
    make.__name__: make
    for make in (
        *(digits, tfds, grey_images, colour_images),
        *(csv, parquet, npz_vectors, npz_images, npy),
    )
}


def config_of(kind, source):
    """One step of a small net of a kind."""
    config = load_config(CONFIG_OF[kind])
    config.model.update(tiny(kind))
    if source.of_vectors:
        config.model.update(kind_settings(kind).for_vectors)
        config.augment.shift_pixels = 0
    config.data.update({"resplit_test": 0.0, "image_size": 0, **source.settings})
    config.batch_size = 10
    config.num_epochs = 1e-6
    config.execution = "graph"
    config.strategy = "cpu:1"
    config.figures = False
    config.quiet = True
    return config
