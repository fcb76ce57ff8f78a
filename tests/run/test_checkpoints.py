import contextlib
import errno
import hashlib
import itertools
import json
import os
import shutil
import stat
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from configs import dense
from trainer import checkpoints as verb
from trainer.config import parse
from trainer.errors import StorageError, UserError
from trainer.run import background, workdir
from trainer.run.background import BackgroundSaver
from trainer.run.checkpoints import Checkpoints, DamagedError


def state(number):
    return {"model/encoder/kernel": np.full((2, 3), number, np.float32), "count": np.array(number)}


def save(folder, *numbers, keep=3, losses=None, run_id="own"):
    for number in numbers:
        loss = (losses or {}).get(number)
        Checkpoints(folder, run_id).save(number, state(number), validation_loss=loss, keep=keep)


def found(folder, checkpoint="last"):
    whole = Checkpoints(folder, "own").find(checkpoint)
    assert whole is not None
    return whole


def steps(folder):
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_what_is_saved_comes_back_bit_for_bit(tmp_path):
    values: dict[str, np.ndarray] = {
        "a/b": np.array([np.pi, -0.0, 1e-45], np.float32),
        "c": np.array(7, np.int64),
    }
    Checkpoints(tmp_path, "own").save(12, values, validation_loss=0.5, keep=1)
    checkpoint = found(tmp_path)
    assert (checkpoint.step, checkpoint.validation_loss) == (12, 0.5)
    for path, array in checkpoint.state().items():
        assert array.tobytes() == values[path].tobytes()
        assert array.dtype == values[path].dtype
    for kind in ("last", "best"):
        assert Checkpoints(tmp_path / "missing", "own").find(kind) is None


TENS = dict.fromkeys(range(0, 100, 10))
FALLING = {0: 3.0, 10: 1.0, 20: 2.0, 30: 0.5}
# Losses by step, how many are kept, how far a run may go back, and what is kept then.
KEPT: list[tuple[dict, int, int | None, list[int]]] = [
    ({1: 0.9, 2: 0.1, 3: 0.5, 4: 0.4, 5: 0.3}, 2, None, [2, 4, 5]),
    *((TENS, 1, None, [90]), (TENS, 1, 2, [80, 90]), (TENS, 1, 25, [60, 70, 80, 90])),
    ({50: None, 60: None}, 1, 25, [50, 60]),
    *((FALLING, 1, None, [30]), (FALLING, 1, 2, [10, 20, 30])),
]


def test_the_newest_and_the_best_are_kept_and_those_before_a_step_to_go_back_to(tmp_path):
    for number, (losses, keep, back, kept) in enumerate(KEPT):
        folder = tmp_path / str(number)
        for step, loss in losses.items():
            needed_step = None if back is None else max(0, step - back)
            Checkpoints(folder, "own").save(
                step, state(step), validation_loss=loss, keep=keep, needed_step=needed_step
            )
        assert steps(folder) == kept
        assert found(folder, "last").step == kept[-1]
        if None not in losses.values():
            assert found(folder, "best").step == min(losses, key=losses.__getitem__)


def test_the_newest_whole_one_before_a_step_is_found(tmp_path, capsys):
    save(tmp_path, *range(10, 50, 10), keep=9)
    checkpoints = Checkpoints(tmp_path, "own")

    def found_before(step):
        checkpoint = checkpoints.find_before(step)
        assert checkpoint is not None
        return checkpoint.step

    assert [found_before(step) for step in (45, 40, 39, 10, 9)] == [40, 40, 30, 10, 10]
    truncate(tmp_path / "step-0000000030" / "state.npz")
    assert found_before(39) == 20
    assert "CHECKPOINT DAMAGED" in capsys.readouterr().err
    for step in (10, 20):
        truncate(tmp_path / f"step-00000000{step}" / "state.npz")
    assert found_before(39) == 40
    checkpoints.delete_after(20)
    assert steps(tmp_path) == [10, 20]
    with pytest.raises(UserError, match="none of the 2 checkpoints"):
        checkpoints.find_before(20)


def test_damaged_newer_ones_are_set_aside_and_cost_no_new_one(tmp_path):
    save(tmp_path, 1, 2, 3)
    for number in (2, 3):
        truncate(tmp_path / f"step-000000000{number}" / "state.npz")
    Checkpoints(tmp_path, "own").set_aside_after(found(tmp_path).step)
    save(tmp_path, 2, keep=1)
    assert found(tmp_path).step == 2
    assert len(list(tmp_path.glob("damaged-*"))) == 2
    lines, damaged = Checkpoints(tmp_path, "own").report()
    assert damaged == 0
    assert "damaged-step-0000000002" in lines[1]


def test_a_damaged_best_does_not_cost_the_best_that_is_whole(tmp_path):
    losses = {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}
    save(tmp_path, 1, 2, losses=losses)
    truncate(tmp_path / "step-0000000001" / "state.npz")
    save(tmp_path, 3, 4, keep=1, losses=losses)
    assert found(tmp_path, "best").step == 2


