"""TensorBoard serves finished runs, and is asked over HTTP and looked at in Chromium."""

import io
import json

import numpy as np
import pytest
from matplotlib.image import imread

from configs import base
from tests.monitoring import dashboard
from tests.monitoring.test_tensorboard import interrupted_run
from trainer.evaluation.evaluate import evaluate
from trainer.monitoring import projector
from trainer.run import workdir
from trainer.training.train import train

pytestmark = pytest.mark.slow

TEST_IMAGES = 359  # of the embedded digits
ALL_STATUSES = [f"STATUS_{name}" for name in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")]
ASKED = {"allowedStatuses": ALL_STATUSES, "startIndex": 0, "sliceSize": 9, "colParams": []}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A vae, trained and evaluated, and a linear run."""
    folder = tmp_path_factory.mktemp("runs")
    changes = {
        "batch_size": 64,
        "num_epochs": 20 * 64 / 1366,
        "execution": "graph",
        "log_every_steps": 5,
        "validate_every_steps": 10,
    }
    for kind, keys in (("vae", {"hidden_units": (32,), "nll_samples": 2}), ("linear", {})):
        config = base.get_config(kind)
        config.update(changes)
        config.model.update({"code_size": 2} | keys)
        train(config, str(folder / kind))
    evaluate(str(folder / "vae"))
    return folder


@pytest.fixture(scope="module")
def board(runs):
    with dashboard.serving(runs) as served:
        yield served


@pytest.fixture(scope="module")
def browser():
    for program in (dashboard.CHROMIUM, dashboard.DRIVER):
        if not program.exists():
            pytest.skip(f"there is no {program}: apt-get install chromium chromium-driver")
    with dashboard.browsing() as opened:
        yield opened


def final_losses(run):
    rows = [json.loads(line) for line in (run / workdir.METRICS_LOG).open()]
    last = [row for row in rows if row["split"] == "validation"][-1]
    return {name: value for name, value in last.items() if name not in ("step", "split")}


def figures_of(run):
    """Returns the names of the figures of an evaluation."""
    return {path.stem for path in run.glob("*.png")}


def test_the_data_server_shows_one_value_a_step_of_an_interrupted_run(tmp_path):
    interrupted_run(tmp_path / "run")  # by the Python loader: test_tensorboard.py
    loss = {"run": "run/train", "tag": "loss"}
    image = {"run": "run/validation", "tag": "image", "sample": "0"}
    steps = list(range(1, 8))
    with dashboard.serving(tmp_path) as board:
        dashboard.until(  # the runs are read one after the other
            lambda: (
                [point[1:] for point in board.get("data/plugin/scalars/scalars", **loss)]
                == [[step, step] for step in steps]
                and [shown["step"] for shown in board.get("data/plugin/images/images", **image)]
                == steps
            )
        )
        assert len(board.get("data/plugin/text/text", run="run/train", tag="config")) == 1
        (row,) = board.post("data/plugin/hparams/session_groups", ASKED)["sessionGroups"]
        assert row["hparams"]["batch_size"] == 64


def test_losses_are_charts_and_every_chart_of_the_layout_has_its_tags(board):
    tags = board.get("data/plugin/scalars/tags")
    losses = {"loss", "loss/reconstruction_nats", "loss/kl_nats"}
    assert set(tags["vae/validation"]) == losses < set(tags["vae/train"])
    points = board.get("data/plugin/scalars/scalars", run="vae/validation", tag="loss")
    assert [step for _, step, _ in points] == [10, 20]
    layout = board.get("data/plugin/custom_scalars/layout")["category"]
    assert [category["title"] for category in layout] == ["losses", "optimisation", "speed"]
    for category in layout:
        for chart in category["chart"]:
            (tag,) = chart["multiline"]["tag"]
            for run in ("train", "validation"):
                found = board.get("data/plugin/custom_scalars/scalars", run=f"vae/{run}", tag=tag)
                expected = run == "train" or category["title"] == "losses"
                assert bool(found["tag_to_events"]) == expected, chart["title"]


def test_images_text_and_graph_are_there(board, runs):
    tags = board.get("data/plugin/images/tags")
    assert {run: set(images) for run, images in tags.items()} == {
        "vae/validation": {"reconstructions", "prior_samples", "manifold", "filters"},
        "vae/test": figures_of(runs / "vae"),
        "linear/validation": {"reconstructions", "filters"},
    }
    assert "largest_errors" in tags["vae/test"]
    where = {"run": "vae/validation", "tag": "manifold", "sample": "0"}
    assert [image["step"] for image in board.get("data/plugin/images/images", **where)] == [10, 20]
    assert board.get("data/plugin/text/tags") == {
        "vae/train": ["config"],
        "vae/test": ["metrics"],
        "linear/train": ["config"],
    }
    (metrics,) = board.get("data/plugin/text/text", run="vae/test", tag="metrics")
    assert "elbo_nats" in metrics["text"]
    graph = board.read("data/plugin/graphs/graph", run="vae/train").decode()
    assert "encoder" in graph and "decoder" in graph


def test_the_table_of_runs_has_a_row_for_each_with_its_final_losses(board, runs):
    groups = board.post("data/plugin/hparams/session_groups", ASKED)["sessionGroups"]
    rows = {group["name"]: group for group in groups}
    assert rows.keys() == {"vae/validation", "linear/validation"}
    for kind in ("vae", "linear"):
        row = rows[f"{kind}/validation"]
        assert row["hparams"]["model.name"] == kind
        assert row["hparams"]["batch_size"] == 64
        assert "log_every_steps" not in row["hparams"]
        assert [session["status"] for session in row["sessions"]] == ["STATUS_SUCCESS"]
        losses = {metric["name"]["tag"]: metric["value"] for metric in row["metricValues"]}
        assert losses == pytest.approx(final_losses(runs / kind))


def test_the_projector_has_the_test_codes_their_labels_and_images(board):
    assert board.get("data/plugin/projector/runs") == ["vae/test"]
    asked = {"run": "vae/test", "name": "codes"}
    (embedding,) = board.get("data/plugin/projector/info", run="vae/test")["embeddings"]
    codes = np.frombuffer(board.read("data/plugin/projector/tensor", **asked), np.float32)
    assert codes.shape == (3 * TEST_IMAGES,)
    names, *rows = board.read("data/plugin/projector/metadata", **asked).decode().splitlines()
    assert names.split("\t")[0] == "label"
    assert {row.split("\t")[0] for row in rows} == set("0123456789")
    sheet = imread(io.BytesIO(board.read("data/plugin/projector/sprite_image", **asked)))
    side = 19  # the least whose square holds all
    assert embedding["sprite"]["singleImageDim"] == [28, 28]
    assert sheet.shape[:2] == (28 * side, 28 * side)


def test_the_pages_of_scalars_and_of_images_show_them(board, browser):
    browser.open(f"{board.address}/#scalars")
    tags = {"loss", "loss/kl_nats", "loss/reconstruction_nats", "loss/mse"}
    dashboard.until(lambda: tags <= set(browser.texts("tf-card-heading .name, .heading-label")))
    browser.open(f"{board.address}/#images")
    tags = {"filters", "manifold", "prior_samples", "reconstructions"}
    dashboard.until(lambda: tags == {text.split("\n")[0] for text in browser.texts(".heading")})
    dashboard.until(lambda: browser.count("img", "element.naturalWidth > 0") >= 3)


def test_the_hparams_page_has_a_row_for_each_run(board, browser, runs):
    browser.open(f"{board.address}/#hparams")
    dashboard.until(lambda: "vae/validation" in browser.texts("vaadin-grid-cell-content"))
    cells = browser.texts("vaadin-grid-cell-content")
    assert "linear/validation" in cells
    assert {"model.name", "loss", "loss/kl_nats"} <= set(cells)
    shown = [float(cell) for cell in cells if cell.replace(".", "").isdigit()]
    for kind in ("vae", "linear"):
        loss = final_losses(runs / kind)["loss"]
        assert any(number == pytest.approx(loss, rel=1e-3) for number in shown)


def test_the_projector_page_shows_thumbnails_in_the_colours_of_their_labels(board, browser):
    browser.open(f"{board.address}/#projector")
    browser.in_frames(2)
    dashboard.until(lambda: browser.texts(".numDataPoints") == [str(TEST_IMAGES)])
    options = [" ".join(text.split()) for text in browser.texts("paper-item")]
    assert "label 10 colors" in options
    dashboard.until(lambda: label_colours(browser.screenshot()) >= 5)


def label_colours(png):
    """Counts the labels' colours in the middle of a screenshot of the page."""
    page = imread(io.BytesIO(png))[150:, 350:1050, :3]
    ink = projector.sprite(np.ones((10, 1, 1, 1), np.float32), np.arange(10))[0]
    colours = ink.reshape(-1, 3)[:10] / 255
    near = np.abs(page[:, :, np.newaxis] - colours).max(axis=-1) < 0.05
    return int((near.sum(axis=(0, 1)) >= 20).sum())
