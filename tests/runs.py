"""Whole runs: how they are stopped, and how their ends are compared."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from trainer.distribution.step import Steps
from trainer.errors import Preempted
from trainer.run import workdir
from trainer.train import train


def files_in(folder):
    """The content of every file there is, by its path."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def found(folder, checkpoint="last"):
    """Returns the newest or the best checkpoint of the run in a workdir."""
    whole = workdir.read(Path(folder)).checkpoints.find(checkpoint)
    assert whole is not None
    return whole


def report(run):
    """A line on each of a run's checkpoints, and how many of them are not whole or not its own."""
    return workdir.read(run).checkpoints.report()


def final_state(run):
    """The step and the arrays of a run's newest checkpoint."""
    checkpoint = found(run)
    return checkpoint.step, checkpoint.state()


def assert_same_bits(run, other):
    (step, state), (other_step, other_state) = final_state(run), final_state(other)
    assert step == other_step
    assert state.keys() == other_state.keys()
    for path, array in state.items():
        assert array.tobytes() == other_state[path].tobytes(), path


def logged(run):
    """The rows that a run has logged whole so far."""
    whole = (Path(run) / workdir.METRICS_LOG).read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def charts(run, split):
    """The steps of each tag, as TensorBoard's Python loader shows them."""
    loader = EventAccumulator(str(Path(run) / split), size_guidance={"tensors": 0}).Reload()
    return {tag: [event.step for event in loader.Tensors(tag)] for tag in loader.Tags()["tensors"]}


def await_step(run, step, process):
    """Returns once the run of a process has got so far in its log; 0: once it begins."""

    def reached():
        if step == 0 or not (run / workdir.METRICS_LOG).exists():
            return step == 0 and (run / workdir.CONFIG).exists()
        return any(row["step"] >= step for row in logged(run))

    while not reached():
        assert process.poll() is None, f"ended before step {step}"
        time.sleep(0.01)


def stop_after(monkeypatch, number, how):
    """Does `how` to the process once `number` training calls are done."""
    calls = []
    original = Steps.train

    def counted(self, first_step, *arguments):
        metrics = original(self, first_step, *arguments)
        calls.append(first_step)
        if len(calls) == number:
            how()
        return metrics

    monkeypatch.setattr(Steps, "train", counted)


def assert_a_stop_changes_no_bit(
    config, folder, monkeypatch, *, calls, step, by=signal.SIGTERM.value
):
    """A run that a signal stops at a step, after so many calls, ends as one that is left alone.

    Returns the validation losses of the latter; the two are `alone` and `stopped` in the folder.
    """
    losses = train(config, str(folder / "alone"))
    with monkeypatch.context() as patch:
        stop_after(patch, calls, lambda: os.kill(os.getpid(), by))
        with pytest.raises(Preempted, match=f"step {step}"):
            train(config, str(folder / "stopped"))
    assert final_state(folder / "stopped")[0] == step
    train(config, str(folder / "stopped"))
    assert_same_bits(folder / "alone", folder / "stopped")
    return losses
