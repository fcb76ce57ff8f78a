"""The benchmarks train the nets of the configs, and count their operations right."""

import json

import keras
import pytest

from benchmarks import limit, results
from benchmarks.nets import IMAGE_SHAPE, NETS
from benchmarks.sides import with_keras
from tests.all_configs import CONFIGS, load_config
from trainer import models
from trainer.config import parse
from trainer.run import metrics_log, workdir


@pytest.mark.parametrize("net", NETS)
def test_a_net_has_the_layers_of_its_config(net):
    ours = models.create(IMAGE_SHAPE, parse(load_config(net)).model)
    stack = [keras.Input(IMAGE_SHAPE), *map(with_keras.keras_layer, NETS[net])]
    theirs = keras.Sequential(stack)
    shapes = [
        [variable.shape for variable in model.trainable_variables] for model in (ours, theirs)
    ]
    assert shapes[0] == shapes[1]
    assert limit.count(net)[2] == ours.count_params()


def test_the_limit_is_the_longer_of_arithmetic_and_bytes():
    # dense: 111,104 multiply-adds down and as many up; the first layer has no input gradient.
    forward = 2 * 784 * 128 + 2 * 128 * 64 + 2 * 64 * 32
    flops = 2 * (3 * forward - 784 * 128)
    assert limit.count("dense")[0] == flops
    slow = limit.Machine(flops_per_second=float(flops), bytes_per_second=1e12)
    assert limit.images_per_second("dense", 64, slow) == pytest.approx(1.0)
    narrow = limit.Machine(flops_per_second=1e15, bytes_per_second=1.0)
    activations, parameters = 2 * (128 + 64) + 32 + 784, forward + 2 * (128 + 64) + 32 + 784
    moved = 4 * (3 * activations + 7 * parameters / 64)
    assert limit.images_per_second("dense", 64, narrow) == pytest.approx(1 / moved)


def test_every_row_of_results_is_of_a_config():
    assert set(results.RUNS) <= set(CONFIGS)


def test_a_result_is_shown_with_its_goal_and_whether_it_is_reached(tmp_path):
    measured = {"denoised_bce": 0.08301, "denoised_mse": 0.01, "noisy_mse": 1, "noisy_pca_mse": 1}
    measured |= {"num_epochs": 2.0, "training_seconds": 90.0}
    (tmp_path / "denoising.json").write_text(json.dumps(measured))
    lines = results.table(tmp_path).splitlines()
    row = next(line for line in lines if line.startswith("| `denoising`"))
    assert "| 0.08301 | .0839, keras.io | at most 0.083: short | 2 | 2 min |" in row
    assert sum(line.startswith("|") for line in lines) == 2 + len(results.RUNS["denoising"].metrics)
    assert "![denoising: denoising_levels](results/denoising-denoising_levels.png)" in lines


def test_the_training_time_is_computed_from_the_log(tmp_path):
    run, docs = tmp_path / "run", tmp_path / "docs"
    run.mkdir()
    rows = [
        {"step": 10, "split": "train", "images_per_second": 100.0},
        {"step": 10, "split": "validation", "loss": 1.0},
        {"step": 20, "split": "train", "images_per_second": 50.0},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "metrics.json").write_text(json.dumps({"mse": 0.5}))
    config = load_config("dense")
    config.batch_size = 20
    workdir.Run(run, parse(config), "0123abcd", {}, {}, "id", {}).write()
    (run / "reconstructions.png").write_bytes(b"an image")
    results.keep("dense", run, docs)
    kept = json.loads((docs / "dense.json").read_text())
    assert kept["training_seconds"] == 10 * 20 / 100 + 10 * 20 / 50
    assert (docs / "dense-reconstructions.png").read_bytes() == b"an image"


def test_metrics_of_another_step_than_the_last_are_measured_again(tmp_path):
    assert not metrics_log.is_measured(tmp_path)
    rows = [json.dumps({"step": step, "split": "validation", "loss": 1}) for step in (10, 20, 30)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(rows)[:-1])  # the last is cut short
    assert not metrics_log.is_measured(tmp_path)
    for step, measured in ((10, False), (20, True)):
        (tmp_path / "metrics.json").write_text(json.dumps({"step": step}))
        assert metrics_log.is_measured(tmp_path) == measured
