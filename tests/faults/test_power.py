"""What a loss of power cannot take: the order in which a training writes, syncs and renames."""

import os
import signal
from pathlib import Path

import pytest

from tests.runs import final_state, stop_after
from trainer.errors import Preempted
from trainer.monitoring import goodput
from trainer.run import workdir
from trainer.training.train import train


def content(path):
    """The bytes of a file, the names in a folder."""
    return sorted(os.listdir(path)) if path.is_dir() else path.read_bytes()  # noqa: PTH208


class Journal:
    """Holds each renaming to what was synced before; lists syncs and renamings in their order."""

    def __init__(self, monkeypatch):
        self.calls: list[tuple[str, Path]] = []
        self._synced: dict[Path, object] = {}
        for name in ("rename", "replace"):
            self._hold(monkeypatch, name, getattr(os, name))
        original = os.fsync

        def fsync(handle):
            original(handle)
            path = Path(f"/proc/self/fd/{handle}").readlink()
            self._synced[path] = content(path)
            self.calls.append(("sync", path))

        monkeypatch.setattr(os, "fsync", fsync)

    def _hold(self, monkeypatch, name, original):
        def renamed(source, target):
            source, target = Path(source), Path(target)
            parts = [source, *source.iterdir()] if source.is_dir() else [source]
            if target.name.startswith(("step-", "config", "metrics")):
                for part in parts:
                    assert self._synced.get(part) == content(part), part
            self.calls.append(("name", target))
            original(source, target)

        monkeypatch.setattr(os, name, renamed)


def test_what_a_run_names_is_synced_before_and_its_name_after(digits_config, tmp_path, monkeypatch):
    digits_config.quiet = digits_config.figures = True
    digits_config.keep_checkpoints = 1
    run = tmp_path / "run"
    folder = run / workdir.CHECKPOINTS
    journal = Journal(monkeypatch)
    with monkeypatch.context() as patch:
        stop_after(patch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Preempted):
            train(digits_config, str(run))
    train(digits_config, str(run))
    calls = journal.calls
    named = [path for what, path in calls if what == "name" and path.name.startswith("step-")]
    assert [path.name for path in named] == [f"step-{step:010d}" for step in (0, 4, 5, 10)]
    for path in named:
        index = calls.index(("name", path))
        assert calls[index + 1 : index + 3] == [("sync", folder), ("sync", run)]
    kinds = {path.name for what, path in calls if what == "name" and path.parent == run}
    assert kinds == {workdir.CONFIG, workdir.METRICS_LOG, goodput.FILE}
    assert final_state(run)[0] == 10