def test_best_needs_a_validated_one_and_nan_is_none(tmp_path):
    save(tmp_path, 1, 2, losses={2: float("nan")})
    with pytest.raises(UserError, match="validation loss"):
        found(tmp_path, "best")


def test_a_write_cut_short_is_neither_found_nor_left_behind(tmp_path):
    save(tmp_path, 1)
    (tmp_path / ".writing-step-0000000002").mkdir()
    assert found(tmp_path).step == 1
    save(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("step-0000000001", "step-0000000003")
    ]


def test_a_damaged_newest_is_named_and_the_one_before_taken(tmp_path, capsys):
    save(tmp_path, 1, 2, 3)
    flip_a_bit(tmp_path / "step-0000000003" / "state.npz")
    truncate(tmp_path / "step-0000000002" / "manifest.json")
    assert found(tmp_path).step == 1
    *warnings, taken = capsys.readouterr().err.splitlines()
    for step, warning in zip((3, 2), warnings, strict=True):
        assert warning.startswith(f"CHECKPOINT DAMAGED: {tmp_path}/step-{step:010d}")
    assert taken == f"using {tmp_path}/step-0000000001 instead"
    (tmp_path / "step-0000000004").symlink_to("nowhere")
    assert found(tmp_path).step == 1
    for step in (1, 2, 3):
        shutil.rmtree(tmp_path / f"step-{step:010d}")
    with pytest.raises(UserError, match="none of the 1 checkpoints"):
        found(tmp_path)


@pytest.mark.parametrize("checkpoint", ["last", "best"])
def test_a_checkpoint_that_a_running_training_deletes_is_no_damage(
    tmp_path, monkeypatch, capsys, checkpoint
):
    losses = {1: 0.2, 2: 0.1}
    save(tmp_path, 1, losses=losses)
    verify = Checkpoints.verify

    def late(self, path):
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "verify", verify)
            if steps(tmp_path) == [1]:
                save(tmp_path, 2, keep=1, losses=losses)  # and deletes the first
            return verify(self, path)

    monkeypatch.setattr(Checkpoints, "verify", late)
    assert found(tmp_path, checkpoint).step == 2
    assert capsys.readouterr().err == ""


def test_a_changed_manifest_or_name_is_found_out_and_none_whole_is_refused(tmp_path):
    save(tmp_path, 1, 2, losses={1: 0.5})
    path = tmp_path / "step-0000000001" / "manifest.json"
    signed = json.loads(path.read_text())
    signed["manifest"]["validation_loss"] = 0.4
    path.write_text(json.dumps(signed))
    with pytest.raises(DamagedError):
        Checkpoints(tmp_path, "own").verify(path.parent)
    (tmp_path / "step-0000000002").rename(tmp_path / "step-0000000009")
    with pytest.raises(UserError, match="none of the 2 checkpoints"):
        found(tmp_path)


def begun(folder):
    """Makes a workdir that holds a run; returns the run's id."""
    folder.mkdir(exist_ok=True)
    shape = {"image_shape": [28, 28, 1]}
    run = workdir.open_run(folder, parse(dense.get_config()), "0123abcd", shape)
    run.write()
    return run.run_id


def verify(run, capsys):
    """The exit status of trainer.checkpoints verify, and its lines."""
    with pytest.raises(SystemExit) as end:
        verb.main(["verify", str(run)])
    return int(end.value.code or 0), capsys.readouterr().out.splitlines()


def test_verify_says_of_each_checkpoint_whether_it_is_whole(tmp_path, capsys):
    folder = tmp_path / "checkpoints"
    save(folder, 1, 2, 3, losses={2: 0.25}, run_id=begun(tmp_path))
    status, lines = verify(tmp_path, capsys)
    assert (status, [line.split()[0] for line in lines]) == (0, ["whole"] * 3)
    assert "step 2, validation loss 0.25" in lines[1]

    path = folder / "step-0000000002" / "state.npz"
    digests = [hashlib.sha256(path.read_bytes()).hexdigest()]
    flip_a_bit(path)
    digests.append(hashlib.sha256(path.read_bytes()).hexdigest())
    manifest = folder / "step-0000000003" / "manifest.json"
    manifest.unlink()
    status, (whole, flipped, removed) = verify(tmp_path, capsys)
    assert (status, whole.split()[0]) == (1, "whole")
    assert flipped.startswith(f"DAMAGED  {path} is not what was written")
    assert all(digest in flipped for digest in digests)
    assert removed == f"DAMAGED  {manifest} cannot be read: No such file or directory"
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=f"^{folder} holds no checkpoint$"):
        verb.main(["verify", str(tmp_path)])


