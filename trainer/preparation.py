"""A data set of TFDS, prepared in a folder for machines that cannot download it."""

import shlex
from pathlib import Path

from trainer import data, idx, tfds_sets
from trainer.errors import require

_VALIDATION_FRACTION = 0.05  # as configs/base.py has it, and so most runs


def prepare(
    name: str, folder: str, *, from_idx: str = "", image_size: int = 0, records: bool = False
) -> str:
    """Prepares a data set in a folder, unless it is there, and reads it as a training would.

    `from_idx` is the folder of MNIST's four original files, in place of a download; `records`
    prepares ArrayRecord files, which are read as the images are drawn. Returns what was prepared,
    for a person.

    Raises:
      UserError: it cannot be had, or not be read; one of the files is not what it should be.
    """
    kind = name.partition(":")[0]
    require(
        kind not in ("digits", "noise", "arrays"),
        f"{name!r} is no data set of TFDS: there is nothing to prepare",
    )
    builder = tfds_sets.find(name, folder)
    require(
        not from_idx or builder.name == "mnist",
        f"from_idx={from_idx!r} is not allowed with {name}; it is of mnist alone",
    )
    done = "was there already" if tfds_sets.is_prepared(builder) else "prepared"
    if from_idx and not tfds_sets.is_prepared(builder):
        contents = idx.read(Path(from_idx).expanduser())
        tfds_sets.prepare_mnist(folder, contents, "array_record" if records else None)
    dataset = data.load(
        name,
        image_size=image_size,
        validation_fraction=_VALIDATION_FRACTION,
        placement="records" if records else "auto",
        folder=folder,
    )
    info = tfds_sets.find(name, folder).info
    rows = {
        "data set": f"{info.name} {info.version}, {done}",
        "splits": ", ".join(f"{split} {of.num_examples:,}" for split, of in info.splits.items()),
        "images": "x".join(map(str, dataset.image_shape)),
        "fingerprint": dataset.fingerprint(),  # as config.json has it
        "folder": folder,
        "to use it": f"TFDS_DATA_DIR={shlex.quote(folder)}",
    }
    return "\n".join(f"{key:<12} {value}" for key, value in rows.items())
