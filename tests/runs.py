"""Whole runs: how they are stopped, and how their ends are compared."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from configs import base
from trainer.distribution.step import Steps
from trainer.errors import Preempted
from trainer.run import workdir
from trainer.training.train import train


def small_config():
    """A run on a CPU that takes seconds: the dense kind, 10 steps on the embedded digits."""
    config = base.get_config()
    config.model.update({"hidden_units": (16,), "code_size": 4})
    config.update({"batch_size": 64, "num_epochs": 10 * 64 / 1366, "execution": "graph"})
    config.update({"steps_per_call": 2, "log_every_steps": 2})
    config.update({"validate_every_steps": 5, "checkpoint_every_steps": 5})
    config.figures = False  # they take a third of the run
    return config


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


def assert_same_charts(run, other):
    for split in ("train", "validation"):
        assert charts(run, split) == charts(other, split)


def assert_same_record(run, other):
    """The same bits, rows of the log and charts, whatever has interrupted one of the two."""
    assert_same_bits(run, other)
    assert_same_charts(run, other)
    rows = [
        [(row["split"], row["step"], row["loss"], row.get("rollbacks")) for row in logged(one)]
        for one in (run, other)
    ]
    assert rows[0] == rows[1]


def await_step(run, step, process):
    """Returns once the run of a process has got so far in its log; 0: once it begins."""

    def reached():
        if step == 0 or not (run / workdir.METRICS_LOG).exists():
            return step == 0 and (run / workdir.CONFIG).exists()
        return any(row["step"] >= step for row in logged(run))

    while not reached():
        assert process.poll() is None, f"ended before step {step}"
        time.sleep(0.01)


def preempt():
    os.kill(os.getpid(), signal.SIGTERM)


def crash(*_, **__):
    raise ZeroDivisionError


def stop_after(monkeypatch, number, how=preempt):
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


def lose_weights(patch, step, path="model/encoder/code/kernel"):
    """Has the update of a step be too much for the weights; its loss and gradient are finite."""
    original = Steps.train

    def losing(self, first_step, drawn, count):
        metrics = original(self, first_step, drawn, count)
        if first_step <= step < first_step + count:
            variable = self.variables()[path]
            variable.assign(variable * float("inf"))
        return metrics

    patch.setattr(Steps, "train", losing)


def assert_a_stop_changes_no_bit(config, folder, monkeypatch, *, calls, step):
    """A run that a signal stops at a step, after so many calls, ends as one that is left alone.

    Returns the validation losses of the latter; the two are `alone` and `stopped` in the folder.
    """
    losses = train(config, str(folder / "alone"))
    with monkeypatch.context() as patch:
        stop_after(patch, calls)
        with pytest.raises(Preempted, match=f"step {step}"):
            train(config, str(folder / "stopped"))
    assert final_state(folder / "stopped")[0] == step
    train(config, str(folder / "stopped"))
    assert_same_bits(folder / "alone", folder / "stopped")
    return losses
