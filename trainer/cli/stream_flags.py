"""Flags of encode, decode and denoise, which stream examples or codes through a trained model."""

from typing import Any

from absl import flags

from trainer import cli

_WORKDIR = cli.workdir_flag()
_CHECKPOINT = cli.checkpoint_flag()
_ARRAY = flags.DEFINE_string(
    "array", "", "Name of the array to read from an .npz file that holds several."
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size",
    512,
    "Examples computed at a time; fewer need less memory.",
    lower_bound=1,
    upper_bound=2**16,
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an existing output.")
flags.adopt_module_key_flags(cli)


def define_examples_input() -> None:
    """Defines --input, --label_column and --resize, for a verb that reads examples."""
    flags.DEFINE_string(
        "input",
        None,
        "Folder of images (.png, .jpg, .jpeg, .bmp, .gif), one image, arrays (.npz, .npy) or a "
        "table (.csv, .tsv, .parquet); or train, validation or test, a split of the run's own data "
        "(./test is a folder).",
        required=True,
    )
    flags.DEFINE_string("label_column", "", "Column of a table that holds the labels.")
    flags.DEFINE_bool(
        "resize",
        False,
        "Scale images to the size of the model's images, as the run's data.fit says; images in the "
        "output have this size.",
    )


def define_codes_input() -> None:
    """Defines --input, for a verb that reads codes."""
    flags.DEFINE_string("input", None, "File of codes, as trainer.encode writes it.", required=True)


def define_codes_output() -> None:
    """Defines --output, for a verb that writes codes."""
    flags.DEFINE_string(
        "output",
        None,
        "File of the codes: .npz, .npy (without labels and file names), .parquet, .csv or .tsv.",
        required=True,
    )


def define_examples_output() -> None:
    """Defines --output, for a verb that writes examples."""
    flags.DEFINE_string(
        "output",
        None,
        "Folder of images; or arrays: .npz, .npy (without labels and file names); vectors also as "
        "a table: .parquet, .csv or .tsv.",
        required=True,
    )


def arguments() -> tuple[Any, ...]:
    """Returns workdir, input, output and options, as the functions of `serving.stream` take them.

    Imports no TensorFlow.
    """
    from trainer.serving.options import StreamOptions

    values = flags.FLAGS.flag_values_dict()
    options = StreamOptions(
        checkpoint=_CHECKPOINT.value,
        array=_ARRAY.value,
        label_column=values.get("label_column", ""),
        resize=values.get("resize", False),
        batch_size=_BATCH_SIZE.value,
        overwrite=_OVERWRITE.value,
    )
    return _WORKDIR.value, values["input"], values["output"], options
