import json
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from configs import base
from trainer.errors import UserError
from trainer.evaluation import compare as comparison

ROOT = Path(__file__).parents[2]
MEASURED = {
    "step": 20,
    "code_size": 8,
    "test_images": 100,
    "mse": 0.02,
    "pca_mse": 0.04,
    "mse_to_pca": 0.5,
    "probe_accuracy": 0.9,
    "pca_probe_accuracy": 0.85,
    "knn_accuracy": 0.95,
}


def make_run(folder, metrics=None, *, data="digits", fingerprint="a" * 64, steps=20):
    """A workdir as training leaves it, and evaluation where there are metrics."""
    folder.mkdir(parents=True)
    config = base.get_config().to_dict()
    config["data"]["name"] = data
    config["batch_size"] = 50
    described = {"config": config, "data_fingerprint": fingerprint, "versions": {}}
    (folder / "config.json").write_text(json.dumps(described | {"executions": {"CPU x 1": "xla"}}))
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


def test_a_run_stands_beside_pca_with_its_accuracy_and_speed(tmp_path):
    run = make_run(tmp_path / "runs" / "a", MEASURED)
    text = compare(run, output=tmp_path / "out")
    # 10 steps of 50 images at 1,000 a second and 10 at 250: 0.5 + 2 seconds for 1,000 images.
    assert cells(text) == [
        {
            "run": "a",
            "kind": "dense",
            "code": "8",
            "mse": "0.02000",
            "PCA's mse": "0.04000",
            "of PCA's": "0.500",
            "probe": "90.0%",
            "PCA's probe": "85.0%",
            "5 neighbours": "95.0%",
            "images/s": "400",
            "training, s": "2.5",
            "on": "CPU x 1",
        }
    ]
    written = (tmp_path / "out" / "compare.md").read_text()
    assert cells(written) == cells(text)
    assert "](compare.png)" in written
    assert imread(tmp_path / "out" / "compare.png").ndim == 3


def test_runs_are_in_the_order_of_their_codes_and_named_from_what_holds_them(tmp_path):
    for name, code_size, mse in (("a", 32, 0.01), ("b", 8, 0.03), ("deep/c", 8, 0.02)):
        make_run(tmp_path / name, MEASURED | {"code_size": code_size, "mse": mse})
    text = compare(tmp_path / "a", tmp_path / "b", tmp_path / "deep", output=tmp_path)
    assert [row["run"] for row in cells(text)] == ["deep/c", "b", "a"]


def test_runs_on_different_data_have_a_table_and_plots_each_and_it_is_said(tmp_path):
    make_run(tmp_path / "a", MEASURED)
    make_run(tmp_path / "b", MEASURED)
    one = compare(tmp_path / "a", tmp_path / "b", output=tmp_path / "one")
    assert "different data" not in one
    make_run(tmp_path / "c", MEASURED, data="mnist", fingerprint="b" * 64)
    text = compare(tmp_path / "a", tmp_path / "b", tmp_path / "c", output=tmp_path / "two")
    assert "on 2 different data" in text
    assert "## digits, 100 test images (data aaaaaaaa)" in text
    assert "## mnist, 100 test images (data bbbbbbbb)" in text
    heights = [imread(tmp_path / name / "compare.png").shape[0] for name in ("one", "two")]
    assert heights[1] == 2 * heights[0]


def test_runs_measured_on_another_number_of_images_are_not_mixed(tmp_path):
    make_run(tmp_path / "a", MEASURED)
    make_run(tmp_path / "b", MEASURED | {"test_images": 7})
    text = compare(tmp_path, output=tmp_path / "out")
    assert "digits, 100 test images" in text
    assert "digits, 7 test images" in text


def test_a_run_without_labels_or_pca_has_empty_cells(tmp_path):
    bare = {key: MEASURED[key] for key in ("step", "code_size", "test_images", "mse")}
    make_run(tmp_path / "a", bare | {"mse": 0.0})
    row = cells(compare(tmp_path, output=tmp_path / "out"))[0]
    assert row["mse"] == "0.00000"
    assert [row[name] for name in ("PCA's mse", "of PCA's", "probe", "5 neighbours")] == [""] * 4


def test_a_run_that_is_not_evaluated_is_listed_with_what_it_logged(tmp_path):
    make_run(tmp_path / "a", MEASURED)
    make_run(tmp_path / "b")
    make_run(tmp_path / "c", steps=0)
    text = compare(tmp_path, output=tmp_path / "out")
    assert [row["run"] for row in cells(text)] == ["a"]
    assert "Not evaluated, which --evaluate does:" in text
    assert f"- {tmp_path / 'b'} at step 20, validation loss 0.12500" in text
    assert f"- {tmp_path / 'c'}, which has logged nothing" in text


def test_a_run_measured_before_its_last_step_is_named(tmp_path):
    make_run(tmp_path / "a", MEASURED, steps=30)
    assert "is measured at step 20 of 30" in compare(tmp_path, output=tmp_path / "out")


@pytest.mark.parametrize("sizes", [(8,), (8, 16)])
def test_a_code_stands_inside_its_axis_and_no_accuracy_is_above_100_percent(tmp_path, sizes):
    for size in sizes:
        metrics = MEASURED | {"code_size": size, "probe_accuracy": 1.0, "knn_accuracy": 0.999}
        make_run(tmp_path / str(size), metrics)
    runs = [comparison._read(tmp_path / str(size), str(size)) for size in sizes]
    row = Figure().subfigures(1, 1, squeeze=False)[0, 0]
    comparison._plot(row, [run for run in runs if isinstance(run, comparison.MeasuredRun)])
    error, accuracy, _ = row.axes
    for axis in (error, accuracy):
        left, right = axis.get_xlim()
        # As far to the left of the smallest as to the right of the largest, in a logarithmic scale.
        assert sizes[0] / left == pytest.approx(right / sizes[-1])
        assert sizes[0] / left > 1
    assert accuracy.get_ylim()[1] == 1


