import errno
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from configs import dense
from trainer.config import parse
from trainer.errors import StorageError, UserError
from trainer.run import background, workdir
from trainer.run.background import BackgroundSaver
from trainer.run.checkpoints import Checkpoints, DamagedError, write_arrays


def state(number):
    return {"model/encoder/kernel": np.full((2, 3), number, np.float32), "count": np.array(number)}


def save(folder, *numbers, keep=3, losses=None, run_id="own"):
    for number in numbers:
        loss = (losses or {}).get(number)
        Checkpoints(folder, run_id).save(number, state(number), validation_loss=loss, keep=keep)


def found(folder, checkpoint="last", run_id="own"):
    whole = Checkpoints(folder, run_id).find(checkpoint)
    assert whole is not None
    return whole


def steps(folder):
    return sorted(int(path.name.removeprefix("step-")) for path in folder.iterdir())


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


def test_an_empty_folder_holds_none(tmp_path):
    assert Checkpoints(tmp_path, "own").find() is None
    assert Checkpoints(tmp_path / "missing", "own").find("best") is None


def test_the_newest_are_kept_and_the_best(tmp_path):
    save(tmp_path, 1, 2, 3, 4, 5, keep=2, losses={1: 0.9, 2: 0.1, 3: 0.5, 4: 0.4, 5: 0.3})
    assert steps(tmp_path) == [2, 4, 5]
    assert found(tmp_path, "last").step == 5
    assert found(tmp_path, "best").step == 2


def test_damaged_newer_ones_are_set_aside_and_never_cost_a_new_one(tmp_path):
    save(tmp_path, 1, 2, 3)
    for number in (2, 3):
        DAMAGES["truncated"](tmp_path / f"step-000000000{number}" / "state.npz")
    step = found(tmp_path).step
    Checkpoints(tmp_path, "own").set_aside_after(step)
    save(tmp_path, 2, keep=1)
    assert found(tmp_path).step == 2
    assert len(list(tmp_path.glob("damaged-*"))) == 2


def test_a_damaged_best_does_not_cost_the_best_that_is_whole(tmp_path):
    losses = {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}
    save(tmp_path, 1, 2, losses=losses)
    DAMAGES["truncated"](tmp_path / "step-0000000001" / "state.npz")
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
    assert steps(tmp_path) == [1, 3]


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "emptied": lambda path: path.write_bytes(b""),
    "removed": lambda path: path.unlink(),
    "a bit flipped": flip_a_bit,
}


