"""Damage anything: the newest whole checkpoint is used and the damage named, or all is refused."""

import shutil

import numpy as np
import pytest

from tests.runs import assert_same_bits, assert_same_record
from tests.verbs.refusals import refused
from trainer.errors import StorageError
from trainer.run import restore, workdir
from trainer.run.checkpoints import Checkpoints
from trainer.training.train import train

FILES = ("state.npz", "manifest.json")
STEPS = (1, 2, 3)
SOME, ALL = 60, 2000  # truncations, and flipped bits, of each file


def state(step):
    values = np.random.default_rng(step)
    return {"model/kernel": values.normal(size=(3, 5)).astype(np.float32), "step": np.array(step)}


def save(folder, step, loss, keep):
    Checkpoints(folder, "own").save(step, state(step), validation_loss=loss, keep=keep)


def saved(folder):
    for step in STEPS:
        save(folder, step, 1 / step, keep=len(STEPS))
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
    taken = Checkpoints(folder, "own").find()
    warnings = capsys.readouterr().err.splitlines()
    assert taken, what
    if damaged:
        assert warnings.pop() == f"using {taken.path} instead", what
    assert taken.step == step, what
    for path, array in state(step).items():
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
        lines, count = Checkpoints(tmp_path / "run", "own").report()
        assert count == 1, what
        assert lines[2].startswith(f"DAMAGED  {path.parent}"), what
    path.unlink()
    assert_goes_on_from(tmp_path / "run", 2, capsys, [path], "removed")
    path.symlink_to("nowhere")
    assert_goes_on_from(tmp_path / "run", 2, capsys, [path], "a link to nowhere")
    path.unlink()
    path.mkdir()
    assert_goes_on_from(tmp_path / "run", 2, capsys, [path], "a folder")
    path.rmdir()
    path.write_bytes(content)
    assert_goes_on_from(tmp_path / "run", 3, capsys, [], "as it was")
    for other in paths.values():
        (other / file).write_bytes(content[: len(content) // 2])
    with refused("none of the 3 checkpoints", tmp_path):
        Checkpoints(tmp_path / "run", "own").find()


@pytest.mark.parametrize("damaged", [(), (2, 3), (1, 3)])
def test_the_last_good_one_outlives_a_save_that_fails(tmp_path, monkeypatch, damaged):
    paths = saved(tmp_path)
    for step in damaged:
        (paths[step] / "state.npz").write_bytes(b"")
    checkpoints = Checkpoints(tmp_path, "own")
    good = checkpoints.find()
    assert good is not None
    checkpoints.set_aside_after(good.step)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    for _ in range(3):
        with pytest.raises(StorageError):
            save(tmp_path, 4, 0.0, keep=1)
    assert checkpoints.find() == good


@pytest.fixture
def run(digits_config, tmp_path):
    """A run of ten steps with checkpoints at 0, 2, .. 10, of which three are kept, left alone."""
    digits_config.update({"checkpoint_every_steps": 2, "quiet": True, "figures": True})
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
        assert_same_record(copy, run)


@pytest.mark.faults
@pytest.mark.parametrize("step", [10, 20])
def test_a_newest_checkpoint_of_another_run_is_refused_until_it_is_taken_out(
    digits_config, run, tmp_path, step
):
    train(digits_config, str(tmp_path / "other"))
    foreign = run / workdir.CHECKPOINTS / f"step-{step:010d}"
    shutil.rmtree(foreign, ignore_errors=True)  # step 10 is the newest
    shutil.copytree(newest_first(tmp_path / "other")[0], foreign)
    for verb in (restore.load_model, lambda run: train(digits_config, run)):
        with refused(f"{foreign} is a checkpoint of another run", run):
            verb(str(run))
    shutil.rmtree(foreign)
    train(digits_config, str(run.rename(tmp_path / "moved")))
    assert_same_bits(tmp_path / "other", tmp_path / "moved")
