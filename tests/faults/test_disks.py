"""A hostile disk: training goes on while it can, says so, and ends in one line; nothing is lost."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest

from tests.faults import kills
from tests.faults.test_kills import tiny_config
from tests.runs import (
    assert_same_bits,
    assert_same_charts,
    assert_same_record,
    files_in,
    report,
    small_config,
)
from trainer.config import flat, load_config, parse
from trainer.distribution.step import Steps
from trainer.errors import StorageError, UserError
from trainer.run import workdir
from trainer.run.background import BackgroundSaver
from trainer.run.metrics_log import MetricsLog
from trainer.serving.options import FORMATS
from trainer.training.train import train

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


def quiet_config():
    config = small_config()
    config.figures = True
    config.update({"checkpoint_every_steps": 2, "quiet": True})
    return config


def verb(name, run, *flags):
    return subprocess.run(
        [sys.executable, "-m", f"trainer{name}", f"--workdir={run}", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def command(run):
    of_file, wanted = (flat(parse(c).to_dict()) for c in (load_config("dense"), quiet_config()))
    changes = {key: value for key, value in wanted.items() if of_file.get(key) != value}
    flags = [f"--config.{key}={value}" for key, value in changes.items()]
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


@pytest.mark.parametrize("room", ["size=4k", "size=100k", "size=400k", "size=64m,nr_inodes=12"])
def test_a_full_disk_ends_a_run_in_one_line_and_room_lets_it_go_on(tmp_path, room):
    assert command(tmp_path / "alone").returncode == 0
    with mounted(tmp_path / "disk", room) as disk:
        result = command(disk / "run")
        assert result.returncode == 1, result.stderr
        *warnings, end = result.stderr.splitlines()
        assert end.startswith("error: ")
        assert "No space left on device" in end
        assert all(line.startswith("CHECKPOINT LOST: ") for line in warnings), result.stderr
        assert_every_checkpoint_is_whole(disk / "run")
        remount = ["mount", "-o", "remount,size=64m,nr_inodes=1000", str(disk)]
        subprocess.run(remount, check=True)
        assert command(disk / "run").returncode == 0
        assert_same_bits(tmp_path / "alone", disk / "run")
        assert_same_charts(tmp_path / "alone", disk / "run")


def test_a_full_disk_leaves_what_was_measured_before(tmp_path):
    with mounted(tmp_path / "disk", "size=64m") as disk:
        run = disk / "run"
        assert command(run).returncode == 0
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


def test_a_full_disk_ends_every_command_that_writes(tmp_path):
    config = load_config("vae")
    config.update({"num_epochs": 1e-6, "execution": "graph", "quiet": True})
    run, codes = tmp_path / "run", tmp_path / "codes.npz"
    train(config, str(run))
    assert verb(".encode", run, "--input=test", f"--output={codes}").returncode == 0
    with mounted(tmp_path / "disk", "size=8k") as disk:
        for name, *flags in (
            *(
                (".encode", "--input=test", f"--output={disk}/a{end}")
                for end in (".csv", ".parquet")
            ),
            (".decode", f"--input={codes}", f"--output={disk}/a/"),
            (".sample", f"--output={disk}"),
            *((".export", f"--output={disk}/a", f"--formats={name}") for name in FORMATS[:3]),
        ):
            result = verb(name, run, *flags)
            assert result.returncode == 1, (name, flags, result.stderr)
            (line,) = result.stderr.splitlines()
            assert line.startswith("error: ")
            found_by = "[^:]* MiB are needed" if name == ".sample" else "No space left on device"
            assert re.search(f" cannot be written: {found_by}$", line)
            assert list(disk.iterdir()) == []
        command = [sys.executable, "-m", "trainer.checkpoints", "verify", str(run)]
        with Path("/dev/full").open("w") as full:
            result = subprocess.run(
                command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1


def test_a_read_only_disk_is_refused(tmp_path):
    with mounted(tmp_path / "disk", "size=64m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        result = command(disk / "run")
        assert result.returncode == 2
        assert "cannot be written: Read-only file system" in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_a_workdir_that_vanishes_midway_ends_in_one_line(tmp_path, monkeypatch):
    original = MetricsLog.append

    def vanishing(log, row):
        checkpoints = log.path.with_name(workdir.CHECKPOINTS)
        shutil.rmtree(checkpoints, ignore_errors=True)
        checkpoints.touch()
        original(log, row)

    monkeypatch.setattr(MetricsLog, "append", vanishing)
    with pytest.raises(StorageError, match="Not a directory"):
        train(quiet_config(), str(tmp_path / "run"))
    with pytest.raises(UserError):
        train(quiet_config(), str(tmp_path / "run"))


def test_a_disk_of_a_second_a_sync_is_waited_for_by_saves_and_by_no_step(
    digits_config, tmp_path, monkeypatch
):
    digits_config.update({"quiet": True, "steps_per_call": 1, "log_every_steps": 10})
    digits_config.figures = True
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
    assert_same_record(tmp_path / "run", tmp_path / "alone")


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
    assert_same_charts(tmp_path / "alone", run)
