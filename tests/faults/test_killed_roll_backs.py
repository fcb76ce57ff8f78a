"""A run that goes back on loss spikes, killed in its roll-backs, ends as one that is left alone."""

import numpy as np
import pytest

from tests.faults import kills
from tests.faults.test_kills import KILLED, ended, newest_step, tiny_config
from tests.runs import assert_same_record, final_state
from trainer import data, positions

pytestmark = pytest.mark.faults

BATCH_SIZE = 16
SPIKES = (6, 11, 16)


def config_with_spikes(folder):
    """Twenty steps, three of which draw an absurd vector."""
    config = tiny_config("dense", steps=20)
    config.data.update({"name": f"arrays:{folder / 'own.npz'}", "validation_fraction": 0.2})
    config.model.update({"hidden_units": (4,), "code_size": 2, "output_activation": "linear"})
    config.update({"num_epochs": 1.0, "checkpoint_every_steps": 1, "validate_every_steps": 5})
    config.spikes.update({"loss_ratio": 5.0, "skip_steps": 3})
    numbers = np.arange(500, dtype=np.float32)[:, np.newaxis].repeat(6, axis=1)
    np.savez(folder / "own.npz", train=numbers)
    rows = data.load(config.data).train.images
    assert len(rows) == 20 * BATCH_SIZE
    vectors = np.random.default_rng(0).normal(size=numbers.shape).astype(np.float32)
    for step in SPIKES:
        drawn = positions.examples(config.seed, step * BATCH_SIZE, 1, len(rows))
        vectors[int(rows[drawn[0]][0])] = 1e4
    np.savez(folder / "own.npz", train=vectors)
    return config


def test_roll_backs_outlive_kills(tmp_path, drawn):
    config = config_with_spikes(tmp_path)
    alone, run = tmp_path / "alone", tmp_path / "killed"
    assert ended(config, alone) == 0
    places = [
        (kills.within, "trainer.monitoring.goodput.Clock.go_back"),
        (kills.within, "trainer.run.checkpoints.Checkpoints.find_before"),
        (kills.within, "trainer.run.checkpoints.Checkpoints.delete_after"),
        (kills.within, "trainer.training.loss_spikes.SpikeGuard.roll_back"),
        (kills.within, "trainer.run.checkpoints.Checkpoint.restore", 2),
        (kills.within, "trainer.run.metrics_log.MetricsLog.forget_after", 2),
    ]
    for kill in places:
        assert ended(config, run, *kill) in KILLED, kill
        assert newest_step(run) >= 0
    for call in drawn.integers(1, 200, 6):
        assert ended(config, run, kills.at_call, int(call)) in (0, *KILLED)
    assert ended(config, run) == 0
    assert_same_record(run, alone)
    assert len(final_state(run)[1]["spikes/skipped"]) == 3
