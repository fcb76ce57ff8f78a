"""Trainings of several real processes, each beside the same training of one."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from launch.local import free_ports
from tests.all_configs import load_config
from tests.runs import assert_same_bits, await_step, final_state
from trainer.train import train

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
KINDS = ["conv", "vae", "sparse_kl", "concrete"]


def short_config(name, **changes):
    config = load_config(name)
    config.update_from_flattened_dict(SHORT | changes)
    return config


@contextlib.contextmanager
def started(name, run, settings, strategy="auto", max_restarts=0):
    """`launch.local` of two workers, under way; none outlives the block."""
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    command = [
        *(sys.executable, "-m", "launch.local", "--workers=2", f"--max_restarts={max_restarts}"),
        *("--", f"--config=configs/{name}.py", f"--workdir={run}"),
        *(f"--config.strategy={strategy}", *flags),
    ]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as launcher:
        try:
            yield launcher
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                for worker in psutil.Process(launcher.pid).children():
                    worker.kill()
            launcher.kill()


def finished(*arguments, **keywords):
    """What `launch.local` of two workers left with and wrote, out and err."""
    with started(*arguments, **keywords) as launcher:
        return finish(launcher)


def signal_worker(launcher, index, number):
    """Sends a signal to one of the launcher's workers; its guard is none."""
    for process in psutil.Process(launcher.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if f'"index": {index}' in process.environ().get("TF_CONFIG", ""):
                process.send_signal(number)


def finish(launcher):
    """What the launcher left with and wrote, out and err."""
    out, err = launcher.communicate(timeout=240)
    return launcher.returncode, out, err


def assert_close(run, other):
    """Holds two runs to each other but for the rounding of sums.

    Adam enlarges the rounding of a gradient near zero, which other weights then feel.
    """
    (step, state), (other_step, other_state) = final_state(run), final_state(other)
    assert step == other_step
    assert state.keys() == other_state.keys()
    for path, array in state.items():
        np.testing.assert_allclose(array, other_state[path], rtol=1e-5, atol=1e-4, err_msg=path)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A long run of two workers that nobody disturbs."""
    run = tmp_path_factory.mktemp("alone") / "run"
    status, _, err = finished("dense", run, LONG)
    assert status == 0, err
    return run


@pytest.mark.parametrize("name", KINDS)
def test_two_workers_of_one_or_two_devices_train_as_one_process_does(name, tmp_path):
    for devices in (1, 2, 4):
        train(short_config(name, strategy=f"cpu:{devices}"), str(tmp_path / f"1x{devices}"))
    for devices in (1, 2):
        status, _, err = finished(name, tmp_path / f"2x{devices}", SHORT, f"cpu:{devices}")
        assert status == 0, err
    for layout in ("1x2", "1x4", "2x1", "2x2"):
        assert_close(tmp_path / layout, tmp_path / "1x1")


def test_a_run_of_two_workers_goes_on_with_one(tmp_path):
    constant = SHORT | {"optimizer.schedule": "constant"}
    status, _, err = finished("vae", tmp_path / "run", constant)
    assert status == 0, err
    longer = constant | {"num_epochs": 1.0}
    for run in ("run", "whole"):
        train(short_config("vae", **longer), str(tmp_path / run))
    assert final_state(tmp_path / "run")[0] == 22
    assert_close(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("told", [0, 1])
def test_a_signal_to_one_worker_stops_both_at_one_step_and_changes_no_bit(told, alone, tmp_path):
    run = tmp_path / "run"
    with started("dense", run, LONG) as launcher:
        await_step(run, 200, launcher)
        signal_worker(launcher, told, signal.SIGTERM)
        status, _, err = finish(launcher)
    assert status == 75
    stopped = re.findall(r"^\[(\d)\] stopped at step ([\d,]+) with a checkpoint", err, re.M)
    assert sorted(index for index, _ in stopped) == ["0", "1"]
    assert len({step for _, step in stopped}) == 1
    assert final_state(run)[0] == int(stopped[0][1].replace(",", ""))
    status, _, err = finished("dense", run, LONG)
    assert status == 0, err
    assert_same_bits(run, alone)


@pytest.mark.parametrize("killed", [0, 1])
def test_a_worker_that_is_killed_is_named_and_all_start_again(killed, alone, tmp_path):
    run = tmp_path / "run"
    with started("dense", run, LONG, max_restarts=1) as launcher:
        await_step(run, 200, launcher)
        signal_worker(launcher, killed, signal.SIGKILL)
        status, _, err = finish(launcher)
    assert status == 0, err
    assert f"launch: [{killed}] was ended by SIGKILL" in err
    other = 1 - killed
    assert re.search(rf"^\[{other}\] error: worker {other} .* since worker {killed} \(", err, re.M)
    assert "does not end" not in err  # by itself, without the launcher's help
    assert "launch: restarting all workers, restart 1 of 1" in err
    assert_same_bits(run, alone)


def test_a_signal_to_the_launcher_stops_both(tmp_path):
    with started("dense", tmp_path / "run", LONG, max_restarts=1) as launcher:
        await_step(tmp_path / "run", 20, launcher)
        os.kill(launcher.pid, signal.SIGTERM)
        status, _, err = finish(launcher)
    assert status == 75, err
    assert len(re.findall(r"^\[\d\] stopped at step", err, re.M)) == 2


@contextlib.contextmanager
def odd_workers(oddity, run, settings):
    """Starts two processes of `tests.distribution.odd_worker`; neither outlives the block."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    command = [
        *(sys.executable, "-m", "tests.distribution.odd_worker", f"--oddity={oddity}"),
        *("--config=configs/dense.py", f"--workdir={run}", *flags),
    ]
    with contextlib.ExitStack() as scope:
        workers = []
        for index in (0, 1):
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            worker = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | {"TF_CONFIG": json.dumps(task)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            workers.append(scope.enter_context(worker))
            scope.callback(worker.kill)
        yield workers


def await_line(worker, line):
    assert any(said.strip() == line for said in worker.stdout), worker.stderr.read()


@pytest.mark.parametrize("killed", [0, 1])
def test_a_worker_that_dies_ends_another_that_waits_for_ever_within_the_stated_time(
    killed, tmp_path
):
    with odd_workers("stuck", tmp_path / "run", LONG) as workers:
        for worker in workers:
            await_line(worker, "waits for ever")
        with pytest.raises(subprocess.TimeoutExpired):  # neither is lost yet
            workers[0].wait(timeout=15)
        workers[killed].kill()
        err = workers[1 - killed].communicate(timeout=30)[1]
        assert workers[1 - killed].returncode == 1
    assert re.search(rf"^error: worker {1 - killed} .* since worker {killed} \(", err, re.M)


def test_workers_that_are_stopped_leave_once_the_chief_has_written_its_checkpoint(tmp_path):
    run = tmp_path / "run"
    with odd_workers("slow", run, LONG) as workers:
        await_line(workers[0], "writes")  # that of step 0
        workers[1].send_signal(signal.SIGTERM)
        for worker in workers:
            err = worker.communicate(timeout=120)[1]
            assert worker.returncode == 75, err
            assert "cannot be reached" not in err
    assert final_state(run)[0] > 0


def test_workers_that_read_different_data_are_refused(tmp_path):
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    workers = []
    for index in (0, 1):  # each with its own file under the same name
        folder = tmp_path / str(index)
        folder.mkdir()
        np.savez(folder / "own.npz", train=np.full((200, 8), index, np.float32))
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        command = [
            *(sys.executable, "-m", "trainer", f"--config={ROOT}/configs/dense.py"),
            *("--config.data.name=arrays:own.npz", "--config.model.output_activation=linear"),
            *("--config.model.code_size=2", f"--workdir={tmp_path / 'run'}"),
        ]
        environment = os.environ | {"TF_CONFIG": json.dumps(task), "PYTHONPATH": str(ROOT)}
        workers.append(
            subprocess.Popen(
                command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
            )
        )
    said = {worker.communicate(timeout=240)[1] for worker in workers}
    assert [worker.returncode for worker in workers] == [2, 2]
    assert said == {
        "error: the data of data.name='arrays:own.npz' differ between worker 0 and worker 1\n"
    }
    assert not (tmp_path / "run" / "config.json").exists()