def test_names_that_markdown_or_matplotlib_would_read_are_shown_as_they_are(tmp_path):
    make_run(tmp_path / "_a$^$ | b", MEASURED)
    assert cells(compare(tmp_path, output=tmp_path / "out"))[0]["run"] == r"_a$^$ \| b"


def test_a_run_named_twice_is_compared_once_and_what_is_none_is_left_out(tmp_path):
    run = make_run(tmp_path / "a", MEASURED)
    (tmp_path / "notes").mkdir()
    files = [tmp_path / name for name in ("read.me", "compare.md", "compare.png")]
    for path in files:
        path.touch()
    runs, others = comparison.find(list(map(str, [run, tmp_path, *files])))
    assert runs == [run]
    assert others == [tmp_path / "notes", tmp_path / "read.me"]  # a comparison lies beside its runs


def test_what_cannot_be_compared_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for names, message in (
        ([], "name the workdirs"),
        (["empty"], "holds no run: there is no config.json"),
        (["none"], "does not exist"),
        (["file"], "none of these is a workdir"),
    ):
        with pytest.raises(UserError, match=message):
            comparison.find([str(tmp_path / name) for name in names])


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ("{", "metrics.json cannot be read"),
        ('{"step": 3}', "metrics.json lacks a figure"),
        (json.dumps(MEASURED | {"mse": None}), "metrics.json is damaged: mse=None is none that"),
        (json.dumps(MEASURED | {"code_size": 0}), "metrics.json is damaged: code_size=0 is none"),
        (json.dumps(MEASURED | {"step": "20"}), "metrics.json is damaged: step='20' is none that"),
        ("[" * 10**5, "metrics.json cannot be read"),
        (None, "no run is evaluated, which --evaluate does: .*a at step 20"),
    ],
)
def test_runs_without_figures_are_refused_and_nothing_is_written(metrics, message, tmp_path):
    run = make_run(tmp_path / "a")
    if metrics:
        (run / "metrics.json").write_text(metrics)
    with pytest.raises(UserError, match=message):
        compare(run, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("batch_size", None, "there is no batch_size in it"),
        ("batch_size", "50", "batch_size='50' is not allowed; it takes a value of type int"),
        ("model", {}, r"there is no model\.name in it"),
        ("data", 5, r"there is no data\.name in it"),
    ],
)
def test_a_config_of_another_version_is_refused_in_one_line(key, value, message, tmp_path):
    run = make_run(tmp_path / "a", MEASURED)
    described = json.loads((run / "config.json").read_text())
    described["config"] = {k: v for k, v in described["config"].items() if k != key}
    described["config"] |= {} if value is None else {key: value}
    (run / "config.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match=rf"a/config.json is damaged or .*: {message}") as error:
        compare(run, output=tmp_path / "out")
    assert str(error.value).isprintable()


def test_an_output_that_cannot_be_written_is_refused(tmp_path):
    run = make_run(tmp_path / "a", MEASURED)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"output='.*file' is a file; it must name a folder"):
        compare(run, output=tmp_path / "file")


def test_evaluate_measures_what_has_not_been_and_hands_on_a_failure(tmp_path, monkeypatch):
    make_run(tmp_path / "a", MEASURED)
    make_run(tmp_path / "b")
    commands = []

    def fail(command, **_):
        commands.append(command[1:])
        return subprocess.CompletedProcess(command, 2)

    monkeypatch.setattr(subprocess, "run", fail)
    assert comparison.evaluate([tmp_path / "a", tmp_path / "b"]) == 2
    assert commands == [["-m", "trainer.evaluate", f"--workdir={tmp_path / 'b'}"]]


def test_a_failed_evaluation_is_handed_on_and_no_mistake_where_nothing_is_measured(tmp_path):
    run = make_run(tmp_path / "a")
    failing = """
import subprocess
from trainer import cli, compare
subprocess.run = lambda command, **_: subprocess.CompletedProcess(command, 1)
cli.run_on_names(compare.main)
"""
    command = [sys.executable, "-c", failing, "--evaluate", f"--output={tmp_path / 'out'}"]
    done = subprocess.run(
        [*command, str(run)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "")  # the evaluation itself has said why
    assert not (tmp_path / "out").exists()
    other = make_run(tmp_path / "b", MEASURED)
    done = subprocess.run(
        [*command, str(run), str(other)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert [row["run"] for row in cells(done.stdout)] == ["b"]


def test_flags_may_follow_the_names_and_a_mistake_is_told_in_one_line(tmp_path):
    run = make_run(tmp_path / "a", MEASURED)
    command = [sys.executable, "-X", "importtime", "-m", "trainer.compare"]
    flags = [str(run), f"--output={tmp_path / 'out'}"]
    done = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "| a   | dense |" in done.stdout
    assert f"picture    {tmp_path / 'out' / 'compare.png'}" in done.stdout
    assert "tensorflow" not in done.stderr
    for wrong in ([], [str(tmp_path / "none")], [str(run), "--outputs=x"]):
        done = subprocess.run(
            [sys.executable, "-m", "trainer.compare", *wrong],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.splitlines()) == 1
