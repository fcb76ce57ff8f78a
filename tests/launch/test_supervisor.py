"""Processes that are started, restarted, signalled and killed; they are small Python programs."""

import contextlib
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from launch import supervisor
from launch.supervisor import Command, Job, received_signals, supervise

ROOT = Path(__file__).parents[2]
# What each process begins with: its name, a folder to leave traces in, the number of its start.
BEGINNING = """
import os, pathlib, signal, sys, time
name, folder = sys.argv[1], pathlib.Path(sys.argv[2])
number = len(list(folder.glob(f"start-{name}-*")))
(folder / f"start-{name}-{number}").write_text(os.environ.get("SLOT", ""))
"""
WAIT_FOR_SIGNAL = """
seen = []
for its in (signal.SIGTERM, signal.SIGINT):
    signal.signal(its, lambda number, _: seen.append(signal.Signals(number).name))
(folder / f"ready-{name}").touch()
while not seen:
    time.sleep(0.01)
time.sleep(0.5)
(folder / f"seen-{name}").write_text(" ".join(seen))
sys.exit(75)
"""


def job(folder, name, *programs, processes=1):
    """A job with a stage for each program, which all of its processes run."""
    names = [name] if processes == 1 else [f"{name}{i}" for i in range(processes)]

    def stage(program, environment):
        argv = [sys.executable, "-c", BEGINNING + program]
        return [Command(own, [*argv, own, str(folder)], environment) for own in names]

    return Job(name, (functools.partial(stage, program) for program in programs))


def run_pair(folder, program, max_restarts=2):
    """The status of a job of two processes, `w0` and `w1`."""
    return supervise([job(folder, "w", program, processes=2)], [{}], max_restarts, [])["w"]


def starts(folder, name):
    return len(list(folder.glob(f"start-{name}-*")))


