"""Defines the flags of encode, decode, denoise and map."""

from collections.abc import Callable
from typing import Any

from absl import flags

from trainer import cli

_INPUTS = {
    "examples": "Folder of images, one image, arrays (.npz, .npy) or a table (.csv, .tsv, .txt, "
    "packed or not, .parquet); or a split of the run's own data: train, validation or "
    "test (./test is a folder).",
    "codes": "File of codes, as trainer.encode writes it.",
}
_OUTPUTS = {
    "examples": "Folder of images; or arrays: .npz, .npy (without labels and file names); vectors "
    "also as a table: .parquet, .csv or .tsv.",
    "codes": "File of the codes: .npz, .npy (without labels and file names), .parquet, .csv or "
    ".tsv.",
}


def define(reads: str, writes: str) -> Callable[[], None]:
    """Defines the flags of a verb that reads and writes "examples" or "codes".

    Returns a function that raises UserError if the flags are wrong, without TensorFlow.
    """
    define_input(reads)
    flags.DEFINE_string("output", None, _OUTPUTS[writes], required=True)
    if writes == "codes":
        flags.DEFINE_bool(
            "errors",
            False,
            "Also write the mean squared error of each reconstruction, which is large for unusual "
            "examples; of standardised vectors in squared standard deviations. After "
            "trainer.evaluate also PCA's errors, the Mahalanobis distances from the training "
            "examples and, with thresholds, is_anomaly and is_anomaly_by_distance.",
        )
        flags.DEFINE_bool(
            "squared_errors",
            False,
            "As --errors, and the squared error of each column of vectors or pixel of images.",
        )

    def check() -> None:
        from trainer.serving.options import check_stream

        check_stream(*arguments(), reads=reads, writes=writes)

    return check


def define_input(reads: str, default: str | None = None) -> None:
    """Defines the flags of an input of "examples" or "codes"; without a default it is required."""
    cli.workdir_flag()
    cli.checkpoint_flag()
    flags.DEFINE_string("input", default, _INPUTS[reads], required=default is None)
    flags.DEFINE_string("array", "", "Array to read from an .npz file that holds several.")
    flags.DEFINE_integer(
        "batch_size",
        512,
        "Examples computed at a time; fewer need less memory.",
        lower_bound=1,
        upper_bound=2**16,
    )
    flags.DEFINE_bool("overwrite", False, "Replace an existing output.")
    if reads == "examples":
        cli.data_flag()
        flags.DEFINE_string("label_column", "", "Column of a table that holds the labels.")
        flags.DEFINE_bool(
            "unknown_categories",
            False,
            "Take texts that the training's table does not hold as none of its column's texts, and "
            "count them; otherwise refuse the table.",
        )
        flags.DEFINE_bool(
            "resize", False, "Scale images to the model's size, as the run's data.fit says."
        )
    flags.adopt_module_key_flags(cli)


def arguments() -> tuple[Any, ...]:
    """Returns the arguments of a function of `serving.stream`: workdir, source, output, options."""
    from trainer.serving.options import StreamOptions

    values = flags.FLAGS.flag_values_dict()
    options = {name: values[name] for name in vars(StreamOptions()) if name in values}
    return values["workdir"], values["input"], values["output"], StreamOptions(**options)
