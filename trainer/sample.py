"""python -m trainer.sample --workdir=runs/vae --n=64"""

from absl import flags

from trainer import cli
from trainer.run import workdir
from trainer.storage import paths

_WORKDIR = cli.workdir_flag()
_COUNT = flags.DEFINE_integer("n", 64, "The number of images to draw.", lower_bound=1)
_CHECKPOINT = cli.checkpoint_flag()
_OUTPUT = flags.DEFINE_string("output", "", "The folder to write to; the workdir if not given.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replaces samples that are there.")
flags.adopt_module_key_flags(cli)


def check() -> None:
    cli.check_run()
    folder = _OUTPUT.value or _WORKDIR.value
    paths.check_files(folder, workdir.SAMPLES, overwrite=_OVERWRITE.value)


def main() -> None:
    from trainer.serving.prior_samples import sample

    folder = sample(
        _WORKDIR.value,
        _COUNT.value,
        which=_CHECKPOINT.value,
        output=_OUTPUT.value,
        overwrite=_OVERWRITE.value,
    )
    arrays, picture = workdir.SAMPLES
    print(f"images     {folder / arrays}\npicture    {folder / picture}")


if __name__ == "__main__":
    cli.run(main, check)
