"""Runs that end before their last step, and runs whose length follows from their data."""

import math
import shutil

import pytest

from configs import table
from tests.runs import (
    assert_a_stop_changes_no_bit,
    final_state,
    found,
    logged,
    small_config,
)
from tests.verbs.refusals import refused
from trainer.config import Stop, differences, parse
from trainer.run import restore, workdir
from trainer.run.early_stopping import is_exhausted
from trainer.training import budget
from trainer.training.train import train


@pytest.mark.parametrize(
    ("losses", "patience", "min_delta", "ends"),
    [
        ([3, 2, 1], 1, 0, False),
        ([3, 2, 2], 1, 0, True),  # an equal loss is not lower
        ([3, 2, 2], 2, 0, False),
        ([3, 2, 4, 1.9, 2], 2, 0, False),
        ([3, 2, 1.9, 1.8], 2, 0.5, True),  # the decreases do not count, and do not add up
        ([3, 2, 1.9, 1.4], 2, 0.5, False),
        ([3, 4, 5], 0, 0, False),
        ([], 1, 0, False),
    ],
)
def test_patience_counts_validations_without_a_lower_loss(losses, patience, min_delta, ends):
    assert is_exhausted(losses, Stop(patience, min_delta)) == ends


def overfitting():
    """A run whose validation loss is lowest at step 2 of 10: then the rate ruins the weights."""
    config = small_config()
    config.model.update({"start": "pca", "output_activation": "linear"})
    config.optimizer.update({"learning_rate": 0.3, "schedule": "constant"})
    config.update({"validate_every_steps": 1, "steps_per_call": 1, "checkpoint": "best"})
    config.stop.patience_validations = 3
    return config


def test_a_run_that_ends_early_ends_alike_if_it_is_stopped_and_is_used_from_its_best_checkpoint(
    tmp_path, monkeypatch, capsys
):
    config = overfitting()
    assert_a_stop_changes_no_bit(config, tmp_path, monkeypatch, calls=2, step=2)
    run = tmp_path / "alone"
    validated = [row for row in logged(run) if row["split"] == "validation"]
    losses = [row["loss"] for row in validated]
    best = validated[losses.index(min(losses))]["step"]
    assert validated[0]["step"] == 0
    assert final_state(run)[0] == best + 3 < 10
    assert found(run, "best").step == best == restore.load_model(run).step
    assert restore.load_model(run, "last").step == best + 3
    capsys.readouterr()
    train(config, str(run))
    end = f"ended early at step {best + 3}, after 3 validations without a lower loss"
    assert end in (told := capsys.readouterr().out) and f"best at step {best}," in told
    assert final_state(run)[0] == best + 3
    config.stop.patience_validations = 0
    train(config, str(run))
    assert final_state(run)[0] == 10


def test_the_budget_follows_from_the_number_of_examples_where_a_key_is_zero():
    for examples in (1, 20, 320, 3_000, 50_000, 10**7):
        config = budget.resolved(parse(table.get_config()), examples)
        assert math.log2(config.batch_size) % 1 == 0
        assert 16 <= config.batch_size <= 512
        assert 20 <= config.num_epochs <= 500
        steps = config.num_epochs * examples / config.batch_size
        assert config.optimizer.warmup_steps <= max(1, steps / 10)
        assert 0 < config.validate_every_steps <= max(1, steps / 10)
        assert budget.resolved(config, examples) == config
    short = table.get_config()
    short.num_epochs = 8.0
    assert budget.resolved(parse(short), 216).validate_every_steps == math.ceil(216 / 16)
    assert budget.resolved(parse(short), 20_000).validate_every_steps == 30
    given = table.get_config()
    given.update({"batch_size": 7, "num_epochs": 3.5, "validate_every_steps": 9})
    given.optimizer.warmup_steps = 4
    assert budget.resolved(parse(given), 1000) == parse(given)


def test_a_run_is_resumed_with_its_budget_and_not_with_another(tmp_path):
    config = table.get_config()
    config.data.name = "digits"
    config.data.standardise = False
    config.model.update({"hidden_units": (4,), "code_size": 2})
    config.update({"num_epochs": 0.02, "execution": "graph", "figures": False})
    train(config, str(tmp_path / "run"))
    before = workdir.read(tmp_path / "run").config
    assert before.batch_size == 32
    assert not differences(before, parse(config))
    config.num_epochs = 1.0  # more steps of warm-up would follow
    train(config, str(tmp_path / "run"))
    extended = workdir.read(tmp_path / "run").config
    assert extended.optimizer.warmup_steps == before.optimizer.warmup_steps == 1
    config.batch_size = 16
    with refused("batch_size was 32, is 16", tmp_path):
        train(config, str(tmp_path / "run"))
    fixed = small_config()
    fixed.batch_size = 0
    shutil.rmtree(tmp_path / "run")
    with refused("batch_size=0 is not allowed; it must be above 0, or budget='auto'", tmp_path):
        train(fixed, str(tmp_path / "run"))
