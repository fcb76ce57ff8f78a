"""Damage anything: the newest whole checkpoint is used and the damage named, or all is refused."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from tests.runs import assert_same_bits, charts, files_in, report
from tests.verbs.refusals import contents
from trainer.errors import StorageError, UserError
from trainer.run import restore, workdir
from trainer.run.checkpoints import Checkpoints
from trainer.train import train

FILES = ("state.npz", "manifest.json")
STEPS = (1, 2, 3)
SOME, ALL = 60, 2000  # truncations, and flipped bits, of each file


def state(run, step):
    values = np.random.default_rng([run, step])
    return {"model/kernel": values.normal(size=(3, 5)).astype(np.float32), "step": np.array(step)}


def save(folder, step, arrays, loss, keep, run=0):
    Checkpoints(folder, f"run {run}").save(step, arrays, validation_loss=loss, keep=keep)


def saved(folder, run=0):
    for step in STEPS:
        save(folder, step, state(run, step), 1 / step, keep=len(STEPS), run=run)
    return {step: folder / f"step-{step:010d}" for step in STEPS}


def flipped(content, bit):
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def sample(random, count, most):
    """Numbers below `count`, at most so many, and always the first two and the last."""
    numbers = random.choice(count, min(count, most), replace=False)
    return sorted({0, 1, count - 1, *map(int, numbers)})


def damages(random, content, others, most):
    """What a file may become: its name, and its content."""
    for length in sample(random, len(content), most):
        yield f"cut to {length} bytes", content[:length]
    for bit in sample(random, 8 * len(content), most):
        yield f"bit {bit} flipped", flipped(content, bit)
    for name, other in others.items():
        yield f"swapped with that of {name}", other
    yield "made of zeros", bytes(len(content))
    yield "made longer", content + b"\0"
    yield "twice", content + content
    yield "deeply nested", b"[" * 100_000
    yield "of another kind", b'{"manifest": [], "manifest_sha256": ""}'


def assert_goes_on_from(folder, step, capsys, damaged, what):
    """The checkpoint of a step is taken, to the bit, and what was damaged after it is named."""
    taken = Checkpoints(folder, "run 0").find()
    warnings = capsys.readouterr().err.splitlines()
    assert taken is not None, what
    assert taken.step == step, what
    for path, array in state(0, step).items():
        assert taken.state()[path].tobytes() == array.tobytes(), what
    assert len(warnings) == len(damaged), what
    for path, warning in zip(damaged, warnings, strict=True):
        assert warning.startswith(f"CHECKPOINT DAMAGED: {path.parent}"), what


@pytest.mark.parametrize("most", [SOME, pytest.param(ALL, marks=pytest.mark.faults)])
@pytest.mark.parametrize("file", FILES)
def test_whatever_a_file_becomes_the_one_before_is_taken(tmp_path, capsys, drawn, file, most):
    paths = saved(tmp_path / "run")
    path = paths[3] / file
    content = path.read_bytes()
    others = {
        "another step": (paths[1] / file).read_bytes(),
        "the other file": (paths[3] / FILES[1 - FILES.index(file)]).read_bytes(),
    }
    for what, damaged in damages(drawn, content, others, most):
        path.write_bytes(damaged)
        assert_goes_on_from(tmp_path / "run", 2, capsys, [path], what)
        lines, count = Checkpoints(tmp_path / "run", "run 0").report()
        assert count == 1, what
        assert lines[2].startswith(f"DAMAGED  {path.parent}"), what
    path.unlink()
    assert_goes_on_from(tmp_path / "run", 2, capsys, [path], "removed")
    path.mkdir()
    assert_goes_on_from(tmp_path / "run", 2, capsys, [path], "a folder")
    path.rmdir()
    path.symlink_to("nowhere")
    assert_goes_on_from(tmp_path / "run", 2, capsys, [path], "a link to nowhere")
    path.unlink()
    path.write_bytes(content)
    assert_goes_on_from(tmp_path / "run", 3, capsys, [], "as it was")


@pytest.mark.parametrize("file", FILES)
def test_none_whole_is_refused_and_left_as_it_is(tmp_path, file):
    paths = saved(tmp_path)
    for path in paths.values():
        content = (path / file).read_bytes()
        (path / file).write_bytes(content[: len(content) // 2])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    with pytest.raises(UserError, match="none of the 3 checkpoints"):
        Checkpoints(tmp_path, "run 0").find()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


@pytest.mark.parametrize("damaged", [(), (3,), (2, 3), (1, 3), (1, 2)])
def test_the_last_good_one_outlives_a_save_that_fails(tmp_path, monkeypatch, damaged):
    paths = saved(tmp_path)
    for step in damaged:
        (paths[step] / "state.npz").write_bytes(b"")
    good = Checkpoints(tmp_path, "run 0").find()
    assert good is not None
    Checkpoints(tmp_path, "run 0").set_aside_after(good.step)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    for _ in range(3):
        with pytest.raises(StorageError):
            save(tmp_path, 4, state(0, 4), 0.0, keep=1)
    again = Checkpoints(tmp_path, "run 0").find()
    assert again == good


@pytest.fixture
def run(digits_config, tmp_path):
    """A run of ten steps with checkpoints at 0, 2, .. 10, of which three are kept, left alone."""
    digits_config.checkpoint_every_steps = 2
    digits_config.quiet = True
    train(digits_config, str(tmp_path / "alone"))
    return tmp_path / "alone"


def newest_first(run):
    return sorted((run / workdir.CHECKPOINTS).glob("step-*"), reverse=True)


@pytest.mark.faults
def test_a_trainer_goes_on_from_the_newest_whole_one_to_the_same_bits(
    digits_config, run, tmp_path, capfd, drawn
):
    for number in range(12):
        copy = tmp_path / f"damaged-{number}"
        shutil.copytree(run, copy)
        paths = newest_first(copy)
        count = int(drawn.integers(1, len(paths)))
        named = []
        for path in paths[:count]:
            victim = path / str(drawn.choice(FILES))
            content = victim.read_bytes()
            bit = int(drawn.integers(8 * len(content)))
            victim.write_bytes([flipped(content, bit), content[: bit // 8]][number % 2])
            named.append(victim)
        train(digits_config, str(copy))
        warnings = capfd.readouterr().err
        assert all(f"CHECKPOINT DAMAGED: {victim}" in warnings for victim in named)
        assert_same_bits(run, copy)
        for part in ("train", "validation"):
            assert charts(copy, part) == charts(run, part)


@pytest.mark.faults
def test_a_trainer_refuses_a_run_of_which_no_checkpoint_is_whole(digits_config, run):
    for path in newest_first(run):
        (path / "state.npz").write_bytes(b"")
    before = contents(run)
    with pytest.raises(UserError, match="is whole; put one back"):
        train(digits_config, str(run))
    assert contents(run) == before


@pytest.fixture
def others(digits_config, tmp_path):
    """Beside the run `alone`: its config on other data, and its data with another seed."""
    config = digits_config
    config.data.name = "memory"
    config.update({"checkpoint_every_steps": 2, "keep_checkpoints": 9, "quiet": True})
    config.num_epochs = 10 * 64 / 190
    rows, other_rows = np.random.default_rng(0).random((2, 200, 12), np.float32)
    train(config, str(tmp_path / "data"), other_rows)
    config.seed = 1
    train(config, str(tmp_path / "seed"), rows)
    config.seed = 0
    train(config, str(tmp_path / "alone"), rows)
    for other in ("data", "seed"):
        pretend_to_be_best(newest_first(tmp_path / other)[0])
    return rows


def pretend_to_be_best(path):
    manifest = json.loads((path / "manifest.json").read_text())["manifest"]
    manifest["validation_loss"] = 0.0
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    signed = {"manifest": manifest, "manifest_sha256": digest}
    (path / "manifest.json").write_text(json.dumps(signed))


OTHERS = pytest.mark.parametrize("other", ["data", "seed"])


@pytest.mark.faults
@OTHERS
@pytest.mark.parametrize("step", [10, 20])
def test_a_newest_checkpoint_of_another_run_is_refused_and_nothing_changes(
    digits_config, others, tmp_path, other, step
):
    run = tmp_path / "run"
    shutil.copytree(tmp_path / "alone", run)
    foreign = run / workdir.CHECKPOINTS / f"step-{step:010d}"
    shutil.rmtree(foreign, ignore_errors=True)  # step 10 is the newest
    shutil.copytree(newest_first(tmp_path / other)[0], foreign)
    lines, unusable = report(run)
    assert unusable == 1
    assert lines[-1].startswith(f"FOREIGN  {foreign} ")
    before = files_in(run)
    for checkpoint in ("last", "best"):
        with pytest.raises(UserError, match=f"{foreign} is a checkpoint of another run"):
            restore.load_model(run, checkpoint)
    with pytest.raises(UserError, match=f"{foreign} is a checkpoint of another run"):
        train(digits_config, str(run), others)
    assert files_in(run) == before
    shutil.rmtree(foreign)  # as the line says
    train(digits_config, str(run), others)
    assert_same_bits(tmp_path / "alone", run)


@pytest.mark.faults
def test_a_moved_or_copied_workdir_goes_on(digits_config, others, tmp_path):
    alone, copy = tmp_path / "alone", tmp_path / "copy"
    shutil.copytree(alone, copy)
    shutil.rmtree(newest_first(copy)[0])
    train(digits_config, str(copy.rename(tmp_path / "moved")), others)
    assert_same_bits(alone, tmp_path / "moved")
