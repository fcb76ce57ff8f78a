"""The flags of encode, decode and denoise, which stream examples through a trained model."""

from absl import flags

from trainer import cli
from trainer.storage import paths

_EXAMPLES = (
    "A folder of pictures (.png, .jpg, .jpeg, .bmp, .gif), one picture, arrays (.npz, .npy) or a "
    "table (.csv, .tsv, .parquet); or train, validation or test: that part of the run's own data "
    "(./test is a folder)."
)
_DECODED = (
    "A folder for pictures; or arrays: .npz, .npy (no labels, no names); of vectors also a table: "
    ".parquet, .csv or .tsv."
)

WORKDIR = cli.workdir_flag()
CHECKPOINT = cli.checkpoint_flag()
ARRAY = flags.DEFINE_string("array", "", "Which array of an .npz file, where it holds several.")
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size",
    512,
    "Examples at a time; fewer take less memory.",
    lower_bound=1,
    upper_bound=2**16,
)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replaces an output that is there.")
flags.adopt_module_key_flags(cli)


def check(source: str, output: str) -> None:
    """Raises UserError where run, input or output will not do; needs no TensorFlow to see it."""
    cli.check_run()
    paths.check_stream(source, output, overwrite=OVERWRITE.value)


def input_flag(read: str = _EXAMPLES) -> flags.FlagHolder[str]:
    """Defines --input."""
    return flags.DEFINE_string("input", None, read, required=True)


def output_flag(written: str = _DECODED) -> flags.FlagHolder[str]:
    """Defines --output."""
    return flags.DEFINE_string("output", None, written, required=True)


def label_column_flag() -> flags.FlagHolder[str]:
    """Defines --label_column."""
    return flags.DEFINE_string("label_column", "", "The column of a table that is the label.")


def resize_flag() -> flags.FlagHolder[bool]:
    """Defines --resize."""
    return flags.DEFINE_bool(
        "resize",
        False,
        "Brings pictures to the size of the model's images, by the run's data.fit; what comes out "
        "is so.",
    )
