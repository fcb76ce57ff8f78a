"""Kill anywhere: a run that is killed again and again ends as one that is left alone."""

import multiprocessing
import signal
import time

import pytest

from tests.all_configs import CONFIGS, load_config
from tests.faults import kills
from tests.runs import assert_same_bits, charts, final_state, logged, report
from trainer.evaluation.evaluate import evaluate
from trainer.run import workdir
from trainer.train import train

pytestmark = pytest.mark.faults

# A copy of a process that has imported everything and computed nothing yet begins in no time.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.faults.test_kills"])

KINDS = {load_config(name).model.name: name for name in reversed(CONFIGS)}
KILLED = (-signal.SIGKILL, -signal.SIGXFSZ)


def tiny_config(name, steps):
    config = load_config(name)
    config.data.update({"name": "digits", "resplit_test": 0.0})
    config.batch_size = 16
    config.num_epochs = steps * 16 / 1366
    config.execution = "graph"
    config.steps_per_call = 1
    config.log_every_steps = 1
    config.validate_every_steps = 3
    config.checkpoint_every_steps = 2
    config.keep_checkpoints = 2
    config.quiet = True
    return config


def _trained(config, run, kill, args):
    if kill:
        kill(*args)
    train(config, str(run))


def started(config, run, kill=None, *args):
    process = PROCESSES.Process(target=_trained, args=(config, run, kill, args))
    process.start()
    return process


def ended(config, run, kill=None, *args):
    """The exit status of a training in a process of its own."""
    process = started(config, run, kill, *args)
    process.join()
    return process.exitcode


def _evaluated(run, kill, args):
    if kill:
        kill(*args)
    evaluate(str(run))


def evaluation_ended(run, kill=None, *args):
    """The exit status of an evaluation in a process of its own."""
    process = PROCESSES.Process(target=_evaluated, args=(run, kill, args))
    process.start()
    process.join()
    return process.exitcode


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


def killed_after(config, run, seconds):
    """The exit status of one that is killed from outside, after so long."""
    process = started(config, run)
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode


def newest_step(run):
    """That of the newest checkpoint; every one is whole, whatever has happened."""
    folder = run / workdir.CHECKPOINTS
    if not list(folder.glob("step-*")):
        return -1
    lines, damaged = report(run)
    assert damaged == 0, lines
    return final_state(run)[0]


def losses(run):
    return [(row["split"], row["step"], row["loss"]) for row in logged(run)]


def assert_ends_as_one_left_alone(alone, killed):
    assert_same_bits(alone, killed)
    for part in ("train", "validation"):
        assert charts(killed, part) == charts(alone, part)
    assert losses(killed) == losses(alone)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_outlives_kills(kind, tmp_path, drawn):
    config = tiny_config(KINDS[kind], steps=12)
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
        (kills.within, "trainer.training.logger.Logger.validation"),
        (kills.within, "trainer.run.checkpoints.Checkpoint.restore"),
        (kills.within, "trainer.training.logger.Logger._training", int(drawn.integers(1, 3))),
    ]
    before = -1
    for kill in places:
        assert ended(config, run, *kill) in KILLED, kill
        assert newest_step(run) >= before, kill
        before = newest_step(run)
    for share in drawn.uniform(0, 1, 2):
        assert killed_after(config, run, share * seconds) in (0, *KILLED)
        assert newest_step(run) >= before
        before = newest_step(run)
    assert ended(config, run) == 0
    assert_ends_as_one_left_alone(tmp_path / "alone", run)
    assert_no_half_is_measured(run, drawn)
