"""A hostile disk: training goes on while it can, says so, and ends in one line; nothing is lost."""

import contextlib
import errno
import itertools
import os
import shutil
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

from tests.faults import kills
from tests.faults.test_kills import tiny_config
from tests.runs import assert_same_bits, charts, files_in, final_state, logged, report
from trainer.distribution.step import Steps
from trainer.errors import StorageError, UserError
from trainer.run import background, workdir
from trainer.run.background import BackgroundSaver
from trainer.run.metrics_log import MetricsLog
from trainer.train import train

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parent.parent.parent


@contextlib.contextmanager
def mounted(folder, options):
    """A disk in memory."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk, where it may at all")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def verb(name, run, *flags):
    return subprocess.run(
        [sys.executable, "-m", f"trainer{name}", f"--workdir={run}", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def command(config, run):
    settings = {
        "data.name": "digits",
        "batch_size": 64,
        "num_epochs": config.num_epochs,
        "model.hidden_units": "(16,)",
        "model.code_size": 4,
        "execution": "graph",
        "checkpoint_every_steps": 2,
        "log_every_steps": 2,
        "validate_every_steps": 5,
        "optimizer.warmup_steps": 0,
        "quiet": True,
    }
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    return verb("", run, "--config=configs/dense.py", *flags)


def fill(disk, left_bytes):
    """Takes all room of a disk but so much."""
    with (disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))
    os.truncate(disk / "filler", (disk / "filler").stat().st_size - left_bytes)


def assert_every_checkpoint_is_whole(run):
    folder = run / workdir.CHECKPOINTS
    if list(folder.glob("step-*")):
        lines, damaged = report(run)
        assert damaged == 0, lines
    assert not list(folder.glob(".writing-*"))


@pytest.mark.parametrize("size_kib", [4, 100, 400])
def test_a_full_disk_ends_a_run_in_one_line_and_room_lets_it_go_on(
    digits_config, tmp_path, size_kib
):
    assert command(digits_config, tmp_path / "alone").returncode == 0
    with mounted(tmp_path / "disk", f"size={size_kib}k") as disk:
        result = command(digits_config, disk / "run")
        assert result.returncode == 1, result.stderr
        *warnings, end = result.stderr.splitlines()
        assert end.startswith("error: ")
        assert "No space left on device" in end
        assert all(line.startswith("CHECKPOINT LOST: ") for line in warnings), result.stderr
        assert_every_checkpoint_is_whole(disk / "run")
        remount = ["mount", "-o", "remount,size=64m", str(disk)]
        subprocess.run(remount, check=True)
        assert command(digits_config, disk / "run").returncode == 0
        assert_same_bits(tmp_path / "alone", disk / "run")
        for part in ("train", "validation"):
            assert charts(disk / "run", part) == charts(tmp_path / "alone", part)


def test_a_full_disk_leaves_what_was_measured_before(digits_config, tmp_path):
    with mounted(tmp_path / "disk", "size=64m") as disk:
        run = disk / "run"
        assert command(digits_config, run).returncode == 0
        verbs = ((".evaluate",), (".finetune", "--num_epochs=1"))
        for name, *flags in verbs:
            assert verb(name, run, *flags).returncode == 0
        before = files_in(run)
        for left_bytes in (0, 8192):
            fill(disk, left_bytes)
            for name, *flags in verbs:
                result = verb(name, run, *flags)
                assert result.returncode == 1
                (line,) = result.stderr.splitlines()
                assert line.startswith("error: ")
                assert "No space left on device" in line
                assert files_in(run) == before


def test_no_inodes_are_left(digits_config, tmp_path):
    with mounted(tmp_path / "disk", "size=64m,nr_inodes=12") as disk:
        result = command(digits_config, disk / "run")
        assert result.returncode == 1
        assert result.stderr.splitlines()[-1].startswith("error: ")
        assert_every_checkpoint_is_whole(disk / "run")


def test_a_read_only_disk_is_refused(digits_config, tmp_path):
    with mounted(tmp_path / "disk", "size=64m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        result = command(digits_config, disk / "run")
        assert result.returncode == 2
        assert "cannot be written: Read-only file system" in result.stderr
        assert len(result.stderr.splitlines()) == 1


def refused(monkeypatch, first, last=10**9):
    """Has the saves from one to another, counted from 0, which is step 0's, be refused."""
    saves = itertools.count()
    original = np.savez

    def savez(*args, **arrays):
        if first <= next(saves) < last:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        original(*args, **arrays)

    monkeypatch.setattr(np, "savez", savez)


def test_permission_lost_for_a_while_costs_no_bit(digits_config, tmp_path, monkeypatch, capfd):
    digits_config.checkpoint_every_steps = 2
    digits_config.quiet = True
    train(digits_config, str(tmp_path / "alone"))
    with monkeypatch.context() as patch:
        refused(patch, 1, 4)
        train(digits_config, str(tmp_path / "run"))
    lines = capfd.readouterr().err.splitlines()
    assert [line.partition(" cannot")[0] for line in lines] == [
        f"CHECKPOINT LOST: the checkpoint of step {step}" for step in (2, 4, 5)
    ]
    assert_same_bits(tmp_path / "alone", tmp_path / "run")


