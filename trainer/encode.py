"""python -m trainer.encode --workdir=runs/conv --input=photos --output=codes.npz"""

from absl import flags

from trainer import cli
from trainer.cli import stream_flags

_INPUT = stream_flags.input_flag()
_LABEL_COLUMN = stream_flags.label_column_flag()
_RESIZE = stream_flags.resize_flag()
_OUTPUT = stream_flags.output_flag(
    "The file of the codes: .npz, .npy (no labels, no names), .parquet, .csv or .tsv."
)
_ERRORS = flags.DEFINE_bool(
    "errors",
    False,
    "Adds the mean squared error of each reconstruction: the larger, the stranger the example.",
)
flags.adopt_module_key_flags(stream_flags)


def main() -> None:
    from trainer.serving.stream import encode

    count = encode(
        stream_flags.WORKDIR.value,
        _INPUT.value,
        _OUTPUT.value,
        which=stream_flags.CHECKPOINT.value,
        array=stream_flags.ARRAY.value,
        label_column=_LABEL_COLUMN.value,
        resize=_RESIZE.value,
        errors=_ERRORS.value,
        batch_size=stream_flags.BATCH_SIZE.value,
        overwrite=stream_flags.OVERWRITE.value,
    )
    print(f"codes      {_OUTPUT.value} ({count:,} examples)")


if __name__ == "__main__":
    cli.run(main, lambda: stream_flags.check(_INPUT.value, _OUTPUT.value))
