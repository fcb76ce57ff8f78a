"""python -m trainer.decode --workdir=runs/conv --input=codes.npz --output=images/"""

from absl import flags

from trainer import cli
from trainer.cli import stream_flags

_check = stream_flags.define(reads="codes", writes="examples")
flags.adopt_module_key_flags(stream_flags)


def main() -> None:
    """Runs the command."""
    from trainer.serving.stream import decode

    workdir, source, output, options = stream_flags.arguments()
    count = decode(workdir, source, output, options)
    print(f"decoded    {output} ({count:,} examples)")


if __name__ == "__main__":
    cli.run(main, _check)
