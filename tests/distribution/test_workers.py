"""Trainings of two real processes, each compared with the same training of one."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from launch.local import free_ports
from tests.all_configs import load_config
from tests.launched import Launched
from tests.runs import assert_same_bits, await_step, final_state
from trainer.training.train import train

pytestmark = pytest.mark.workers

ROOT = Path(__file__).parents[2]
SHORT = {
    "data.name": "digits",
    "batch_size": 64,
    "num_epochs": 0.5,  # 11 steps
    "optimizer.warmup_steps": 0,
    "execution": "graph",
    "steps_per_call": 4,
    "log_every_steps": 5,
    "validate_every_steps": 0,
    "checkpoint_every_steps": 0,
}
LONG = SHORT | {"num_epochs": 60.0, "log_every_steps": 20, "checkpoint_every_steps": 100}


def train_alone(name, run, settings):
    config = load_config(name)
    config.update_from_flattened_dict(settings)
    train(config, str(run))


def train_on_two(name, run, settings):
    with Launched(run, settings, name, max_restarts=0) as launched:
        assert launched.end() == 0, launched.output()


def assert_close(run, other):
    """Compares two runs up to the rounding of sums.

    Adam enlarges the rounding of a gradient near zero, which other weights then feel.
    """
    (step, state), (other_step, other_state) = final_state(run), final_state(other)
    assert step == other_step
    assert state.keys() == other_state.keys()
    for path, array in state.items():
        np.testing.assert_allclose(array, other_state[path], rtol=1e-5, atol=1e-4, err_msg=path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A long run of two workers that nothing disturbs."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    train_on_two("dense", run, LONG)
    return run


@pytest.mark.parametrize(
    ("name", "devices", "changes"),
    [
        ("concrete", 1, {}),
        ("sparse_kl", 2, {}),
        ("dense", 1, {"pretrain.epochs_per_layer": 0.2}),  # 5 steps for each of 3 layers
    ],
)
def test_two_workers_train_as_one_process_does(name, devices, changes, tmp_path, monkeypatch):
    train_alone(name, tmp_path / "one", SHORT | {"strategy": "cpu:1"} | changes)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # which does not answer
    train_on_two(name, tmp_path / "two", SHORT | {"strategy": f"cpu:{devices}"} | changes)
    assert_close(tmp_path / "two", tmp_path / "one")


def test_a_run_of_two_workers_continues_on_one(tmp_path):
    constant = SHORT | {"optimizer.schedule": "constant"}
    train_on_two("vae", tmp_path / "run", constant)
    for run in ("run", "whole"):
        train_alone("vae", tmp_path / run, constant | {"num_epochs": 1.0})
    assert final_state(tmp_path / "run")[0] == 22
    assert_close(tmp_path / "run", tmp_path / "whole")


def test_a_signal_stops_both_workers_at_one_step_and_changes_no_bit(undisturbed, tmp_path):
    run = tmp_path / "run"
    with Launched(run, LONG) as launched:
        await_step(run, 200, launched)
        launched.send(1, signal.SIGTERM)
        assert launched.end() == 75, launched.output()
    stopped = re.findall(r"^\[(\d)\].* stopped at step ([\d,]+) ", launched.output(), re.M)
    assert sorted(index for index, _ in stopped) == ["0", "1"]
    assert {int(step.replace(",", "")) for _, step in stopped} == {final_state(run)[0]}
    train_on_two("dense", run, LONG)
    assert_same_bits(run, undisturbed)


def test_a_worker_that_is_killed_is_named_and_all_are_restarted(undisturbed, tmp_path):
    run = tmp_path / "run"
    with Launched(run, LONG, max_restarts=1) as launched:
        await_step(run, 200, launched)
        launched.send(0, signal.SIGKILL)
        assert launched.end() == 0, launched.output()
    output = launched.output()
    assert "[0] was ended by SIGKILL" in output
    assert re.search(r"^\[1\] error: worker 1 .* since worker 0 \(", output, re.M)
    assert "does not end" not in output  # the other one ends by itself
    assert "restart 1 of 1" in output
    assert_same_bits(run, undisturbed)


@contextlib.contextmanager
def two_processes(command, folders):
    """Starts a command as two workers, each in its folder; neither outlives the block."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    with contextlib.ExitStack() as scope:
        workers = []
        for index, folder in enumerate(folders):
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            worker = subprocess.Popen(
                command,
                cwd=folder,
                env=os.environ | {"TF_CONFIG": json.dumps(task), "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            workers.append(scope.enter_context(worker))
            scope.callback(worker.kill)
        yield workers


def odd_workers(oddity, run):
    flags = [f"--config.{key}={value}" for key, value in LONG.items()]
    command = [sys.executable, "-m", "tests.distribution.odd_worker", f"--oddity={oddity}"]
    command += ["--config=configs/dense.py", f"--workdir={run}", *flags]
    return two_processes(command, [ROOT, ROOT])


def await_line(worker, text):
    assert any(line.strip() == text for line in worker.stdout), worker.stderr.read()


def test_a_worker_that_dies_ends_another_that_would_wait_for_ever(tmp_path):
    with odd_workers("stuck", tmp_path / "run") as workers:
        for worker in workers:
            await_line(worker, "waits for ever")
        with pytest.raises(subprocess.TimeoutExpired):  # neither is lost yet
            workers[1].wait(timeout=15)
        workers[0].kill()
        err = workers[1].communicate(timeout=30)[1]  # docs/launching.md promises 30 seconds
        assert workers[1].returncode == 1
    assert re.search(r"^error: worker 1 .* since worker 0 \(", err, re.M)


def test_workers_that_are_stopped_leave_once_the_chief_has_written_its_checkpoint(tmp_path):
    run = tmp_path / "run"
    with odd_workers("slow", run) as workers:
        await_line(workers[0], "writes")  # the checkpoint of step 0
        workers[1].send_signal(signal.SIGTERM)
        for worker in workers:
            err = worker.communicate(timeout=120)[1]
            assert worker.returncode == 75, err
            assert "cannot be reached" not in err
    assert final_state(run)[0] > 0


def test_workers_that_read_different_data_end_with_one_line(tmp_path):
    folders = [tmp_path / "0", tmp_path / "1"]
    for index, folder in enumerate(folders):  # each with its own file of the same name
        folder.mkdir()
        np.savez(folder / "own.npz", train=np.full((200, 8), index, np.float32))
    command = [
        *(sys.executable, "-m", "trainer", f"--config={ROOT}/configs/dense.py"),
        *("--config.data.name=arrays:own.npz", "--config.model.output_activation=linear"),
        *("--config.model.code_size=2", f"--workdir={tmp_path / 'run'}"),
    ]
    with two_processes(command, folders) as workers:
        (line,) = {worker.communicate(timeout=240)[1] for worker in workers}
        assert [worker.returncode for worker in workers] == [2, 2]
    assert line.count("\n") == 1
    assert "own.npz" in line
    assert "worker 0 and worker 1" in line
    assert not (tmp_path / "run" / "config.json").exists()
