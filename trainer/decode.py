"""python -m trainer.decode --workdir=runs/conv --input=codes.npz --output=pictures/"""

from absl import flags

from trainer import cli
from trainer.cli import stream_flags

_INPUT = stream_flags.input_flag("The file of the codes, as trainer.encode writes it.")
_OUTPUT = stream_flags.output_flag()
flags.adopt_module_key_flags(stream_flags)


def main() -> None:
    from trainer.serving.stream import decode

    count = decode(
        stream_flags.WORKDIR.value,
        _INPUT.value,
        _OUTPUT.value,
        which=stream_flags.CHECKPOINT.value,
        array=stream_flags.ARRAY.value,
        batch_size=stream_flags.BATCH_SIZE.value,
        overwrite=stream_flags.OVERWRITE.value,
    )
    print(f"decoded    {_OUTPUT.value} ({count:,} examples)")


if __name__ == "__main__":
    cli.run(main, lambda: stream_flags.check(_INPUT.value, _OUTPUT.value))
