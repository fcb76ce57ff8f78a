"""Maps of codes: the methods, what is coloured, how many points, and the table."""

import importlib.util
import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

from tests.serving.conftest import vectors
from tests.verbs.refusals import refused
from trainer.evaluation.evaluate import evaluate
from trainer.monitoring import figures
from trainer.serving import code_map
from trainer.serving.code_map import draw_map, project
from trainer.serving.options import StreamOptions
from trainer.serving.stream import encode

HAS_UMAP = importlib.util.find_spec("umap") is not None
UMAP = pytest.param(
    "umap",
    marks=[pytest.mark.slow, pytest.mark.skipif(not HAS_UMAP, reason="umap-learn is missing")],
)


def test_short_codes_stay_as_they_are_and_pca_keeps_the_distances_in_a_plane():
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(50, 2)) * (3, 1)
    for codes in (plane, plane[:, :1]):
        points, axes = project(codes, "")
        np.testing.assert_array_equal(points[:, : codes.shape[1]], codes)
        assert points.shape == (50, 2) and "of the code" in axes[0]
    turned = plane @ np.linalg.qr(rng.normal(size=(5, 5)))[0][:2]
    points, axes = project(turned, "")
    before, after = (np.linalg.norm(rows[:, None] - rows, axis=-1) for rows in (plane, points))
    np.testing.assert_allclose(after, before, atol=1e-9)
    assert np.std(points[:, 0]) > np.std(points[:, 1])
    assert sum(int(axis.split()[3].strip("%")) for axis in axes) == pytest.approx(100, abs=1)


@pytest.mark.parametrize("method", ["tsne", UMAP])
def test_neighbours_of_other_methods_are_of_one_class_and_the_same_each_time(method):
    pixels, labels = load_digits(n_class=3, return_X_y=True)
    points, _ = project(pixels[:150], method)
    distances = np.linalg.norm(points[:, None] - points, axis=-1)
    nearest = distances.argsort(axis=1)[:, 1]
    assert np.mean(labels[nearest] == labels[:150]) > 0.95
    np.testing.assert_array_equal(points, project(pixels[:150], method)[0])


@pytest.mark.parametrize("method", ["", "pca", "tsne"])
@pytest.mark.parametrize("shape", [(2, 1), (2, 5), (3, 2), (4, 3)])
def test_few_codes_have_a_map(method, shape):
    codes = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    points, _ = project(codes, method)
    assert points.shape == (shape[0], 2) and np.isfinite(points).all()
    with refused("are equal: there is no map"):
        project(np.ones(shape, np.float32), method)


def drawn(run, source, folder, **arguments):
    return pd.read_csv(draw_map(run, source, output=str(folder), **arguments) / "map.csv")


@pytest.mark.parametrize("maximum", [10_000, 60, 25])
def test_the_table_holds_evenly_spaced_rows_of_what_encode_writes(
    table_run, tmp_path, maximum, monkeypatch, capsys
):
    monkeypatch.setattr(code_map, "MAX_POINTS", maximum)
    source = f"{table_run}/../test.csv"
    encode(table_run, source, str(tmp_path / "codes.csv"), StreamOptions(errors=True))
    whole = pd.read_csv(tmp_path / "codes.csv")
    points = drawn(table_run, source, tmp_path)
    step = {25: 4}.get(maximum, 1)  # the length of text files is not known before the end
    assert points["number"].tolist() == list(range(0, 60, step))
    for name in ("label", "error"):
        assert points[name].tolist() == whole[name][::step].tolist()
    assert ("one in 4 of 60 examples" in capsys.readouterr().out) == (step == 4)


def test_classes_or_errors_colour_the_points(vector_run, tmp_path, monkeypatch):
    labels = []

    def scatter(*_, values_label, **__):
        labels.append(values_label)
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr(figures, "scatter", scatter)
    np.save(tmp_path / "rows.npy", vectors())
    for source, colour in (("test", ""), ("test", "error"), (f"{tmp_path}/rows.npy", "")):
        drawn(vector_run, source, tmp_path / str(len(labels)), colour=colour)
    error = "mean squared error of the reconstruction"
    assert labels == ["class", error, error]
    with refused("have no labels", tmp_path):
        drawn(vector_run, f"{tmp_path}/rows.npy", tmp_path / "none", colour="class")


def test_distances_colour_the_points_of_an_evaluated_run(vector_run, tmp_path, monkeypatch):
    run = shutil.copytree(vector_run, tmp_path / "run")
    with refused("colour='distance' is not possible: it needs trainer.evaluate", tmp_path):
        drawn(str(run), "test", tmp_path, colour="distance")
    evaluate(str(run))
    values = []

    def scatter(_, given, **__):
        values.append(given)
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr(figures, "scatter", scatter)
    table = drawn(str(run), "test", tmp_path, colour="distance")
    np.testing.assert_allclose(values[0], table["distance"], rtol=1e-6)
