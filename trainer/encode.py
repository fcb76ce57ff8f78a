"""python -m trainer.encode --workdir=runs/conv --input=photos --output=codes.npz"""

from absl import flags

from trainer import cli
from trainer.cli import stream_flags

stream_flags.define_examples_input()
stream_flags.define_codes_output()
_ERRORS = flags.DEFINE_bool(
    "errors",
    False,
    "Also write the mean squared error of each reconstruction; unusual examples have a large one.",
)
flags.adopt_module_key_flags(stream_flags)


def check() -> None:
    from trainer.serving.options import check_encode

    check_encode(*stream_flags.arguments(), errors=_ERRORS.value)


def main() -> None:
    from trainer.serving.stream import encode

    workdir, source, output, options = stream_flags.arguments()
    count = encode(workdir, source, output, options, errors=_ERRORS.value)
    print(f"codes      {output} ({count:,} examples)")


if __name__ == "__main__":
    cli.run(main, check)
