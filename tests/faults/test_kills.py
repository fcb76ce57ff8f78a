"""Kill anywhere: a run that is killed again and again ends as one that is left alone."""

import multiprocessing
import signal
import time

import pytest

from tests.all_configs import CONFIG_OF, load_config
from tests.faults import kills
from tests.runs import assert_same_record, final_state, report
from trainer.evaluation.evaluate import evaluate
from trainer.run import workdir
from trainer.training.train import train

pytestmark = pytest.mark.faults

# A copy of a process that has imported everything and computed nothing yet begins in no time.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.faults.test_kills"])

KILLED = (-signal.SIGKILL, -signal.SIGXFSZ)


def tiny_config(name, steps):
    config = load_config(name)
    config.data.update({"name": "digits", "resplit_test": 0.0})
    config.update({"batch_size": 16, "num_epochs": steps * 16 / 1366, "execution": "graph"})
    config.update({"steps_per_call": 1, "log_every_steps": 1, "validate_every_steps": 3})
    config.update({"checkpoint_every_steps": 2, "keep_checkpoints": 2, "quiet": True})
    return config


def _worked(verb, arguments, kill, args):
    if kill:
        kill(*args)
    verb(*arguments)


def _exit_status(verb, arguments, kill=None, args=(), seconds=None):
    """That of a verb in a process of its own, which is killed after so long."""
    process = PROCESSES.Process(target=_worked, args=(verb, arguments, kill, args))
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode


def ended(config, run, kill=None, *args, seconds=None):
    """The exit status of a training in a process of its own."""
    return _exit_status(train, (config, str(run)), kill, args, seconds)


def evaluation_ended(run, kill=None, *args):
    """The exit status of an evaluation in a process of its own."""
    return _exit_status(evaluate, (str(run),), kill, args)


def assert_no_half_is_measured(run, drawn):
    """A killed evaluation leaves the figures of the one before, or the whole of its own."""
    path = run / workdir.METRICS
    assert evaluation_ended(run) == 0
    whole = path.read_text()
    before = '{"step": -1}'
    path.write_text(before)
    for kill in (
        (kills.at_call, int(drawn.integers(1, 21))),
        (kills.at_byte, int(drawn.integers(len(whole)))),
        (kills.within, "trainer.evaluation.evaluators.reconstruction.reconstruction_metrics"),
        (kills.within, "trainer.storage.atomic.write_json"),
    ):
        assert evaluation_ended(run, *kill) in KILLED, kill
        assert path.read_text() == before, kill
    assert evaluation_ended(run, kills.within, "tempfile.TemporaryDirectory.cleanup") in KILLED
    assert path.read_text() == whole
    assert evaluation_ended(run) == 0
    assert path.read_text() == whole


def newest_step(run):
    """That of the newest checkpoint; every one is whole, whatever has happened."""
    folder = run / workdir.CHECKPOINTS
    if not list(folder.glob("step-*")):
        return -1
    lines, damaged = report(run)
    assert damaged == 0, lines
    return final_state(run)[0]


@pytest.mark.parametrize("kind", CONFIG_OF)
def test_every_kind_outlives_kills(kind, tmp_path, drawn):
    config = tiny_config(CONFIG_OF[kind], steps=12)
    began = time.monotonic()
    assert ended(config, tmp_path / "alone") == 0
    seconds = time.monotonic() - began
    run = tmp_path / "killed"
    whole = list((tmp_path / "alone" / workdir.CHECKPOINTS).glob("*/state.npz"))
    size = whole[0].stat().st_size
    places = [
        (kills.at_call, int(drawn.integers(1, 12))),
        (kills.within, "trainer.storage.atomic.write_json"),
        (kills.within, "trainer.distribution.step.Steps.train", 2),
        (kills.at_byte, int(drawn.integers(size))),
        (kills.at_call, int(drawn.integers(12, 30))),
        (kills.within, "trainer.distribution.step.Steps.evaluate"),
        (kills.within, "trainer.training.logger.Logger.log_validation"),
        (kills.within, "trainer.run.checkpoints.Checkpoint.restore"),
        (kills.within, "trainer.training.logger.Logger._training", int(drawn.integers(1, 3))),
    ]
    before = -1
    for kill in places:
        assert ended(config, run, *kill) in KILLED, kill
        assert newest_step(run) >= before, kill
        before = newest_step(run)
    for share in drawn.uniform(0, 1, 2):
        assert ended(config, run, seconds=share * seconds) in (0, *KILLED)
        assert newest_step(run) >= before
        before = newest_step(run)
    assert ended(config, run) == 0
    assert_same_record(run, tmp_path / "alone")
    assert_no_half_is_measured(run, drawn)