def foreign_one(folder, step, into, loss=None):
    """Puts a checkpoint of another run of the same kind there."""
    save(folder, step, losses={step: loss}, run_id="another")
    return (folder / f"step-{step:010d}").rename(into / f"step-{step:010d}")


def test_the_first_choice_of_another_run_is_refused_in_one_line(tmp_path):
    run = tmp_path / "run"
    save(run, 1, 3, losses={3: 0.5})
    foreign = foreign_one(tmp_path, 9, run, loss=0.1)
    for checkpoint in ("last", "best"):
        with pytest.raises(UserError, match=f"^{foreign} is a checkpoint of another run: .*$"):
            found(run, checkpoint)
    lines, unusable = Checkpoints(run, "own").report()
    assert unusable == 1
    assert lines[-1].startswith(f"FOREIGN  {foreign} ")


def test_another_runs_checkpoints_are_neither_counted_nor_deleted(tmp_path):
    run = tmp_path / "run"
    save(run, 1, 2, losses={1: 0.2})
    for step, loss in ((3, 0.1), (9, None)):
        foreign_one(tmp_path / "other", step, run, loss=loss)
    save(run, 4, 5, keep=2)
    assert steps(run) == [1, 3, 4, 5, 9]


def test_a_run_keeps_its_id_and_each_has_its_own(tmp_path):
    run_id = begun(tmp_path / "run")
    assert run_id
    assert begun(tmp_path / "other") != run_id
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert begun(tmp_path / "run") == begun(tmp_path / "copy") == run_id


def test_a_checkpoint_never_takes_the_place_of_another(tmp_path):
    save(tmp_path, 1, losses={1: 0.5})
    with pytest.raises(StorageError, match="step 1 cannot be written: Directory not empty"):
        save(tmp_path, 1)
    assert found(tmp_path).validation_loss == 0.5


def test_a_checkpoint_of_another_model_is_refused_and_nothing_assigned(tmp_path):
    save(tmp_path, 1)
    fitting = tf.keras.Variable(0, dtype="int64")
    for name, shape, dtype in (
        ("bias", (3,), "float32"),
        ("kernel", (3, 2), "float32"),
        ("kernel", (2, 3), "float64"),
    ):
        path = f"model/encoder/{name}"
        variable = tf.keras.Variable(np.zeros(shape), dtype=dtype)
        with pytest.raises(UserError, match=f"does not fit this model: {path}"):
            found(tmp_path).restore({"count": fitting, path: variable})
        assert not variable.numpy().any()
    assert fitting.numpy() == 0


def save_in_background(saver, *numbers, keep=2):
    for number in numbers:
        saver.save(number, state(number), validation_loss=None, keep=keep)


def test_training_goes_on_while_checkpoints_are_written_one_after_the_other(tmp_path, monkeypatch):
    may_write = threading.Event()
    original = np.savez

    def held_back(*args, **arrays):
        assert may_write.wait(timeout=30)
        original(*args, **arrays)

    monkeypatch.setattr(np, "savez", held_back)
    saver = BackgroundSaver(Checkpoints(tmp_path, "own"))
    save_in_background(saver, 1)
    assert steps(tmp_path) == []  # and yet the call has returned
    may_write.set()
    save_in_background(saver, 2, 3)
    saver.close()
    assert steps(tmp_path) == [2, 3]
    assert found(tmp_path).step == 3


def fail(monkeypatch, *numbers):
    """Has the saves of these numbers, counted from 0, fail as on a full disk."""
    original, saves = np.savez, itertools.count()

    def full(*args, **arrays):
        if next(saves) in numbers:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(*args, **arrays)

    monkeypatch.setattr(np, "savez", full)


def test_training_goes_on_while_no_checkpoint_can_be_written(tmp_path, monkeypatch, capsys):
    fail(monkeypatch, 0, 2)
    saver = BackgroundSaver(Checkpoints(tmp_path, "own"))
    save_in_background(saver, 1, 2, 3)
    with pytest.raises(StorageError, match="the checkpoint of step 3 cannot be written: No space"):
        saver.close()
    assert steps(tmp_path) == [2]
    (line,) = capsys.readouterr().err.splitlines()
    assert "the checkpoint of step 1 cannot be written: No space left on device" in line


def test_training_ends_once_its_patience_does(tmp_path, monkeypatch):
    save(tmp_path, 1)
    fail(monkeypatch, 0)
    monkeypatch.setattr(background, "PATIENCE_SECONDS", 0.0)
    with contextlib.closing(BackgroundSaver(Checkpoints(tmp_path, "own"))) as saver:
        save_in_background(saver, 2)
        with pytest.raises(StorageError, match="step 2 cannot be written: No space left on device"):
            save_in_background(saver, 3)
    assert steps(tmp_path) == [1]


def test_a_disk_that_syncs_no_folder_costs_no_open_file(tmp_path, monkeypatch):
    def refuse(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", refuse)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(StorageError, match="Input/output error"):
            save(tmp_path, 1)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
