"""python -m trainer.denoise --workdir=runs/denoising --input=photos --output=clean

Writes reconstructions: a run of any kind will do, but only the denoising kind has learnt to clean.
"""

from absl import flags

from trainer import cli
from trainer.cli import stream_flags

_INPUT = stream_flags.input_flag()
_LABEL_COLUMN = stream_flags.label_column_flag()
_RESIZE = stream_flags.resize_flag()
_OUTPUT = stream_flags.output_flag()
flags.adopt_module_key_flags(stream_flags)


def main() -> None:
    from trainer.serving.stream import denoise

    count = denoise(
        stream_flags.WORKDIR.value,
        _INPUT.value,
        _OUTPUT.value,
        which=stream_flags.CHECKPOINT.value,
        array=stream_flags.ARRAY.value,
        label_column=_LABEL_COLUMN.value,
        resize=_RESIZE.value,
        batch_size=stream_flags.BATCH_SIZE.value,
        overwrite=stream_flags.OVERWRITE.value,
    )
    print(f"denoised   {_OUTPUT.value} ({count:,} examples)")


if __name__ == "__main__":
    cli.run(main, lambda: stream_flags.check(_INPUT.value, _OUTPUT.value))
