"""The page of the comparison with the papers."""

import json

from benchmarks import results
from tests.all_configs import CONFIGS, load_config
from trainer.config import parse
from trainer.run import metrics_log, workdir


def row_of(tmp_path, seeds):
    """The cells of `linear`'s first row, of runs with these errors."""
    measured = {
        "num_epochs": 3.0,
        "training_seconds": 120.0,
        "seeds": [{"mse": mse, "largest_angle_degrees": 0.5} for mse in seeds],
    }
    (tmp_path / "linear.json").write_text(json.dumps(measured))
    page = results.table(tmp_path)
    return [cell.strip() for cell in page[page.index("| `linear`") :].split("|")[1:10]]


def test_several_seeds_have_their_mean_and_range_and_the_mean_is_held_to_the_goal(tmp_path):
    cells = row_of(tmp_path, [0.0160, 0.0172, 0.0166])
    assert cells[3:5] == ["0.0166 (0.016 to 0.0172)", "3"]
    assert cells[6].endswith("reached")
    assert row_of(tmp_path, [0.0160, 0.0180])[6].endswith("short")


def test_one_seed_has_its_value(tmp_path):
    cells = row_of(tmp_path, [0.0170])
    assert (cells[3:5], cells[7:]) == (["0.017", "1"], ["3", "2 min"])
    assert cells[6].endswith("short")


def test_every_row_of_results_is_of_a_config():
    assert set(results.RUNS) <= set(CONFIGS)


def test_a_result_is_shown_with_its_goal_and_whether_it_is_reached(tmp_path):
    figures = {"denoised_bce": 0.08301, "denoised_mse": 0.01, "noisy_mse": 1, "noisy_pca_mse": 1}
    measured = {"seeds": [figures], "num_epochs": 2.0, "training_seconds": 90.0}
    (tmp_path / "denoising.json").write_text(json.dumps(measured))
    lines = results.table(tmp_path).splitlines()
    row = next(line for line in lines if line.startswith("| `denoising`"))
    assert "| 0.08301 | 1 | .0839, keras.io | at most 0.083: short | 2 | 90 s |" in row
    assert sum(line.startswith("|") for line in lines) == 2 + len(results.RUNS["denoising"].metrics)


def test_the_training_time_is_computed_from_the_log(tmp_path):
    run, docs = tmp_path / "run", tmp_path / "docs"
    run.mkdir()
    rows = [
        {"step": 10, "split": "train", "loss": 2.0, "images_per_second": 100.0},
        {"step": 10, "split": "validation", "loss": 1.0},
        {"step": 20, "split": "train", "loss": 1.5, "images_per_second": 50.0},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "metrics.json").write_text(json.dumps({"mse": 0.5}))
    config = load_config("dense")
    config.batch_size = 20
    workdir.Run(run, parse(config), "0123abcd", {}, {}, "id", {}).write()
    (run / "reconstructions.png").write_bytes(b"an image")
    results.keep("dense", [run], docs)
    kept = json.loads((docs / "dense.json").read_text())
    assert kept["training_seconds"] == 10 * 20 / 100 + 10 * 20 / 50
    assert (docs / "dense-reconstructions.png").read_bytes() == b"an image"


def test_metrics_from_before_the_last_step_are_measured_again(tmp_path):
    assert not metrics_log.is_measured(tmp_path)
    rows = [json.dumps({"step": step, "split": "validation", "loss": 1}) for step in (10, 20, 30)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(rows)[:-1])  # the last is cut short
    assert not metrics_log.is_measured(tmp_path)
    for step, measured in ((10, False), (20, True)):
        (tmp_path / "metrics.json").write_text(json.dumps({"step": 5, "newest_step": step}))
        assert metrics_log.is_measured(tmp_path) == measured