def test_a_crash_restarts_all_processes_and_each_line_begins_with_a_name(tmp_path, capfd):
    program = """
print("hello", flush=True)
print("oh", file=sys.stderr)
print("no end", end="", flush=True)
if number == 0 and name == "w1": os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run_pair(tmp_path, program) == 0
    assert (starts(tmp_path, "w0"), starts(tmp_path, "w1")) == (2, 2)
    out, err = capfd.readouterr()
    lines = ["[w0] hello", "[w0] no end", "[w1] hello", "[w1] no end"]
    assert sorted(out.splitlines()) == sorted(2 * lines)
    assert err.count("[w0] oh\n") == err.count("[w1] oh\n") == 2
    assert "[w1] was ended by SIGKILL" in err
    assert "restart 1 of 2" in err


@pytest.mark.parametrize(
    ("statuses", "status", "times"),
    [((0, 75), 75, 1), ((1, 2), 2, 1), ((0, 9), 9, 3), ((75, -9), 128 + 9, 3)],
)
def test_crashes_alone_are_restarted_a_bounded_number_of_times(tmp_path, statuses, status, times):
    end = "sys.exit(status) if status >= 0 else os.kill(os.getpid(), -status)"
    program = f"status = {statuses}[name == 'w1']\n{end}"
    assert run_pair(tmp_path, program) == status
    assert starts(tmp_path, "w0") == times


def test_a_process_that_outlives_a_crash_of_another_is_killed(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(supervisor, "_CRASH_SECONDS", 0.5)
    program = "sys.exit(1) if name == 'w1' else time.sleep(60)"
    assert run_pair(tmp_path, program, max_restarts=0) == 1
    assert "[w0] does not end" in capfd.readouterr().err


def test_a_failed_stage_ends_its_job_alone_and_jobs_share_the_slots(tmp_path):
    waits = "while len(list(folder.glob('start-[bc]*'))) < 2: time.sleep(0.01)"
    programs = {"a": waits, "b": "sys.exit(2)", "c": ""}
    jobs = [job(tmp_path, name, program, "") for name, program in programs.items()]
    assert supervise(jobs, [{"SLOT": "0"}, {"SLOT": "1"}], 0, []) == {"a": 0, "b": 2, "c": 0}
    assert [starts(tmp_path, name) for name in "abc"] == [2, 1, 2]
    assert [(tmp_path / f"start-{name}-0").read_text() for name in "abc"] == ["0", "1", "1"]


@pytest.fixture
def handlers_as_before():
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    # A signal that comes before the launcher listens, or after it, must not end the tests.
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def once_ready(folder, count, then):
    """Calls a function once so many processes are ready for a signal."""

    def wait():
        deadline = time.monotonic() + 60
        while len(list(folder.glob("ready-*"))) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        then()

    threading.Thread(target=wait).start()


@pytest.mark.usefixtures("handlers_as_before")
@pytest.mark.parametrize(("number", "delivered"), [("SIGINT", "SIGINT"), ("SIGHUP", "SIGTERM")])
def test_a_signal_reaches_each_process_once_and_nothing_is_started_after_it(
    tmp_path, number, delivered
):
    once_ready(tmp_path, 2, lambda: os.kill(os.getpid(), signal.Signals[number]))
    jobs = [
        job(tmp_path, "a", WAIT_FOR_SIGNAL, ""),
        job(tmp_path, "b", f"{WAIT_FOR_SIGNAL.replace('75', '0')}", ""),
        job(tmp_path, "c", ""),
    ]
    with received_signals() as received:
        assert supervise(jobs, [{}, {}], 1, received) == {"a": 75, "b": 0}
    assert [(tmp_path / f"seen-{name}").read_text() for name in "ab"] == [delivered] * 2
    assert [starts(tmp_path, name) for name in "abc"] == [1, 1, 0]


def test_a_process_that_ignores_a_signal_is_killed_and_not_restarted(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "_EXIT_SECONDS", 0.2)
    received: list[int] = []
    once_ready(tmp_path, 1, lambda: received.append(signal.SIGTERM))
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n(folder / 'ready-a').touch()\n"
    assert supervise([job(tmp_path, "a", deaf + "time.sleep(60)")], [{}], 1, received) == {"a": 137}
    assert starts(tmp_path, "a") == 1


def test_what_a_process_has_started_ends_with_it(tmp_path):
    program = """
import subprocess
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
(folder / f"child-{name}").write_text(str(child.pid))
"""
    assert run_pair(tmp_path, program) == 0
    children = [int(path.read_text()) for path in tmp_path.glob("child-*")]
    assert len(children) == 2
    while any(map(runs, children)):
        time.sleep(0.01)


def runs(pid):
    """Whether a process is there and not dead; one that is killed takes a moment."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    return False


def launcher(folder, program, **how):
    """A process that runs a pair, as a launcher that can be killed itself."""
    code = (
        "import pathlib, sys; from tests.launch.test_supervisor import run_pair\n"
        f"sys.exit(run_pair(pathlib.Path({str(folder)!r}), {program!r}))"
    )
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **how)


def test_processes_whose_output_nobody_reads_end(tmp_path):
    program = "while True: print('step', flush=True)"
    process = launcher(tmp_path, program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) not in (0, 75)


def test_processes_get_sigterm_when_their_launcher_is_killed(tmp_path):
    process = launcher(tmp_path, WAIT_FOR_SIGNAL)
    while len(list(tmp_path.glob("ready-*"))) < 2:
        time.sleep(0.01)
    process.kill()
    process.wait()
    for index in (0, 1):
        while not (seen := tmp_path / f"seen-w{index}").exists() or not seen.read_text():
            time.sleep(0.01)
        assert seen.read_text() == "SIGTERM"


@pytest.mark.parametrize("module", ["local", "sweep"])
def test_a_launcher_that_waits_has_neither_tensorflow_nor_threads(module):
    code = (
        f"import os, sys, launch.{module}\n"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)\n"
        "assert len(os.listdir('/proc/self/task')) == 1"  # for PR_SET_PDEATHSIG
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
