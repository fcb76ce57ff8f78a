"""A save that is killed anywhere in it leaves the checkpoints before it, or itself, whole."""

import functools
import itertools
import multiprocessing
import shutil
import signal
from concurrent import futures

import numpy as np
import pytest

from tests.faults import kills
from trainer.run.checkpoints import Checkpoints

KEEP = 2


def state(step):
    return {"model/kernel": np.full((16, 32), step, np.float32), "step": np.array(step)}


def save(folder, step):
    loss = 1.0 if step == 1 else 2.0  # the first is the best, and stays
    Checkpoints(folder, "own").save(step, state(step), validation_loss=loss, keep=KEEP)


def assert_whole(folder, steps):
    """One of the steps is the newest, whole, and so are all that have a checkpoint's name."""
    checkpoints = Checkpoints(folder, "own")
    lines, damaged = checkpoints.report()
    assert damaged == 0, lines
    found, best = checkpoints.find(), checkpoints.find("best")
    assert found is not None
    assert best is not None
    assert found.step in steps
    assert best.step == 1
    assert np.array_equal(found.state()["model/kernel"], state(found.step)["model/kernel"])
    return found.step


def prepared(folder):
    """Checkpoints of steps 1 to 4 of which 1, 3 and 4 are left: the next save deletes 3."""
    for step in range(1, 5):
        save(folder, step)


def killed(folder, kill):
    """A save of step 5 that is killed; then one that is not. Returns the exit status of the first.

    A save that was killed once is killed again, now with what the first has left.
    """

    def work():
        kill()
        save(folder, 5)

    for _ in range(2):
        status = kills.fork(work)
        newest = assert_whole(folder, (4, 5))
        if newest == 5:
            break
    if newest == 4:
        save(folder, 5)
    save(folder, 6)
    assert assert_whole(folder, (6,)) == 6
    assert sorted(path.name for path in folder.iterdir()) == [
        f"step-{step:010d}" for step in (1, 5, 6)
    ]
    return status


def sweep_calls(folder):
    """Kills a save at each of its calls in turn; returns how many there were."""
    for number in itertools.count(1):
        run = folder / f"call-{number}"
        prepared(run)
        status = killed(run, functools.partial(kills.at_call, number))
        if status == 0:
            return number - 1
        assert status == -signal.SIGKILL
        shutil.rmtree(run)
    raise AssertionError


def sweep_bytes(folder, seed, most):
    """Kills a save within the writes of its files; returns how often."""
    prepared(folder / "whole")
    size = (folder / "whole" / "step-0000000004" / "state.npz").stat().st_size
    random = np.random.default_rng(seed)
    numbers = {0, 1, size - 1, *map(int, random.choice(size, min(most, size), replace=False))}
    for number in sorted(numbers):
        run = folder / f"byte-{number}"
        prepared(run)
        assert killed(run, functools.partial(kills.at_byte, number)) == -signal.SIGXFSZ
        shutil.rmtree(run)
    return len(numbers)


def apart(work, *args):
    """In a process of its own, without TensorFlow's threads, which may be copied."""
    context = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(work, *args).result()


def test_a_save_killed_at_any_of_its_calls_costs_nothing(tmp_path):
    # At the least: a folder, two files, their syncs and the folders', a name; a deletion's four.
    assert apart(sweep_calls, tmp_path) >= 12


@pytest.mark.parametrize("most", [20, pytest.param(1000, marks=pytest.mark.faults)])
def test_a_save_killed_within_a_write_costs_nothing(tmp_path, drawn, most):
    assert apart(sweep_bytes, tmp_path, int(drawn.integers(2**32)), most) >= most
