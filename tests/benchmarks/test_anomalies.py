"""The comparison of detectors: its data sets, its protocols and its table."""

import json

import numpy as np

from benchmarks import anomalies, anomaly_sets


def test_every_data_set_without_a_network_draws_its_share_of_anomalies():
    tables = dict(anomaly_sets.load(None))
    assert len(tables) == 8
    for name, table in tables.items():
        normal, anomalous = table.draw(np.random.default_rng(0))
        share = len(anomalous) / (len(normal) + len(anomalous))
        assert abs(share - table.share) < 0.01, name
        assert np.isfinite(normal).all() and normal.shape[1] == anomalous.shape[1]


def test_a_table_of_keel_has_numbers_and_classes(tmp_path):
    (tmp_path / "a.dat").write_text("@relation a\n@data\n1, 2.5, x\n3, 4, y\n")
    rows, classes = anomaly_sets.read_keel(tmp_path / "a.dat")
    assert rows.tolist() == [[1, 2.5], [3, 4]]
    assert classes.tolist() == ["x", "y"]


def test_normal_rows_are_fitted_or_all_rows():
    table = anomaly_sets.Table(np.arange(10.0)[:, None], 100 + np.arange(9.0)[:, None], 0.5)
    for protocol, _, (train, test, is_anomaly) in anomalies.draws(table, 1):
        assert (train >= 100).any() == (protocol == "unlabelled")
        assert np.array_equal(test[:, 0] >= 100, is_anomaly)


def test_the_page_shows_the_kept_means_of_the_seeds():
    aucs = {"unlabelled": (0.5, 0.75), "normal": (0.75, 1)}
    kept = [
        {"data": "a", "protocol": protocol, "seed": seed, "detector": "x", "auc": auc}
        | {"cpu_seconds": 1.5}
        for protocol, pair in aucs.items()
        for seed, auc in enumerate(pair)
    ]
    kept += [row | {"data": anomaly_sets.LARGE, "auc": 1.0, "cpu_seconds": 9} for row in kept]
    assert anomalies.to_markdown(kept).splitlines()[2:] == [
        "| a | .625 / .875 |",
        "| mean of 1, seeds 0, 1 | .625 / .875 |",
        f"| {anomaly_sets.LARGE} | 1.000 / 1.000 |",
        "| CPU seconds, mean | 1.50 |",
        f"| CPU seconds, {anomaly_sets.LARGE} | 9.00 |",
    ]
    text = anomalies.PAGE.read_text()
    assert anomalies.page(text, json.loads(anomalies.KEPT.read_text())) == text
