"""python -m trainer.prepare --dataset=mnist --data_dir=data"""

from pathlib import Path

from absl import flags

from trainer import cli

_DATASET = flags.DEFINE_string(
    "dataset", None, "The name of an image data set of TFDS, as data.name takes it.", required=True
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "The folder to prepare it in; for TFDS_DATA_DIR, here or where it is copied.",
    required=True,
)
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


def main() -> None:
    from trainer.preparation import prepare

    description = prepare(
        _DATASET.value,
        str(Path(_DATA_DIR.value).expanduser().absolute()),
        from_idx=_FROM_IDX.value,
        image_size=_IMAGE_SIZE.value,
        records=_RECORDS.value,
    )
    print(description)


if __name__ == "__main__":
    cli.run(main)
