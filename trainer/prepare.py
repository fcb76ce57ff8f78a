"""python -m trainer.prepare --dataset=mnist --data_dir=data"""

from typing import Any

from absl import flags

from trainer import cli
from trainer.errors import require
from trainer.storage import paths

_DATASET = flags.DEFINE_string("dataset", None, "A data set, as data.name takes it.")
_CONFIG = cli.config_flag("Its data are described, in place of --dataset.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "The folder to prepare one of TFDS in; for TFDS_DATA_DIR, here or where it is copied.",
)
_CONTACT_SHEET = flags.DEFINE_string(
    "contact_sheet", "", "The PNG file to draw some of the images to."
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replaces a contact sheet that is there.")
_FROM_IDX = flags.DEFINE_string(
    "from_idx", "", "The folder of MNIST's four original files, packed or not: no download."
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", 0, "data.image_size, where the images differ in size.", lower_bound=0
)
_RECORDS = flags.DEFINE_bool(
    "records", False, "Prepares files from which images are read as they are drawn, for large sets."
)
flags.register_validator(_DATA_DIR, lambda folder: folder != "", "it must name a folder.")
flags.adopt_module_key_flags(cli)


def check() -> None:
    require(
        (_DATASET.value is None) != (_CONFIG.value is None),
        "one of --dataset=NAME and --config=FILE is to be given, and not both",
    )
    paths.check_output_image("--contact_sheet", _CONTACT_SHEET.value, overwrite=_OVERWRITE.value)


def main() -> None:
    from trainer.data.describe import prepare

    config = _CONFIG.value
    settings: dict[str, Any] = config.data.to_dict() if config else {"name": _DATASET.value}
    if _IMAGE_SIZE.value:
        settings["image_size"] = _IMAGE_SIZE.value
    folder = _DATA_DIR.value
    description = prepare(
        settings.pop("name"),
        None if folder is None else str(paths.path_of(folder).absolute()),
        from_idx=_FROM_IDX.value,
        records=_RECORDS.value,
        contact_sheet=_CONTACT_SHEET.value,
        overwrite=_OVERWRITE.value,
        settings=settings,
    )
    print(description)


if __name__ == "__main__":
    cli.run(main, check)
