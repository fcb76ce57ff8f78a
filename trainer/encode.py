"""python -m trainer.encode --workdir=runs/conv --input=photos --output=codes.npz"""

from absl import flags

from trainer import cli
from trainer.cli import stream_flags

_check = stream_flags.define(reads="examples", writes="codes")
flags.adopt_module_key_flags(stream_flags)


def main() -> None:
    """Runs the command."""
    from trainer.serving.stream import encode

    workdir, source, output, options = stream_flags.arguments()
    count = encode(workdir, source, output, options)
    print(f"codes      {output} ({count:,} examples)")


if __name__ == "__main__":
    cli.run(main, _check)
