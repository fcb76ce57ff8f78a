"""python -m trainer.export --workdir=runs/conv --output=conv-export"""

import os

from absl import flags

from trainer import cli

_WORKDIR = cli.workdir_flag()
_CHECKPOINT = cli.checkpoint_flag()
_OUTPUT = flags.DEFINE_string("output", None, "Folder to create.", required=True)
_FORMATS = flags.DEFINE_list(
    "formats", ["saved_model", "keras", "litert"], "Some of saved_model, keras, litert and onnx."
)
_IMAGES = flags.DEFINE_string(
    "images", "uint8", "Type of pixels: uint8 (0 to 255) or float32 (0 to 1)."
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an existing export.")
flags.adopt_module_key_flags(cli)


def check() -> None:
    """Raises UserError for wrong flags that need no data to be found wrong."""
    from trainer.serving.options import check_export

    check_export(
        _WORKDIR.value,
        _OUTPUT.value,
        _FORMATS.value,
        _IMAGES.value,
        overwrite=_OVERWRITE.value,
    )


def main() -> None:
    """Runs the command."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a GPU rounds differently

    from trainer.serving.export import export, print_summary

    card = export(
        _WORKDIR.value,
        _OUTPUT.value,
        checkpoint=_CHECKPOINT.value,
        formats=_FORMATS.value,
        images=_IMAGES.value,
        overwrite=_OVERWRITE.value,
    )
    print_summary(card, _OUTPUT.value)


if __name__ == "__main__":
    cli.run(main, check)
