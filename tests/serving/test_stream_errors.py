"""Errors of examples: their own, PCA's, distances from the training rows, and the anomalies."""

import json
import shutil

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

from trainer.data.dataset import to_unit
from trainer.distribution.inference import map_batches
from trainer.evaluation.anomaly_options import AnomalyOptions
from trainer.evaluation.evaluate import evaluate
from trainer.run import restore
from trainer.run.distances import fit_distances
from trainer.serving.options import StreamOptions
from trainer.serving.stream import decode, encode


def test_errors_are_mean_squares_of_what_the_model_takes(image_run, vector_run, tmp_path):
    for run, codes in ((image_run, "image.npz"), (vector_run, "vector.npz")):
        encode(run, "validation", str(tmp_path / codes), StreamOptions(errors=True))
        trained = restore.load(run)
        rows = to_unit(trained.dataset.validation.read()[0])
        outputs = map_batches(trained.model, rows)
        squares = np.square(outputs - rows).mean(axis=tuple(range(1, rows.ndim)))
        with np.load(tmp_path / codes) as written:
            np.testing.assert_allclose(written["errors"], squares, rtol=1e-4)


def test_an_evaluated_run_marks_anomalies_and_compares_with_pca_and_the_training_rows(
    vector_run, tmp_path, capsys
):
    run = shutil.copytree(vector_run, tmp_path / "run")
    metrics = evaluate(str(run), anomalies=AnomalyOptions(error_quantile=0.5))
    options = StreamOptions(errors=True, squared_errors=True)
    encode(str(run), "validation", str(tmp_path / "codes.npz"), options)
    trained = restore.load(run)
    train, rows = (
        to_unit(s.read()[0]) for s in (trained.dataset.train, trained.dataset.validation)
    )
    pca = PCA(trained.model.code_size).fit(train)
    pca_errors = np.square(pca.inverse_transform(pca.transform(rows)) - rows).mean(axis=1)
    codes, residuals = [], []
    for some in (train, rows):
        codes.append(map_batches(trained.model.encode, some))
        residuals.append(some - map_batches(trained.model, some))
    distances = fit_distances(residuals[0], codes[0]).of(residuals[1], codes[1])
    with np.load(tmp_path / "codes.npz") as written:
        np.testing.assert_allclose(written["pca_errors"], pca_errors, rtol=1e-3)
        np.testing.assert_allclose(written["distances"], distances, rtol=1e-3)
        np.testing.assert_allclose(
            written["squared_errors"].mean(axis=1), written["errors"], rtol=1e-5
        )
        above = written["errors"] > metrics["error_threshold"]
        np.testing.assert_array_equal(written["is_anomaly"], above)
        is_distant = distances > np.quantile(distances, 0.5)
        np.testing.assert_array_equal(written["is_anomaly_by_distance"], is_distant)
        assert 0 < np.count_nonzero(above) <= len(above) / 2
    assert 0 < metrics["test_distances_above_threshold"] < metrics["test_examples"]
    encode(str(run), "validation", str(tmp_path / "codes.csv"), options)
    table = pd.read_csv(tmp_path / "codes.csv")
    errors = {"error", "pca_error", "distance", "is_anomaly", "is_anomaly_by_distance"}
    assert errors <= set(table)
    assert sum(name.startswith("squared_error_") for name in table) == rows.shape[1]
    assert table["is_anomaly"].tolist() == above.tolist()
    for name in ("codes.npz", "codes.csv"):  # are read without the errors
        assert decode(str(run), str(tmp_path / name), str(tmp_path / f"{name}.npz")) == len(rows)
    (run / "metrics.json").write_text(json.dumps(metrics | {"step": 0}))
    with np.load(run / "distances.npz") as kept:
        np.savez(run / "distances.npz", **dict(kept) | {"step": 0})
    capsys.readouterr()
    encode(str(run), "validation", str(tmp_path / "later.csv"), options)
    later = set(pd.read_csv(tmp_path / "later.csv"))
    assert errors & later == {"error", "pca_error"}
    assert "another checkpoint was evaluated" in capsys.readouterr().out