@pytest.mark.parametrize("file", ["state.npz", "manifest.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_is_named_and_the_one_before_taken(tmp_path, capsys, damage, file):
    save(tmp_path, 1, 2)
    DAMAGES[damage](tmp_path / "step-0000000002" / file)
    assert found(tmp_path).step == 1
    (warning,) = capsys.readouterr().err.splitlines()
    assert "DAMAGED" in warning
    assert "step-0000000002" in warning


def test_a_checkpoint_under_another_name_is_not_taken(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "step-0000000001").rename(tmp_path / "step-0000000009")
    with pytest.raises(UserError):
        found(tmp_path)


def test_none_whole_is_refused(tmp_path):
    save(tmp_path, 1, 2)
    for path in tmp_path.glob("*/state.npz"):
        path.unlink()
    with pytest.raises(UserError, match="none of the 2 checkpoints"):
        found(tmp_path)


def begun(folder):
    """Makes a workdir that holds a run; returns the run's id."""
    folder.mkdir(exist_ok=True)
    run = workdir.open_run(
        folder, parse(dense.get_config()), "0123abcd", {"image_shape": [28, 28, 1]}
    )
    run.write()
    return run.run_id


def verify(*names):
    return subprocess.run(
        [sys.executable, "-m", "trainer.checkpoints", *map(str, names)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )


def test_verify_says_of_each_checkpoint_whether_it_is_whole(tmp_path):
    folder = tmp_path / "checkpoints"
    save(folder, 1, 2, 3, losses={2: 0.25}, run_id=begun(tmp_path))
    result = verify("verify", tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["whole"] * 3
    assert "step 2, validation loss 0.25" in result.stdout

    state_path = folder / "step-0000000002" / "state.npz"
    written = hashlib.sha256(state_path.read_bytes()).hexdigest()
    flip_a_bit(state_path)
    (folder / "step-0000000003" / "manifest.json").unlink()
    result = verify("verify", tmp_path)
    assert result.returncode == 1
    whole, flipped, removed = result.stdout.splitlines()
    assert whole.split()[0] == "whole"
    assert flipped.startswith(f"DAMAGED  {state_path} is not what was written")
    assert written in flipped
    assert hashlib.sha256(state_path.read_bytes()).hexdigest() in flipped
    assert removed == (
        f"DAMAGED  {folder}/step-0000000003/manifest.json cannot be read: No such file or directory"
    )


def test_a_run_without_a_checkpoint_has_nothing_to_verify(tmp_path):
    begun(tmp_path)
    result = verify("verify", tmp_path)
    assert result.returncode == 2
    assert result.stderr == f"error: {tmp_path}/checkpoints holds no checkpoint\n"


def foreign_one(folder, step, into, as_step=None, loss=None):
    """Puts a checkpoint of another run of the same kind there, as it is or renamed."""
    save(folder, step, losses={step: loss}, run_id="another")
    return (folder / f"step-{step:010d}").rename(into / f"step-{as_step or step:010d}")


@pytest.mark.parametrize("checkpoint", ["last", "best"])
def test_the_first_choice_of_another_run_is_refused_in_one_line(tmp_path, checkpoint):
    run = tmp_path / "run"
    save(run, 1, 3, losses={3: 0.5})
    foreign = foreign_one(tmp_path, 9, run, loss=0.1)
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
    assert begun(tmp_path / "run") == run_id
    assert begun(tmp_path / "other") != run_id
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert begun(tmp_path / "copy") == run_id


def test_one_that_was_set_aside_is_named_and_not_counted(tmp_path):
    save(tmp_path, 1, 2)
    DAMAGES["emptied"](tmp_path / "step-0000000002" / "state.npz")
    Checkpoints(tmp_path, "own").set_aside_after(1)
    lines, damaged = Checkpoints(tmp_path, "own").report()
    assert damaged == 0
    assert "damaged-step-0000000002" in lines[1]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "verb '' is not known; allowed: verify"),
        (["mend", "run"], "verb 'mend' is not known; allowed: verify"),
        (["verify"], "RUN is missing"),
        (["verify", "/nowhere"], "/nowhere holds no run: there is no config.json in it"),
    ],
)
def test_a_mistake_in_verify_gets_one_line_and_status_2(names, message):
    result = verify(*names)
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {message}")
    assert len(result.stderr.splitlines()) == 1


def test_a_checkpoint_never_takes_the_place_of_another(tmp_path):
    save(tmp_path, 1, losses={1: 0.5})
    with pytest.raises(StorageError, match="step 1 cannot be written: Directory not empty"):
        save(tmp_path, 1)
    assert found(tmp_path).validation_loss == 0.5


def test_a_changed_number_in_the_manifest_is_found_out(tmp_path):
    save(tmp_path, 1, losses={1: 0.5})
    path = tmp_path / "step-0000000001" / "manifest.json"
    signed = json.loads(path.read_text())
    signed["manifest"]["validation_loss"] = 0.4
    path.write_text(json.dumps(signed))
    with pytest.raises(DamagedError):
        Checkpoints(tmp_path, "own").verify(path.parent)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model/encoder/bias", tf.zeros([3])),
        ("model/encoder/kernel", tf.zeros([3, 2])),
        ("model/encoder/kernel", tf.zeros([2, 3], tf.float64)),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(tmp_path, path, value):
    save(tmp_path, 1)
    variable = tf.keras.Variable(value, dtype=value.dtype.name)
    with pytest.raises(UserError, match=f"does not fit this model: {path}"):
        found(tmp_path).restore({path: variable})
    np.testing.assert_array_equal(variable, value)


def test_nothing_is_assigned_unless_all_fits(tmp_path):
    save(tmp_path, 1)
    fitting = tf.keras.Variable(np.zeros((2, 3), np.float32))
    other = tf.keras.Variable(np.zeros(4, np.float32))
    with pytest.raises(UserError):
        found(tmp_path).restore({"model/encoder/kernel": fitting, "model/other": other})
    np.testing.assert_array_equal(fitting, np.zeros((2, 3)))


def test_saves_in_the_background_come_one_after_the_other(tmp_path):
    saver = BackgroundSaver(Checkpoints(tmp_path, "own"))
    for step in (1, 2, 3):
        saver.save(step, {"w": np.full(3, float(step))}, validation_loss=None, keep=2)
    saver.close()
    assert found(tmp_path).step == 3
    assert steps(tmp_path) == [2, 3]


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    may_write = threading.Event()
    original = np.savez

    def held_back(*args, **arrays):
        assert may_write.wait(timeout=30)
        original(*args, **arrays)

    monkeypatch.setattr(np, "savez", held_back)
    checkpoints = Checkpoints(tmp_path, "own")
    saver = BackgroundSaver(checkpoints)
    saver.save(1, {"w": np.ones(3)}, validation_loss=None, keep=2)
    assert checkpoints.find() is None  # and yet the call has returned
    may_write.set()
    saver.close()
    assert checkpoints.find() is not None


def test_a_save_that_fails_in_the_background_is_not_silent(tmp_path):
    (tmp_path / "file").touch()
    saver = BackgroundSaver(Checkpoints(tmp_path / "file", "own"))
    saver.save(1, {}, validation_loss=None, keep=1)
    with pytest.raises(StorageError, match="the checkpoint of step 1 cannot be written: Not a dir"):
        saver.close()


def fail(monkeypatch, times=100):
    """Has so many saves fail as on a full disk."""
    original = np.savez
    failing = iter(range(times))

    def full(*args, **arrays):
        if next(failing, None) is not None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(*args, **arrays)

    monkeypatch.setattr(np, "savez", full)


def test_training_goes_on_while_no_checkpoint_can_be_written(tmp_path, monkeypatch, capsys):
    saver = BackgroundSaver(Checkpoints(tmp_path, "own"))
    fail(monkeypatch, times=1)
    for step in (1, 2):
        saver.save(step, state(step), validation_loss=None, keep=2)
    saver.close()
    assert steps(tmp_path) == [2]
    (line,) = capsys.readouterr().err.splitlines()
    assert "the checkpoint of step 1 cannot be written: No space left on device" in line


def test_training_ends_once_its_patience_does(tmp_path, monkeypatch):
    save(tmp_path, 1)
    fail(monkeypatch)
    monkeypatch.setattr(background, "PATIENCE_SECONDS", 0.0)
    saver = BackgroundSaver(Checkpoints(tmp_path, "own"))
    saver.save(2, state(2), validation_loss=None, keep=1)
    with pytest.raises(StorageError, match="step 2 cannot be written: No space left on device;"):
        saver.save(3, state(3), validation_loss=None, keep=1)
    saver.close()
    assert steps(tmp_path) == [1]


def test_arrays_are_written_as_their_digest_says(tmp_path):
    path = tmp_path / "weights.npz"
    digest = write_arrays(path, state(1))
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    np.testing.assert_array_equal(np.load(path)["count"], 1)


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
