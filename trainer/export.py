"""python -m trainer.export --workdir=runs/conv --output=conv-export"""

import os

from absl import flags

from trainer import cli
from trainer.serving import model_card
from trainer.storage import paths

_WORKDIR = cli.workdir_flag()
_CHECKPOINT = cli.checkpoint_flag()
_OUTPUT = flags.DEFINE_string("output", None, "The folder to make.", required=True)
_FORMATS = flags.DEFINE_list(
    "formats", ["saved_model", "keras", "litert"], "Of saved_model, keras, litert and onnx."
)
_IMAGES = flags.DEFINE_enum(
    "images", "uint8", ["uint8", "float32"], "What images come as: 0 to 255, or [0, 1]."
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replaces an export that is there.")
flags.register_validator(_OUTPUT, lambda folder: folder != "", "it must name a folder.")
flags.adopt_module_key_flags(cli)


def check() -> None:
    cli.check_run()
    paths.check_folder(_OUTPUT.value, model_card.CARD, overwrite=_OVERWRITE.value)


def main() -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # on the CPU: a GPU rounds differently

    from trainer.serving.export import export, print_summary

    card = export(
        _WORKDIR.value,
        _OUTPUT.value,
        which=_CHECKPOINT.value,
        formats=_FORMATS.value,
        images=_IMAGES.value,
        overwrite=_OVERWRITE.value,
    )
    print_summary(card, _OUTPUT.value)


if __name__ == "__main__":
    cli.run(main, check)