@pytest.mark.parametrize("patience_seconds", [0.0, 600.0])
def test_permission_lost_for_good_ends_the_run(
    digits_config, tmp_path, monkeypatch, patience_seconds
):
    digits_config.checkpoint_every_steps = 2
    digits_config.quiet = True
    train(digits_config, str(tmp_path / "alone"))
    with monkeypatch.context() as patch:
        patch.setattr(background, "PATIENCE_SECONDS", patience_seconds)
        refused(patch, 2)
        with pytest.raises(StorageError, match="cannot be written: Permission denied"):
            train(digits_config, str(tmp_path / "run"))
    last = logged(tmp_path / "run")[-1]["step"]
    assert last == (10 if patience_seconds else 5)  # at the end there is nothing to go on with
    assert final_state(tmp_path / "run")[0] == 2
    train(digits_config, str(tmp_path / "run"))
    assert_same_bits(tmp_path / "alone", tmp_path / "run")


def test_a_workdir_that_vanishes_midway_ends_in_one_line(digits_config, tmp_path, monkeypatch):
    digits_config.quiet = True
    original = MetricsLog.append

    def vanishing(log, row):
        checkpoints = log.path.with_name(workdir.CHECKPOINTS)
        shutil.rmtree(checkpoints, ignore_errors=True)
        checkpoints.touch()
        original(log, row)

    monkeypatch.setattr(MetricsLog, "append", vanishing)
    with pytest.raises(StorageError, match="Not a directory"):
        train(digits_config, str(tmp_path / "run"))
    with pytest.raises(UserError):
        train(digits_config, str(tmp_path / "run"))


def test_a_disk_of_a_second_a_sync_is_waited_for_by_saves_and_by_no_step(
    digits_config, tmp_path, monkeypatch
):
    digits_config.quiet = True
    digits_config.steps_per_call = 1
    digits_config.log_every_steps = 10
    train(digits_config, str(tmp_path / "alone"))
    syncs: list[int] = []  # the steps begun before each
    steps: list[int] = []
    states: list[weakref.ref] = []
    original_sync = os.fsync
    original_train = Steps.train
    original_save = BackgroundSaver.save

    def slow_sync(handle):
        time.sleep(1)
        syncs.append(len(steps))
        original_sync(handle)

    def counted(self, first_step, *drawn):
        steps.append(int(first_step))
        return original_train(self, first_step, *drawn)

    def watched(self, step, state, **settings):
        states.append(weakref.ref(next(iter(state.values()))))
        assert sum(known() is not None for known in states) <= 2  # one under way, one waiting
        original_save(self, step, state, **settings)

    monkeypatch.setattr(os, "fsync", slow_sync)
    monkeypatch.setattr(Steps, "train", counted)
    monkeypatch.setattr(BackgroundSaver, "save", watched)
    train(digits_config, str(tmp_path / "run"))
    assert len(states) == 2  # of steps 5 and 10
    assert 10 in syncs[:-5]  # all ten steps were done while the first was being written
    assert_same_bits(tmp_path / "alone", tmp_path / "run")
    for part in ("train", "validation"):
        assert charts(tmp_path / "run", part) == charts(tmp_path / "alone", part)


def train_while_refused(run, first, last):
    """A training in whose checkpoints nothing can be written between two of its steps."""
    folder = Path(run) / workdir.CHECKPOINTS
    calls = "trainer.distribution.step.Steps.train"
    kills.within(calls, int(first), lambda: folder.chmod(0o500))
    kills.within(calls, int(last), lambda: folder.chmod(0o700))
    config = tiny_config("dense", steps=16)
    config.checkpoint_every_steps = 2
    train(config, run)


@pytest.mark.parametrize("last", [9, 10**9])
def test_a_folder_that_loses_its_permissions(tmp_path, last):
    train(tiny_config("dense", steps=16), str(tmp_path / "alone"))
    program = (
        "import sys; from tests.faults.test_disks import *; train_while_refused(*sys.argv[1:])"
    )
    run = tmp_path / "run"
    arguments = [sys.executable, "-c", program, str(run), "5", str(last)]
    if os.geteuid() == 0:  # whom no mode refuses, unless it gives up the right to pass over them
        if not shutil.which("setpriv"):
            pytest.skip("root needs setpriv to be refused anything")
        arguments = ["setpriv", "--bounding-set=-dac_override", *arguments]
    ended = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "CHECKPOINT LOST: the checkpoint of step" in ended.stderr
    if last == 9:
        assert ended.returncode == 0, ended.stderr
    else:
        assert "StorageError" in ended.stderr
        (run / workdir.CHECKPOINTS).chmod(0o700)
        train(tiny_config("dense", steps=16), str(run))
    assert_every_checkpoint_is_whole(run)
    assert_same_bits(tmp_path / "alone", run)
    for part in ("train", "validation"):
        assert charts(run, part) == charts(tmp_path / "alone", part)
