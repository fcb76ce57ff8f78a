"""python -m trainer.prepare --dataset=mnist --data_dir=data"""

from absl import flags

from trainer import cli
from trainer.config import Data, make_data
from trainer.errors import require
from trainer.storage import paths

_DATASET = flags.DEFINE_string("dataset", None, "Data set to describe, written as data.name.")
_CONFIG = cli.config_flag("Describe the data of this config instead of --dataset.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Folder to prepare a TFDS data set in. A training finds the folder, or a copy, by "
    "TFDS_DATA_DIR.",
)
_CONTACT_SHEET = flags.DEFINE_string("contact_sheet", "", "PNG file to draw some of the images to.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an existing contact sheet.")
_FROM_IDX = flags.DEFINE_string(
    "from_idx", "", "Folder of MNIST's four original files, to be used instead of a download."
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", 0, "data.image_size, for images that differ in size.", lower_bound=0
)
_RECORDS = flags.DEFINE_bool(
    "records", False, "Prepare ArrayRecord files, for data sets that do not fit memory."
)
flags.register_validator(_DATA_DIR, lambda folder: folder != "", "it must name a folder.")
flags.adopt_module_key_flags(cli)


def check() -> None:
    """Raises UserError for wrong flags that need no data to be found wrong."""
    from trainer.data.describe import check_tfds_flags

    require(
        (_DATASET.value is None) != (_CONFIG.value is None),
        "give either --dataset=NAME or --config=FILE",
    )
    paths.check_output_image("--contact_sheet", _CONTACT_SHEET.value, overwrite=_OVERWRITE.value)
    check_tfds_flags(_settings(), _DATA_DIR.value, _FROM_IDX.value)


def _settings() -> Data:
    """Returns the keys of the data that the flags name."""
    keys = _CONFIG.value.data.to_dict() if _CONFIG.value else {"name": _DATASET.value}
    if _IMAGE_SIZE.value:
        keys["image_size"] = _IMAGE_SIZE.value
    if _RECORDS.value:
        keys["placement"] = "records"
    return make_data(**keys)


def main() -> None:
    """Runs the command."""
    from trainer.data.describe import prepare

    folder = _DATA_DIR.value
    description = prepare(
        _settings(),
        None if folder is None else str(paths.path_of(folder).absolute()),
        from_idx=_FROM_IDX.value,
        contact_sheet=_CONTACT_SHEET.value,
        overwrite=_OVERWRITE.value,
    )
    print(description)


if __name__ == "__main__":
    cli.run(main, check)
