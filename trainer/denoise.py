"""python -m trainer.denoise --workdir=runs/denoising --input=photos --output=clean

Writes reconstructions by a run of any kind; only the denoising kind learns to remove noise.
"""

from absl import flags

from trainer import cli
from trainer.cli import stream_flags

_check = stream_flags.define(reads="examples", writes="examples")
flags.adopt_module_key_flags(stream_flags)


def main() -> None:
    """Runs the command."""
    from trainer.serving.stream import denoise

    workdir, source, output, options = stream_flags.arguments()
    count = denoise(workdir, source, output, options)
    print(f"denoised   {output} ({count:,} examples)")


if __name__ == "__main__":
    cli.run(main, _check)
