"""python -m trainer.sample --workdir=runs/vae --n=64"""

from absl import flags

from trainer import cli

_WORKDIR = cli.workdir_flag()
_COUNT = flags.DEFINE_integer("n", 64, "The number of images to draw.", lower_bound=1)
_CHECKPOINT = cli.checkpoint_flag()
_OUTPUT = flags.DEFINE_string("output", "", "The folder to write to; the workdir if not given.")
flags.adopt_module_key_flags(cli)


def main() -> None:
    from trainer.sampling import IMAGES, PICTURE, sample

    folder = sample(_WORKDIR.value, _COUNT.value, which=_CHECKPOINT.value, output=_OUTPUT.value)
    print(f"images     {folder / IMAGES}\npicture    {folder / PICTURE}")


if __name__ == "__main__":
    cli.run(main)
