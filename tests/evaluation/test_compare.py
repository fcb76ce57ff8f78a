import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from configs import base
from tests.verbs.refusals import refused
from trainer.config import parse
from trainer.evaluation import compare as comparison
from trainer.evaluation import compare_plots, evaluators
from trainer.run import workdir

ROOT = Path(__file__).parents[2]
MEASURED: dict[str, Any] = {
    "step": 20,
    "newest_step": 20,
    "code_size": 8,
    "test_examples": 100,
    "test_fingerprint": "a" * 64,
    "mse": 0.02,
    "pca_mse": 0.04,
    "mse_to_pca": 0.5,
    "probe_accuracy": 0.9,
    "pca_probe_accuracy": 0.85,
    "knn_accuracy": 0.95,
}


def make_run(folder, metrics=None, *, data="digits", fingerprint="d" * 64, steps=20):
    """A workdir as training leaves it, and evaluation where there are metrics."""
    folder.mkdir(parents=True)
    config = base.get_config().to_dict()
    config["data"]["name"] = data
    config["batch_size"] = 50
    inputs = {"image_shape": [28, 28, 1]}
    executions = {"CPU x 1": "xla"}
    workdir.Run(folder, parse(config), fingerprint, inputs, {}, "0" * 32, executions).write()
    rows = []
    if steps:
        rows = [
            {"step": 10, "split": "train", "loss": 0.3, "images_per_second": 1000.0},
            {"step": steps, "split": "train", "loss": 0.2, "images_per_second": 250.0},
            {"step": steps, "split": "validation", "loss": 0.125},
        ]
    log = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(log + '{"step": 2')  # a line under way
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def compare(*folders, output):
    return comparison.compare(comparison.find(list(map(str, folders)))[0], str(output))


