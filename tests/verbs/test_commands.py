"""The commands themselves: help, and wrong flags, which need no TensorFlow to be found."""

from pathlib import Path

import numpy as np

from tests.all_configs import load_config
from tests.typed import outcomes
from tests.verbs.refusals import contents
from tests.verbs.sources import FEATURES, vectors
from trainer.config import parse
from trainer.run.workdir import Run

ROOT = Path(__file__).parents[2]
COMMANDS = [
    f"{room}.{path.stem}".removesuffix(".__main__")
    for room in ("trainer", "launch")
    for path in sorted((ROOT / room).glob("*.py"))
    if "cli.run" in path.read_text() or "arguments.run" in path.read_text()
]


def test_the_readme_names_every_command():
    page = (ROOT / "README.md").read_text()
    assert len(COMMANDS) > 10
    missing = [name for name in COMMANDS if f"python -m {name} " not in page]
    assert sorted(missing) == [
        "launch.sweep",
        "trainer.checkpoints",
    ]  # docs/launching.md, reliability.md


def test_help_is_no_error_and_needs_no_tensorflow():
    asked = [(module, "--help") for module in COMMANDS] + [("trainer", "--helpshort")]
    done = outcomes("light", [["-m", *words] for words in asked])
    for (module, _), (status, output) in zip(asked, done, strict=True):
        assert status == 0, output
        assert f"python -m {module}" in output
        assert "Try --helpfull" in output


STREAM = "--workdir=run --input=rows.npy --output"
MISTAKES = {  # as typed beside rows.npy, a run of vectors, and a folder `made` of existing outputs
    "evaluate": "--workdir=... is missing",
    "prepare": "give either --dataset=NAME or --config=FILE",
    "evaluate --workdir=none": "holds no run",
    "evaluate --workdir=run --normal_label=0 --anomaly_label=1": "both given",
    "evaluate --workdir=run --contamination=1.5": "contamination=1.5",
    "finetune --workdir=none": "holds no run",
    "sample --workdir=none": "holds no run",
    "export --workdir=none --output=out": "holds no run",
    "encode --workdir=none --input=rows.npy --output=codes.npz": "holds no run",
    "decode --workdir=run --input=none.npy --output=back.npz": "none.npy' does not exist",
    f"encode {STREAM}=made/codes.npz": "made/codes.npz' exists;",
    f"encode {STREAM}=codes.npy --errors": "errors=True",
    f"encode {STREAM}=codes.npz --label_column=x": "label_column='x'",
    f"encode {STREAM}=codes.npz --batch_size=1000000000": "[1, 65536]",
    f"decode {STREAM}=back": "output='back' is not allowed for vectors",
    f"denoise {STREAM}=clean.npz --resize": "resize is for image files only",
    "map --workdir=run --input=none.npy": "none.npy' does not exist",
    "map --workdir=run --input=rows.npy --output=made": "made/map.csv exists;",
    "map --workdir=run --resize": "resize=True is not for input='test'",
    "map --workdir=run --colour=size": "colour='size' is not known; allowed: ",
    "map --workdir=run --method=som": "method='som' is not known; allowed: ",
    "export --workdir=run --output=": "output=''",
    "export --workdir=run --output=made": "made' exists;",
    "export --workdir=run --output=out --formats=pickle": "formats='pickle'",
    "export --workdir=run --output=out --images=int8": "images='int8' is not known; ",
    "sample --workdir=run --output=made": "made/samples.npz exists;",
    "compare run --output=made": "made/compare.md exists;",
    "prepare --dataset=digits --contact_sheet=made/sheet.png": "made/sheet.png exists;",
}


def test_a_wrong_flag_is_refused_in_one_line_before_tensorflow_is_imported(tmp_path):
    config, inputs = parse(load_config("dense")), {"image_shape": [FEATURES]}
    (tmp_path / "run").mkdir()
    Run(tmp_path / "run", config, "0123abcd", inputs, {}, "id", {}).write()
    np.save(tmp_path / "rows.npy", vectors())
    (tmp_path / "made").mkdir()
    for name in ("codes.npz", "map.csv", "samples.npz", "compare.md", "sheet.png"):
        (tmp_path / "made" / name).touch()
    before = contents(tmp_path)
    done = outcomes("light", [["-m", *f"trainer.{typed}".split()] for typed in MISTAKES], tmp_path)
    for (typed, message), (status, output) in zip(MISTAKES.items(), done, strict=True):
        assert (status, len(output.splitlines())) == (2, 1), f"{typed}\n{output}"
        assert message in output, typed
    assert contents(tmp_path) == before
