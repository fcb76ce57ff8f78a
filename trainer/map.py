"""python -m trainer.map --workdir=runs/conv --method=tsne"""

from typing import Any

from absl import flags

from trainer import cli
from trainer.cli import stream_flags

stream_flags.define_input("examples", default="test")
_METHOD = flags.DEFINE_string(
    "method",
    "",
    "How codes become points: pca, tsne or umap. Default: codes of up to 2 values as they are, "
    "longer ones by PCA.",
)
_COLOUR = flags.DEFINE_string(
    "colour",
    "",
    "What colours a point: class, error (of its reconstruction) or, after an evaluation, distance. "
    "Default: class, where there are labels.",
)
_OUTPUT = flags.DEFINE_string("output", "", "Folder for map.png and map.csv. Default: the workdir.")
flags.adopt_module_key_flags(stream_flags)


def _arguments() -> dict[str, Any]:
    workdir, source, output, options = stream_flags.arguments()
    names = {"method": _METHOD.value, "colour": _COLOUR.value, "output": output}
    return {"workdir": workdir, "source": source, "options": options, **names}


def check() -> None:
    """Raises UserError for wrong flags that need no data to be found wrong."""
    from trainer.serving.options import check_map

    check_map(**_arguments())


def main() -> None:
    """Runs the command."""
    from trainer.run.workdir import MAP
    from trainer.serving.code_map import draw_map

    folder = draw_map(**_arguments())
    table, figure = MAP
    print(f"points     {folder / table}\nfigure     {folder / figure}")


if __name__ == "__main__":
    cli.run(main, check)