def cells(text):
    """The rows of each table, as dictionaries by the columns' names."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [dict(zip(rows[0], row, strict=True)) for row in rows if row[0] != rows[0][0]][1:]


def test_a_run_is_compared_with_pca_by_error_accuracy_and_speed(tmp_path):
    run = make_run(tmp_path / "runs" / "a", MEASURED)
    text = compare(run, output=tmp_path / "out")
    # 10 steps of 50 images at 1,000 a second and 10 at 250: 0.5 + 2 seconds for 1,000 images.
    (row,) = cells(text)
    expected = {
        "run": "a",
        "kind": "dense",
        "code": "8",
        "mse": "0.02000",
        "PCA mse": "0.04000",
        "mse / PCA mse": "0.500",
        "probe": "90.0%",
        "PCA probe": "85.0%",
        "5-NN": "95.0%",
        "examples/s": "400",
        "training, s": "2.5",
        "on": "CPU x 1",
    }
    assert expected.items() <= row.items()
    assert compare(run, output=tmp_path / "out") == text  # in the place of the first
    written = (tmp_path / "out" / "compare.md").read_text()
    assert cells(written) == cells(text)
    assert "](compare.png)" in written
    assert imread(tmp_path / "out" / "compare.png").ndim == 3


def test_a_declared_metric_is_a_column_and_a_missing_one_an_empty_cell(tmp_path, monkeypatch):
    columns = [*evaluators.columns(), evaluators.Column("elbo_nats", "ELBO", ".1f")]
    columns.append(evaluators.Column("of_no_run", "of no run", ".1f"))
    monkeypatch.setattr(evaluators, "columns", lambda: columns)
    required = ("step", "code_size", "test_examples", "test_fingerprint")
    bare = {key: MEASURED[key] for key in required}
    make_run(tmp_path / "a", bare | {"mse": 0.0})  # without labels and PCA
    make_run(tmp_path / "b", MEASURED | {"elbo_nats": -90.04})
    rows = cells(compare(tmp_path, output=tmp_path / "out"))
    assert [row["ELBO"] for row in rows] == ["", "-90.0"]
    assert "of no run" not in rows[0]
    assert rows[0]["mse"] == "0.00000"
    assert [rows[0][name] for name in ("PCA mse", "mse / PCA mse", "probe", "5-NN")] == [""] * 4


def test_runs_are_ordered_by_their_codes_and_named_from_their_common_folder(tmp_path):
    for name, code_size, mse in (("a", 32, 0.01), ("b", 8, 0.03), ("deep/c$^$ |", 8, 0.02)):
        make_run(tmp_path / name, MEASURED | {"code_size": code_size, "mse": mse})
    text = compare(tmp_path / "a", tmp_path / "b", tmp_path / "deep", output=tmp_path)
    # Markdown would read the |, and Matplotlib's legend the dollars.
    assert [row["run"] for row in cells(text)] == [r"deep/c$^$ \|", "b", "a"]
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(line) for line in table}) == 1
    assert table[1].startswith("| ------------ | ----- | ---: |")


def test_runs_with_different_test_examples_have_a_table_and_plots_each(tmp_path):
    make_run(tmp_path / "a", MEASURED)
    make_run(tmp_path / "b", MEASURED, fingerprint="e" * 64)  # other training examples
    one = compare(tmp_path / "a", tmp_path / "b", output=tmp_path / "one")
    assert "different test sets" not in one
    make_run(tmp_path / "c", MEASURED | {"test_fingerprint": "b" * 64}, data="mnist")
    make_run(tmp_path / "d", MEASURED | {"test_examples": 7})
    runs = [tmp_path / name for name in "abcd"]
    text = compare(*runs, output=tmp_path / "three")
    assert "3 different test sets" in text
    assert "## digits, 100 test examples (fingerprint aaaaaaaa)" in text
    assert "## digits, 7 test examples (fingerprint aaaaaaaa)" in text
    assert "## mnist, 100 test examples (fingerprint bbbbbbbb)" in text
    heights = [imread(tmp_path / name / "compare.png").shape[0] for name in ("one", "three")]
    assert heights[1] == 3 * heights[0]


def test_runs_that_are_not_evaluated_at_their_last_step_are_listed(tmp_path):
    make_run(tmp_path / "a", MEASURED, steps=30)
    make_run(tmp_path / "b")
    make_run(tmp_path / "c", steps=0)
    text = compare(tmp_path, output=tmp_path / "out")
    assert [row["run"] for row in cells(text)] == ["a"]
    assert f"{tmp_path / 'a'} is evaluated at step 20 of 30" in text
    assert f"- {tmp_path / 'b'} at step 20, validation loss 0.12500" in text
    assert f"- {tmp_path / 'c'}, which has logged nothing" in text


def test_a_code_stands_inside_its_axis_and_no_accuracy_is_above_100_percent(tmp_path):
    metrics = MEASURED | {"probe_accuracy": 1.0, "knn_accuracy": 0.999}
    for sizes in ((8,), (8, 16)):
        runs = [
            comparison.ComparedRun(
                *(tmp_path, str(size), "dense", "digits", "a", "CPU", 20, 0.1, 400.0, 2.5),
                metrics=metrics | {"code_size": size},
            )
            for size in sizes
        ]
        row = Figure().subfigures(1, 1, squeeze=False)[0, 0]
        compare_plots.draw_row(row, "digits", runs)
        error, accuracy, _ = row.axes
        for axis in (error, accuracy):
            left, right = axis.get_xlim()
            # As far left of the smallest as right of the largest, in a logarithmic scale.
            assert sizes[0] / left == pytest.approx(right / sizes[-1])
            assert sizes[0] / left > 1
        assert accuracy.get_ylim()[1] == 1


def test_pca_stands_at_its_number_of_components_where_training_examples_are_fewer(tmp_path):
    make_run(tmp_path / "a", MEASURED)
    few = MEASURED | {"code_size": 64, "pca_components": 30}
    make_run(tmp_path / "b", few)
    rows = cells(compare(tmp_path, output=tmp_path / "out"))
    assert [(row["code"], row["PCA components"]) for row in rows] == [("8", "8"), ("64", "30")]
    values = (tmp_path, "b", "dense", "digits", "a", "CPU", 20, 0.1, 400.0, 2.5)
    row = Figure().subfigures(1, 1, squeeze=False)[0, 0]
    compare_plots.draw_row(row, "digits", [comparison.ComparedRun(*values, metrics=few)])
    error = row.axes[0]
    assert [line.get_xdata() for line in error.lines] == [[64], [30]]  # the run and PCA
    assert error.get_xlim()[0] < 30


def test_a_run_named_twice_is_compared_once_and_other_files_are_left_out(tmp_path):
    run = make_run(tmp_path / "a", MEASURED)
    (tmp_path / "notes").mkdir()
    files = [tmp_path / name for name in ("read.me", "compare.md", "compare.png")]
    for path in files:
        path.touch()
    runs, others = comparison.find(list(map(str, [run, tmp_path, *files])))
    assert runs == [run]
    assert others == [tmp_path / "notes", tmp_path / "read.me"]  # an earlier comparison is skipped


def test_names_without_runs_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for names, message in (
        ([], "name the workdirs"),
        (["empty"], "holds no run: there is no config.json"),
        (["none"], "does not exist"),
        (["file"], "none of these is a workdir"),
    ):
        with refused(message, tmp_path):
            comparison.find([str(tmp_path / name) for name in names])


def test_damaged_metrics_are_refused_and_nothing_is_written(tmp_path):
    run = make_run(tmp_path / "a")
    for metrics, named in (
        (None, f"no run is evaluated, which --evaluate does: {run} at step 20"),
        ("[" * 10**5, "metrics.json cannot be read"),
        ('{"step": 3}', "metrics.json lacks test_fingerprint, code_size, test_examples, mse"),
        (json.dumps(MEASURED | {"mse": None}), "mse=None"),
        (json.dumps(MEASURED | {"mse": math.nan}), "mse=nan"),
        (json.dumps(MEASURED | {"code_size": 0}), "code_size=0"),
        (json.dumps(MEASURED | {"step": "20"}), "step='20'"),
        (json.dumps(MEASURED | {"test_fingerprint": 1}), "test_fingerprint=1"),
    ):
        if metrics:
            (run / "metrics.json").write_text(metrics)
        with refused(named, tmp_path):
            compare(run, output=tmp_path / "out")


def test_what_is_not_evaluated_is_evaluated_and_a_failure_is_the_exit_status(tmp_path):
    code = """if True:
        import subprocess
        from trainer import cli, compare
        def fail(command, **_):
            print("ran", *command[1:])
            return subprocess.CompletedProcess(command, 1)
        subprocess.run = fail
        cli.run_on_names(compare.main)
    """

    def run_compare(*runs):  # flags may follow the names
        command = [sys.executable, "-c", code, *runs, "--evaluate", f"--output={tmp_path / 'out'}"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    run = make_run(tmp_path / "a")
    done = run_compare(run)
    assert (done.returncode, done.stderr) == (1, "")  # the evaluation itself has said why
    assert f"ran -m trainer.evaluate --workdir={run}\n" in done.stdout
    assert not (tmp_path / "out").exists()
    done = run_compare(run, make_run(tmp_path / "b", MEASURED))
    assert done.returncode == 1
    assert done.stdout.count("ran ") == 1
    assert [row["run"] for row in cells(done.stdout)] == ["b"]
    assert f"figure     {tmp_path / 'out' / 'compare.png'}" in done.stdout
