"""Several workers that are killed or stopped, again and again, end as workers left alone."""

import contextlib
import json
import re
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.runs import assert_same_bits, await_step, charts, logged
from trainer.run import workdir

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parent.parent.parent
LAUNCHER = -1
EVERY_STEPS = 20  # a validation and a checkpoint
MOMENTS = ("start-up", "steps", "validation", "save")
SETTINGS = {
    "data.name": "digits",
    "batch_size": 64,
    "num_epochs": 15.0,  # 321 steps
    "optimizer.warmup_steps": 0,
    "execution": "graph",
    "steps_per_call": 4,
    "log_every_steps": 10,
    "validate_every_steps": EVERY_STEPS,
    "checkpoint_every_steps": EVERY_STEPS,
    "startup_timeout_seconds": 40.0,  # that one waits for another that a signal has ended
    "pictures": False,
}


class Launched:
    """`launch.local` of two workers, under way, and all the processes that were seen under it."""

    def __init__(self, run):
        flags = [f"--config.{key}={value}" for key, value in SETTINGS.items()]
        command = [
            *(sys.executable, "-m", "launch.local", "--workers=2", "--max_restarts=9"),
            *("--", "--config=configs/dense.py", f"--workdir={run}", *flags),
        ]
        self._said = run.with_suffix(".txt")  # a pipe would be full if nobody read it
        with self._said.open("a") as said:
            self._process = psutil.Popen(command, cwd=ROOT, stdout=said, stderr=said)
        self._seen: set[psutil.Process] = set()

    def __enter__(self):
        return self

    def __exit__(self, *ended):
        for process in self._seen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def poll(self):
        return self._process.poll()

    def said(self):
        return self._said.read_text()

    def workers(self):
        """The processes of the workers that are there now, by their index."""
        found = {}
        with contextlib.suppress(psutil.NoSuchProcess):
            self._seen |= {self._process, *self._process.children(recursive=True)}
            for process in self._process.children():
                task = json.loads(process.environ().get("TF_CONFIG", "null"))
                if task:
                    found[task["task"]["index"]] = process
        return found

    def others_than(self, before):
        """Both workers, once none of those before is left; none where the launcher has ended."""
        while self.poll() is None:
            now = self.workers()
            if len(now) == 2 and not set(now.values()) & set(before.values()):
                return now
            time.sleep(0.01)
        return {}

    def send(self, who, number):
        """Sends a signal to a worker or to the launcher."""
        target = self._process if who == LAUNCHER else self.workers()[who]
        target.send_signal(number)

    def end(self):
        """The status that the launcher leaves with, once all that were seen are gone."""
        while self.poll() is None:
            self.workers()
            time.sleep(0.05)
        _, alive = psutil.wait_procs(self._seen, timeout=60)
        assert not alive, self.said()
        return self.poll()


def await_moment(moment, run, launched, start_seconds, random):
    """Returns in a start-up that has begun, or in steps, a validation, a save beyond the logged."""
    if moment == "start-up":
        time.sleep(random.uniform(0, start_seconds))
        return
    rows = logged(run) if (run / workdir.METRICS_LOG).exists() else []
    last = max([row["step"] for row in rows], default=0)
    await_step(run, last + int(random.integers(1, 2 * EVERY_STEPS)), launched)
    while moment == "validation":  # its row follows that of training at the same step
        assert launched.poll() is None
        row = logged(run)[-1]
        if row["split"] == "train" and row["step"] % EVERY_STEPS == 0:
            return
    while moment == "save" and not list((run / workdir.CHECKPOINTS).glob(".writing-*")):
        assert launched.poll() is None
    if moment == "steps":
        time.sleep(random.uniform(0, 0.1))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run that nobody disturbs, and how long its start took."""
    run = tmp_path_factory.mktemp("alone") / "run"
    began = time.monotonic()
    with Launched(run) as launched:
        await_step(run, 1, launched)
        start_seconds = time.monotonic() - began
        assert launched.end() == 0, launched.said()
    return run, start_seconds


def assert_ends_alike(run, alone):
    assert_same_bits(alone, run)
    for part in ("train", "validation"):
        assert charts(run, part) == charts(alone, part)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("who", [0, 1])
def test_a_worker_is_told_to_end_or_killed_at_any_moment(who, number, alone, tmp_path, drawn):
    disturb(who, number, alone, tmp_path / "run", drawn)


def test_the_launcher_is_killed_at_any_moment(alone, tmp_path, drawn):
    disturb(LAUNCHER, signal.SIGKILL, alone, tmp_path / "run", drawn)


def disturb(who, number, alone, run, random):
    """Sends the signal at each of four moments of a run, which is begun again where it ends."""
    undisturbed, start_seconds = alone
    with contextlib.ExitStack() as scope:
        launched = scope.enter_context(Launched(run))
        workers = launched.others_than({})
        for moment in MOMENTS:
            await_moment(moment, run, launched, start_seconds, random)
            launched.send(who, number)
            workers = launched.others_than(workers)
            if not workers:
                assert launched.end() in (75, -number), launched.said()
                launched = scope.enter_context(Launched(run))
                workers = launched.others_than({})
        assert launched.end() == 0, launched.said()
    assert_ends_alike(run, undisturbed)


@pytest.mark.parametrize(("who", "seconds", "restarts"), [(0, 5, 0), (1, 5, 0), (1, 60, 1)])
def test_a_worker_that_stands_still_for_a_while(who, seconds, restarts, alone, tmp_path):
    run = tmp_path / "run"
    with Launched(run) as launched:
        await_step(run, 2 * EVERY_STEPS, launched)
        stopped = launched.workers()[who]
        stopped.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        with contextlib.suppress(psutil.NoSuchProcess):
            stopped.send_signal(signal.SIGCONT)
        assert launched.end() == 0, launched.said()
        assert launched.said().count("all start again") == restarts
        if restarts:
            line = f"worker {1 - who} .* ends, since another has ended or does not answer"
            assert re.search(line, launched.said())
    assert_ends_alike(run, alone[0])
