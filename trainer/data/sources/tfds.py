"""Reads image data sets of TensorFlow Datasets (TFDS)."""

import math
import os

import numpy as np

from trainer.config import Data
from trainer.data.memory import usage
from trainer.data.sources import Request, Splits
from trainer.errors import UserError, require

EXAMPLE = "mnist"
RESIZES = True
STAYS_IN_FILES = True
PATH_MAY_MOVE = False
SEVERAL_PATHS = False
Settings = Data


def read(request: Request) -> Splits:
    """Reads a data set, and downloads it if it is missing.

    A data set that does not fit memory, or has the placement "records", stays in its ArrayRecord
    files. The `test` split, or else the `validation` split, is the test split.
    """
    import tensorflow as tf

    from trainer.data.files import tfds_prepare, tfds_records

    settings = request.settings
    folder = request.folder or os.environ.get("TFDS_DATA_DIR")
    builder = tfds_prepare.find(settings.name, folder)
    _check_features(builder, settings.image_size)
    if not tfds_prepare.is_prepared(builder):
        file_format = "array_record" if settings.placement == "records" else None
        tfds_prepare.download(settings.name, folder, file_format)
        builder = tfds_prepare.find(settings.name, folder)
    present = builder.info.splits
    require("train" in present, f"data.name={settings.name!r} has no training images")
    names = ["train", *[name for name in ("test", "validation") if name in present][:1]]
    image_shape = builder.info.features["image"].shape
    if settings.image_size:
        image_shape = (settings.image_size, settings.image_size, image_shape[-1])
    size = sum(present[name].num_examples for name in names) * math.prod(image_shape)
    in_files = _stays_in_files(builder, size, request)
    read_split = tfds_records.open_split if in_files else tfds_records.read_split
    try:
        train, *test = (read_split(builder, name, image_shape) for name in names)
    except (tf.errors.OpError, OSError, AssertionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"the data set in {builder.data_path} cannot be read ({type(error).__name__}); "
            "delete that folder and prepare it again"
        ) from error
    return Splits(train, test[0] if test else None)


def _check_features(builder, image_size: int) -> None:
    """Raises UserError, before any download, unless the data set holds images of one shape."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    require(
        isinstance(features, tfds.features.FeaturesDict) and "image" in features,
        f"{builder.name} holds no images: its features are {', '.join(features or ())}",
    )
    shape, dtype = features["image"].shape, features["image"].np_dtype
    require(
        image_size > 0 or None not in shape,
        f"the images of {builder.name} differ in size {shape}; set data.image_size",
    )
    require(dtype == np.uint8, f"the images of {builder.name} are {dtype}, but only uint8 is read")


def _stays_in_files(builder, size: int, request: Request) -> bool:
    """Returns whether images of `size` bytes are left in files; raises UserError if they cannot."""
    placement = request.settings.placement
    if placement != "records" and size <= request.allowed_bytes:
        return False
    why = (
        "data.placement='records' needs the data set as ArrayRecord"
        if placement == "records"
        else usage(builder.name, size, request.allowed_bytes)
    )
    require(
        placement in ("auto", "records") and builder.info.file_format.value == "array_record",
        f"{why}; prepare it so that it can be read by index: "
        f"python -m trainer.prepare --dataset={builder.name} --records --data_dir=DIR, with a new "
        "folder DIR, TFDS_DATA_DIR set to it, and data.placement=auto",
    )
    return True
