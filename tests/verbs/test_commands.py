"""The commands themselves: help, and wrong flags, which need no TensorFlow to be found."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.all_configs import load_config
from tests.verbs.refusals import contents
from tests.verbs.sources import FEATURES, vectors
from trainer.config import parse
from trainer.run.workdir import Run

ROOT = Path(__file__).parent.parent.parent
COMMANDS = [
    *("trainer", "trainer.evaluate", "trainer.finetune", "trainer.sample", "trainer.encode"),
    *("trainer.decode", "trainer.denoise", "trainer.export", "trainer.compare", "trainer.prepare"),
    *("trainer.checkpoints", "launch.local", "launch.slurm", "launch.kubernetes", "launch.sweep"),
]


def command(*words, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", *words],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("module", "flag"),
    [*((module, "--help") for module in COMMANDS), ("trainer", "--helpshort")],
)
def test_help_is_no_error(module, flag):
    done = command(module, flag)
    assert done.returncode == 0
    assert f"python -m {module}" in done.stdout
    assert "Try --helpfull" in done.stdout


STREAM = "--workdir=run --input=rows.npy --output"
MISTAKES = [  # as typed beside rows.npy, a run of vectors, and a folder `made` of existing outputs
    ("evaluate", "--workdir=... is missing"),
    ("finetune", "--workdir=... is missing"),
    ("sample", "--workdir=... is missing"),
    ("prepare", "give either --dataset=NAME or --config=FILE"),
    ("evaluate --workdir=none", "holds no run"),
    ("finetune --workdir=none", "holds no run"),
    ("sample --workdir=none", "holds no run"),
    ("export --workdir=none --output=out", "holds no run"),
    ("encode --workdir=none --input=rows.npy --output=codes.npz", "holds no run"),
    ("decode --workdir=run --input=none.npy --output=back.npz", "none.npy' does not exist"),
    (f"encode {STREAM}=made/codes.npz", "made/codes.npz' exists;"),
    (f"encode {STREAM}=codes.npy --errors", "errors=True"),
    (f"encode {STREAM}=codes.npz --label_column=x", "label_column='x'"),
    (f"encode {STREAM}=codes.npz --batch_size=1000000000", "[1, 65536]"),
    (f"decode {STREAM}=back", "output='back' is not allowed for vectors"),
    (f"denoise {STREAM}=clean.npz --resize", "resize is for image files only"),
    ("export --workdir=run --output=", "output=''"),
    ("export --workdir=run --output=made", "made' exists;"),
    ("export --workdir=run --output=out --formats=pickle", "formats='pickle'"),
    ("sample --workdir=run --output=made", "made/samples.npz exists;"),
    ("compare run --output=made", "made/compare.md exists;"),
    ("prepare --dataset=digits --contact_sheet=made/sheet.png", "made/sheet.png exists;"),
]


@pytest.mark.parametrize(("typed", "message"), MISTAKES)
def test_a_wrong_flag_is_refused_before_tensorflow_is_imported(typed, message, tmp_path):
    (tmp_path / "run").mkdir()
    config, inputs = parse(load_config("dense")), {"image_shape": [FEATURES]}
    Run(tmp_path / "run", config, "0123abcd", inputs, {}, "id", {}).write()
    np.save(tmp_path / "rows.npy", vectors())
    (tmp_path / "made").mkdir()
    for name in ("codes.npz", "samples.npz", "compare.md", "sheet.png"):
        (tmp_path / "made" / name).touch()
    before = contents(tmp_path)
    done = command(*f"trainer.{typed}".split(), cwd=tmp_path)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    imports = [line for line in lines if line.startswith("import time:")]
    (line,) = [line for line in lines if line not in imports]
    assert message in line
    assert "tensorflow" not in {line.rpartition("|")[2].strip() for line in imports}
    assert contents(tmp_path) == before
