"""python -m trainer.sample --workdir=runs/vae --n=64"""

from absl import flags

from trainer import cli

_WORKDIR = cli.workdir_flag()
_COUNT = flags.DEFINE_integer("n", 64, "Number of samples to draw.", lower_bound=1)
_CHECKPOINT = cli.checkpoint_flag()
_OUTPUT = flags.DEFINE_string("output", "", "Folder to write to. Default: the workdir.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace existing samples.")
flags.adopt_module_key_flags(cli)


def check() -> None:
    """Raises UserError for wrong flags that need no data to be found wrong."""
    from trainer.serving.options import check_sample

    check_sample(_WORKDIR.value, _COUNT.value, _OUTPUT.value, overwrite=_OVERWRITE.value)


def main() -> None:
    """Runs the command."""
    from trainer.run.workdir import SAMPLES
    from trainer.serving.prior_samples import sample

    folder = sample(
        _WORKDIR.value,
        _COUNT.value,
        checkpoint=_CHECKPOINT.value,
        output=_OUTPUT.value,
        overwrite=_OVERWRITE.value,
    )
    arrays, figure = SAMPLES
    print(f"samples    {folder / arrays}\nfigure     {folder / figure}")


if __name__ == "__main__":
    cli.run(main, check)
