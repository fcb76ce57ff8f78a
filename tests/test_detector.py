"""The detector behaves as scikit-learn's users expect, and finds what is planted."""

from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.utils.estimator_checks import check_estimator

from trainer import AutoencoderDetector

QUICK: dict[str, Any] = {"hidden_units": (8,), "num_epochs": 10, "random_state": 0}


def curved_sheet(count, seed):
    """Rows [N, 6] on a curved sheet of two dimensions."""
    a, b = np.random.default_rng(seed).uniform(-2, 2, (2, count))
    return np.stack([a, b, np.sin(2 * a), np.cos(2 * b), a * b, a * a - b], axis=1)


@pytest.fixture(scope="module")
def rows():
    generator = np.random.default_rng(0)
    rows = curved_sheet(400, seed=1) + 0.05 * generator.normal(size=(400, 6))
    outliers = curved_sheet(12, seed=2)
    outliers[np.arange(12), generator.integers(0, 6, 12)] += 3
    return np.concatenate([rows, outliers])


@pytest.mark.slow
def test_scikit_learns_own_checks_pass():
    check_estimator(AutoencoderDetector(hidden_units=(), num_epochs=2, batch_size=64))


def test_rows_off_a_curved_sheet_are_found_though_they_were_learnt_from(rows):
    is_outlier = np.arange(len(rows)) >= 400
    detector = AutoencoderDetector(random_state=0)
    forest = IsolationForest(random_state=0)
    aucs = [roc_auc_score(is_outlier, -d.fit(rows).score_samples(rows)) for d in (detector, forest)]
    assert aucs[0] > 0.9 > aucs[1]
    assert detector.predict(rows)[is_outlier].mean() < detector.predict(rows)[~is_outlier].mean()


def test_the_share_of_outliers_among_the_fitted_rows_is_the_contamination(rows):
    detector = AutoencoderDetector(contamination=0.1, **QUICK)
    predicted = detector.fit_predict(rows)
    assert np.count_nonzero(predicted == -1) == pytest.approx(0.1 * len(rows), abs=1)
    assert np.array_equal(predicted == -1, detector.decision_function(rows) < 0)


def test_the_error_mse_is_the_mean_squared_residual_in_standard_deviations(rows):
    detector = AutoencoderDetector(error="mse", **QUICK).fit(rows)
    inner = detector.autoencoder_
    residuals = (rows - inner.inverse_transform(inner.transform(rows))) / rows.std(axis=0)
    ratio = detector.score_samples(rows) / -np.square(residuals).mean(axis=1)
    np.testing.assert_allclose(ratio, 1, rtol=0.1)  # the held-out rows do not count for the std


def test_scores_do_not_depend_on_the_units_nor_on_other_rows(rows):
    scores = AutoencoderDetector(**QUICK).fit(rows).score_samples(rows)
    units = 2.0 ** np.array([-3, 0, 5, 1, 9, 2])  # exact in float32
    rescaled = AutoencoderDetector(**QUICK).fit(rows * units)
    np.testing.assert_allclose(rescaled.score_samples(rows * units), scores, rtol=1e-4)
    alone = rescaled.score_samples(rows[7:8] * units)
    np.testing.assert_allclose(alone, scores[7:8], rtol=1e-4)


def test_a_feature_far_from_zero_counts_as_any_other(rows):
    far = rows.astype(np.float64) + np.eye(rows.shape[1])[0] * 1e9
    far[7, 0] += 30 * rows[:, 0].std()
    detector = AutoencoderDetector(**QUICK).fit(far)
    assert detector.score_samples(far).argmin() == 7
    autoencoder = detector.autoencoder_
    rebuilt = autoencoder.inverse_transform(autoencoder.transform(far))
    assert np.abs(rebuilt - far)[:, 0].mean() < 2 * rows[:, 0].std()


def test_a_mistake_is_a_value_error_that_names_it(rows):
    for settings in ({"contamination": 0.7}, {"contamination": "many"}, {"error": "l1"}):
        ((name, value),) = settings.items()
        with pytest.raises(ValueError, match=f"{name}={value!r}"):
            AutoencoderDetector(**settings).fit(rows)
    with pytest.raises(ValueError, match=r"trim_share=1\.5"):
        AutoencoderDetector(trim_share=1.5).fit(rows)
    with pytest.raises(ValueError, match="2,049 features"):
        AutoencoderDetector().fit(np.eye(3, 2049))
