"""A run that goes back on loss spikes, killed in its roll-backs, ends as one that is left alone."""

import numpy as np
import pytest

from tests.all_configs import load_config
from tests.faults import kills
from tests.faults.test_kills import KILLED, assert_ends_as_one_left_alone, ended, newest_step
from trainer import data, positions
from trainer.run import workdir

pytestmark = pytest.mark.faults

BATCH_SIZE = 16
SPIKES = (6, 11, 16)


def config_with_spikes(folder):
    """Twenty steps, three of which draw an absurd vector."""
    config = load_config("dense")
    config.update_from_flattened_dict(
        {
            "data.name": f"arrays:{folder / 'own.npz'}",
            "data.validation_fraction": 0.2,
            "model.hidden_units": (4,),
            "model.code_size": 2,
            "model.output_activation": "linear",
            "batch_size": BATCH_SIZE,
            "num_epochs": 1.0,
            "execution": "graph",
            "steps_per_call": 1,
            "log_every_steps": 1,
            "validate_every_steps": 5,
            "checkpoint_every_steps": 1,
            "quiet": True,
            "spikes.loss_ratio": 5.0,
            "spikes.skip_steps": 3,
        }
    )
    numbers = np.arange(500, dtype=np.float32)[:, np.newaxis].repeat(6, axis=1)
    np.savez(folder / "own.npz", train=numbers)
    rows = data.load(config.data).train.images
    assert len(rows) == 20 * BATCH_SIZE
    vectors = np.random.default_rng(0).normal(size=numbers.shape).astype(np.float32)
    for step in SPIKES:
        vectors[
            int(rows[positions.examples(config.seed, step * BATCH_SIZE, 1, len(rows))[0]][0])
        ] = 1e4
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
        (kills.within, "trainer.training.loss_spikes.LossSpikes.roll_back"),
        (kills.within, "trainer.run.checkpoints.Checkpoint.restore", 2),
        (kills.within, "trainer.run.metrics_log.MetricsLog.forget_after", 2),
    ]
    for kill in places:
        assert ended(config, run, *kill) in KILLED, kill
        assert newest_step(run) >= 0
    for call in drawn.integers(1, 200, 6):
        assert ended(config, run, kills.at_call, int(call)) in (0, *KILLED)
    assert ended(config, run) == 0
    assert_ends_as_one_left_alone(alone, run)
    assert [row["rollbacks"] for row in workdir.read(run).log.rows() if row["split"] == "train"][
        -1
    ] == 3
