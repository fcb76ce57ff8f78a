import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from launch import gpus, local, supervisor
from trainer.errors import UserError

ROOT = Path(__file__).parents[2]
# What each worker of these tests begins with: who it is, and a folder to leave traces in.
BEGINNING = """
import json, os, pathlib, signal, sys, time
task = json.loads(os.environ["TF_CONFIG"])
index, folder = task["task"]["index"], pathlib.Path(sys.argv[1])
number = len(list(folder.glob(f"start-*-{index}")))
(folder / f"start-{number}-{index}").write_text(json.dumps(task))
"""


def supervise(folder, program, *, workers=2, max_restarts=2):
    command_line = [sys.executable, "-c", BEGINNING + program, str(folder)]
    return local.run_workers(command_line, gpus.share([], "workers", workers), max_restarts)


def starts(folder, index=0):
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"start-*-{index}"))]


def send_once_ready(folder, number):
    """Sends this process a signal once both workers have left a trace that they are ready."""
    # Until the launcher listens, and should it end too early, a signal must not end the tests.
    signal.signal(number, lambda *_: None)

    def wait_and_send():
        deadline = time.monotonic() + 60
        while len(list(folder.glob("ready-*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=wait_and_send).start()


def test_each_worker_has_its_place_in_one_cluster(tmp_path):
    assert supervise(tmp_path, "", workers=3) == 0
    tasks = [starts(tmp_path, index)[0] for index in range(3)]
    assert [task["task"] for task in tasks] == [{"type": "worker", "index": i} for i in range(3)]
    assert len({json.dumps(task["cluster"]) for task in tasks}) == 1
    assert len(set(tasks[0]["cluster"]["worker"])) == 3


def test_each_line_tells_whose_it_is(tmp_path, capfd):
    program = 'print("hello"); print("oh", file=sys.stderr); print("no end", end="")'
    assert supervise(tmp_path, program) == 0
    out, err = capfd.readouterr()
    assert {"[0] hello", "[1] hello"} <= set(out.splitlines())
    assert {"[0] oh", "[1] oh"} <= set(err.splitlines())
    assert out.count("no end") == 2


def test_all_start_again_on_new_ports_where_one_dies(tmp_path, capfd):
    program = "if number == 0 and index == 1: os.kill(os.getpid(), signal.SIGKILL)"
    assert supervise(tmp_path, program) == 0
    first, second = starts(tmp_path)
    assert first["cluster"] != second["cluster"]
    assert len(starts(tmp_path, 1)) == 2
    said = capfd.readouterr().err
    assert "launch: [1] was ended by SIGKILL" in said
    assert "launch: restarting all workers, restart 1 of 2" in said


def test_restarts_are_bounded(tmp_path, capfd):
    assert supervise(tmp_path, "sys.exit(9 if index else 0)") == 9
    assert len(starts(tmp_path)) == 3
    assert "launch: giving up on all workers after 2 restarts" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("statuses", "expected"), [((2, 2), 2), ((1, 2), 2), ((75, 75), 75), ((0, 75), 75), ((0, 0), 0)]
)
def test_a_mistake_and_a_preemption_are_not_started_again(tmp_path, statuses, expected):
    assert supervise(tmp_path, f"sys.exit({statuses}[index])") == expected
    assert len(starts(tmp_path)) == 1


def test_a_worker_that_outlives_another_is_killed(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(supervisor, "_CRASH_SECONDS", 0.5)
    program = "sys.exit(1) if index else time.sleep(60)"
    assert supervise(tmp_path, program, max_restarts=0) == 1
    assert "launch: [0] does not end" in capfd.readouterr().err


@pytest.fixture
def signals_as_before():
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals_as_before")
@pytest.mark.parametrize(
    ("number", "told"),
    [
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGINT, signal.SIGINT),
        (signal.SIGHUP, signal.SIGTERM),
    ],
)
def test_a_signal_reaches_each_worker_once(tmp_path, number, told):
    program = """
seen = []
signal.signal(signal.SIGTERM, lambda *_: seen.append("SIGTERM"))
signal.signal(signal.SIGINT, lambda *_: seen.append("SIGINT"))
(folder / f"ready-{index}").touch()
while not seen:
    time.sleep(0.01)
time.sleep(0.5)
(folder / f"seen-{index}").write_text(" ".join(seen))
sys.exit(75)
"""
    send_once_ready(tmp_path, number)
    assert supervise(tmp_path, program) == 75
    assert [(tmp_path / f"seen-{index}").read_text() for index in (0, 1)] == [told.name] * 2
    assert len(starts(tmp_path)) == 1


def test_what_a_worker_has_started_ends_with_it(tmp_path):
    program = """
import subprocess
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
(folder / f"child-{index}").write_text(str(child.pid))
"""
    assert supervise(tmp_path, program) == 0
    for path in tmp_path.glob("child-*"):
        while runs(int(path.read_text())):
            time.sleep(0.01)


def runs(pid):
    """Whether a process is there and is not dead; one that is killed takes a moment."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    return False


def test_workers_whose_output_nobody_reads_end(tmp_path):
    script = f"""
import sys
from tests.launch import test_local
forever = "while True: print('step', flush=True)"
sys.exit(test_local.supervise(test_local.Path({str(tmp_path)!r}), forever))
"""
    command_line = [sys.executable, "-c", script]
    launcher = subprocess.Popen(
        command_line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert launcher.stdout is not None
    launcher.stdout.readline()
    launcher.stdout.close()
    assert launcher.wait(timeout=60) not in (0, 75)


def test_workers_hear_of_a_launcher_that_is_killed(tmp_path):
    script = f"""
from tests.launch import test_local
silent = "(folder / f'ready-{{index}}').write_text(str(os.getpid())); time.sleep(60)"
test_local.supervise(test_local.Path({str(tmp_path)!r}), silent)
"""
    launcher = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    while not all((tmp_path / f"ready-{index}").exists() for index in (0, 1)):
        time.sleep(0.01)
    time.sleep(0.1)  # for what is opened to be written
    launcher.kill()
    launcher.wait()
    deadline = time.monotonic() + 10
    for path in tmp_path.glob("ready-*"):
        while runs(int(path.read_text())):
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.usefixtures("signals_as_before")
def test_a_worker_that_a_signal_ends_is_not_started_again(tmp_path):
    program = "(folder / f'ready-{index}').touch(); time.sleep(60)"
    send_once_ready(tmp_path, signal.SIGTERM)
    assert supervise(tmp_path, program) == 128 + signal.SIGTERM
    assert len(starts(tmp_path)) == 1


def test_gpus_are_shared_out_evenly():
    assert gpus.share([], "workers", 2) == [{"CUDA_VISIBLE_DEVICES": ""}] * 2
    shared = gpus.share(["0", "1", "GPU-ab", "3"], "workers", 2)
    assert [share["CUDA_VISIBLE_DEVICES"] for share in shared] == ["0,1", "GPU-ab,3"]
    with pytest.raises(UserError, match="workers=2 cannot share 3 GPUs evenly"):
        gpus.share(["0", "1", "2"], "workers", 2)


def test_the_gpus_are_those_that_are_allowed_or_that_the_driver_lists(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert gpus.visible_gpus() == ["2", "3"]
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert gpus.visible_gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.visible_gpus() == []
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 0\necho 1\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert gpus.visible_gpus() == ["0", "1"]
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho NVIDIA-SMI has failed\nexit 9\n")
    assert gpus.visible_gpus() == []


def test_free_ports_are_free_and_differ():
    ports = local.free_ports(50)
    assert len(set(ports)) == 50


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workers=0"], "--workers=0: 0 is not a positive integer"),
        (["--workers=2"], "the trainer's --config=... is missing"),
        (["--workers=2", "--", "--workdir=x"], "the trainer's --config=... is missing"),
        (["--workers=2", "--", "--config=x"], "the trainer's --workdir=... is missing"),
        (["--workers=2", "--config=x"], "Unknown command line flag 'config'"),
    ],
)
def test_a_wrong_flag_is_told_in_one_line(flags, message):
    command_line = [sys.executable, "-m", "launch.local", *flags]
    ended = subprocess.run(command_line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
