"""The comparison of detectors: its data sets, its protocols and its table."""

import numpy as np

from benchmarks import anomalies, anomaly_sets


def test_every_data_set_without_a_network_draws_its_share_of_anomalies():
    tables = dict(anomaly_sets.load(None))
    assert len(tables) == 7
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


def test_normal_rows_are_fitted_or_all_rows_and_means_are_shown():
    table = anomaly_sets.Table(np.arange(10.0)[:, None], 100 + np.arange(9.0)[:, None], 0.5)
    for protocol, _, (train, test, is_anomaly) in anomalies.draws(table, 1):
        assert (train >= 100).any() == (protocol == "unlabelled")
        assert np.array_equal(test[:, 0] >= 100, is_anomaly)
        auc, seconds = anomalies.measure(lambda _, rows, __: rows[:, 0], train, test, is_anomaly, 0)
        assert auc == 1 and seconds < 10
    text = anomalies.to_markdown(
        {"normal": {"a": {"x": [0.5, 1], "y": [1, 1]}}}, {"x": [1], "y": [2]}
    )
    assert "| a | 0.750 | **1.000** |" in text
