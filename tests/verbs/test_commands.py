"""The commands themselves: help, and mistakes that need no TensorFlow to be seen."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.test_compare import MEASURED, make_run
from tests.verbs.refusals import contents
from tests.verbs.sources import vectors

ROOT = Path(__file__).parent.parent.parent
HELPFUL = [
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
    [*((module, "--help") for module in HELPFUL), ("trainer", "--helpshort")],
)
def test_help_is_no_error(module, flag):
    done = command(module, flag)
    assert done.returncode == 0
    assert f"python -m {module}" in done.stdout
    assert "Try --helpfull" in done.stdout


MISTAKES = [  # as they are typed, where rows.npy, a run and a folder of others' outputs are
    ("evaluate", "--workdir=... is missing"),
    ("finetune", "--workdir=... is missing"),
    ("sample", "--workdir=... is missing"),
    ("prepare", "one of --dataset=NAME and --config=FILE is to be given"),
    ("evaluate --workdir=none", "holds no run"),
    ("finetune --workdir=none", "holds no run"),
    ("sample --workdir=none", "holds no run"),
    ("export --workdir=none --output=out", "holds no run"),
    ("encode --workdir=none --input=rows.npy --output=codes.npz", "holds no run"),
    ("decode --workdir=none --input=rows.npy --output=back.npz", "holds no run"),
    ("denoise --workdir=none --input=rows.npy --output=clean.npz", "holds no run"),
    ("encode --workdir=run --input=none.npy --output=codes.npz", "none.npy' is not there"),
    ("decode --workdir=run --input=none.npy --output=back.npz", "none.npy' is not there"),
    ("denoise --workdir=run --input=none.npy --output=clean.npz", "none.npy' is not there"),
    ("encode --workdir=run --input=rows.npy --output=made/codes.npz", "made/codes.npz' is there;"),
    ("decode --workdir=run --input=rows.npy --output=made/back.npz", "made/back.npz' is there;"),
    ("denoise --workdir=run --input=rows.npy --output=made/clean.npz", "made/clean.npz' is there;"),
    ("export --workdir=run --output=made", "made' is there;"),
    ("sample --workdir=run --output=made", "made/samples.npz is there;"),
    ("compare run --output=made", "made/compare.md is there;"),
    ("encode --workdir=run --input=rows.npy --output=c.npz --batch_size=1000000000", "[1, 65536]"),
    ("prepare --dataset=digits --contact_sheet=made/sheet.png", "made/sheet.png is there;"),
]


@pytest.mark.parametrize(("typed", "message"), MISTAKES)
def test_a_plain_mistake_is_told_before_tensorflow_is_imported(typed, message, tmp_path):
    make_run(tmp_path / "run", MEASURED)
    np.save(tmp_path / "rows.npy", vectors())
    (tmp_path / "made").mkdir()
    made = ("codes.npz", "back.npz", "clean.npz", "samples.npz", "compare.md", "sheet.png")
    for name in made:
        (tmp_path / "made" / name).touch()
    before = contents(tmp_path)
    done = command(*f"trainer.{typed}".split(), cwd=tmp_path)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    imports = [line for line in lines if line.startswith("import time:")]
    (told,) = [line for line in lines if line not in imports]
    assert message in told
    assert not [line for line in imports if "tensorflow" in line]
    assert contents(tmp_path) == before
