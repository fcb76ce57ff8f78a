"""Outputs of a command replace those before them, all or none."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.test_finetuning import SETTINGS
from tests.runs import files_in
from trainer.errors import StorageError
from trainer.evaluation.evaluate import evaluate
from trainer.evaluation.finetuning import FineTuning, finetune
from trainer.storage import atomic


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_files_and_folders_replace_those_before(tmp_path):
    for number in (1, 2):
        with atomic.replacing(tmp_path) as tmp:
            (tmp / "test").mkdir()
            (tmp / "test" / str(number)).touch()
            (tmp / "metrics.json").write_text(str(number))
            assert (tmp_path / "metrics.json").exists() == (number == 2)
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} == {
        *("metrics.json", "test", "test/2")
    }
    assert (tmp_path / "metrics.json").read_text() == "2"


@pytest.mark.parametrize("moment", ["written", "placed"])
def test_a_folder_that_cannot_be_written_or_placed_leaves_the_one_before(
    tmp_path, monkeypatch, moment
):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "before").touch()
    (tmp_path / "metrics.json").write_text("before")
    before = files_in(tmp_path)
    if moment == "placed":
        refuse_to_place(tmp_path / "test", monkeypatch)
    with (
        pytest.raises(StorageError, match="cannot be written: No space left"),
        atomic.replacing(tmp_path) as tmp,
    ):
        (tmp / "test").mkdir()
        (tmp / "metrics.json").write_text("after")
        if moment == "written":
            full()
    assert files_in(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} == {"test", "metrics.json"}


def refuse_to_place(place, monkeypatch):
    """Makes the next move to a path fail."""
    refused: list[Path] = []
    for method in ("rename", "replace"):
        original = getattr(Path, method)

        def moved(path, target, original=original):
            if Path(target) == place and not refused:
                refused.append(path)
                full()
            return original(path, target)

        monkeypatch.setattr(Path, method, moved)


@pytest.mark.slow
def test_an_evaluation_and_a_fine_tuning_that_cannot_be_written_leave_all_as_it_was(
    digits_run, tmp_path, monkeypatch
):
    run = shutil.copytree(digits_run, tmp_path / "run")
    for name in ("metrics.json", "finetuned.json", "finetuned.npz"):
        (run / name).write_text("{}")
    before = files_in(run)
    with monkeypatch.context() as patch, pytest.raises(StorageError, match="No space left"):
        patch.setattr(np, "savetxt", full)
        evaluate(str(run))
    assert files_in(run) == before
    with monkeypatch.context() as patch, pytest.raises(StorageError, match="No space left"):
        patch.setattr(atomic, "write_json", full)
        finetune(str(run), FineTuning(**SETTINGS))
    assert files_in(run) == before
