import json
import math

import numpy as np
import pytest
from sklearn.decomposition import PCA

from configs import base
from trainer import data
from trainer.config import make_data
from trainer.data.dataset import to_unit
from trainer.errors import UserError
from trainer.evaluation.evaluate import (
    PICTURE,
    code_metrics,
    evaluate,
    print_table,
    reconstruction_metrics,
)
from trainer.run import workdir
from trainer.train import train


def test_a_reconstruction_off_by_a_tenth_has_its_figures():
    # mse = .1^2; psnr = 10 log10(1 / .01) = 20 dB; bce = -(.5 log .6 + .5 log .4).
    images = np.full((2, 16, 16, 1), 0.5, np.float32)
    metrics = reconstruction_metrics(images, images + np.float32(0.1))
    assert metrics["mse"] == pytest.approx(0.01, rel=1e-5)
    assert metrics["psnr_db"] == pytest.approx(20, rel=1e-5)
    assert metrics["bce"] == pytest.approx(-0.5 * math.log(0.6 * 0.4), rel=1e-5)


def test_ssim_of_flat_images_is_that_of_their_means():
    # Without variance SSIM = (2 ab + c) / (a^2 + b^2 + c), c = .01^2 (Wang et al. 2004).
    images = np.full((1, 16, 16, 1), 0.5, np.float32)
    rebuilt = np.full((1, 16, 16, 1), 0.7, np.float32)
    expected = (2 * 0.5 * 0.7 + 1e-4) / (0.5**2 + 0.7**2 + 1e-4)
    assert reconstruction_metrics(images, rebuilt)["ssim"] == pytest.approx(expected, rel=1e-3)


def test_psnr_is_the_mean_over_images_and_mse_that_over_pixels():
    images = np.zeros((2, 16, 16, 1), np.float32)
    rebuilt = images + np.array([0.1, 0.01], np.float32)[:, None, None, None]
    metrics = reconstruction_metrics(images, rebuilt)
    assert metrics["psnr_db"] == pytest.approx((20 + 40) / 2, rel=1e-5)
    assert metrics["mse"] == pytest.approx((1e-2 + 1e-4) / 2, rel=1e-5)


def test_a_perfect_reconstruction_is_perfect():
    images = np.random.default_rng(0).random((3, 12, 12, 1), np.float32)
    metrics = reconstruction_metrics(images, images)
    assert metrics["mse"] == 0
    assert metrics["ssim"] == pytest.approx(1, abs=1e-6)


def test_reconstructions_beyond_0_and_1_have_a_finite_bce():
    images = np.zeros((1, 12, 12, 1), np.float32)
    assert math.isfinite(reconstruction_metrics(images, images + 2)["bce"])
    assert math.isfinite(reconstruction_metrics(images, images - 2)["bce"])


def test_labels_are_told_from_codes_that_hold_them_and_not_from_others():
    random = np.random.default_rng(0)
    labels = np.arange(400) % 4
    holding = labels[:, None] * 10 + random.normal(size=(400, 2))
    assert code_metrics(holding[:200], labels[:200], holding[200:], labels[200:]) == {
        "probe_accuracy": pytest.approx(1, abs=0.02),
        "knn_accuracy": 1,
    }
    empty = random.normal(size=(400, 2))
    for accuracy in code_metrics(empty[:200], labels[:200], empty[200:], labels[200:]).values():
        assert accuracy == pytest.approx(1 / 4, abs=0.12)


def test_the_table_tells_lists_by_what_they_hold(capsys):
    metrics = {"mse": 0.5, "levels": [0.25, 0.125], "few": [3, 1], "many": list(range(50))}
    print_table(metrics, "runs/x")
    rows = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[:4]]
    assert rows == [
        ["mse", "0.50000"],
        ["levels", "0.12500 to 0.25000 (2 in all)"],
        ["few", "3, 1"],
        ["many", "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ... (50 in all)"],
    ]


@pytest.fixture
def linear_run(tmp_path, digits_config):
    digits_config.model = base.linear()
    digits_config.model.code_size = 4
    train(digits_config, str(tmp_path))
    return tmp_path


def test_a_run_is_measured_beside_pca_on_its_own_images(linear_run):
    metrics = evaluate(str(linear_run))
    digits = data.load(make_data("digits"))
    train_rows, test_rows = (
        to_unit(part.read()[0]).reshape(len(part), -1) for part in (digits.train, digits.test)
    )
    pca = PCA(4).fit(train_rows)
    error = np.mean((pca.inverse_transform(pca.transform(test_rows)) - test_rows) ** 2)
    assert metrics["pca_mse"] == pytest.approx(error, rel=1e-3)
    assert metrics["mse_to_pca"] == pytest.approx(metrics["mse"] / error, rel=1e-3)
    assert metrics["mse_to_pca"] > 1
    labels, test_labels = (part.read()[1] for part in (digits.train, digits.test))
    assert labels is not None
    assert test_labels is not None
    of_pca = code_metrics(pca.transform(train_rows), labels, pca.transform(test_rows), test_labels)
    assert metrics["pca_probe_accuracy"] == pytest.approx(of_pca["probe_accuracy"], abs=0.01)
    assert 0 <= metrics["largest_angle_degrees"] <= 90
    assert len(metrics["component_cosines"]) == metrics["code_size"] == 4
    assert json.loads((linear_run / workdir.METRICS).read_text()) == metrics
    assert (linear_run / PICTURE).read_bytes().startswith(b"\x89PNG")


def test_no_more_images_are_measured_than_memory_takes(tmp_path, digits_config):
    size = digits_config.data.image_size or 28
    digits_config.data.memory_gib = 8 * 100 * 4 * size**2 / 2**30
    train(digits_config, str(tmp_path))
    assert evaluate(str(tmp_path))["test_images"] == 100


def test_the_best_checkpoint_can_be_measured(linear_run):
    rows = [json.loads(line) for line in (linear_run / workdir.METRICS_LOG).open()]
    validated = {row["step"]: row["loss"] for row in rows if row["split"] == "validation"}
    assert evaluate(str(linear_run), "best")["step"] == min(validated, key=validated.__getitem__)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        evaluate(str(tmp_path))


def test_a_config_that_is_damaged_is_refused(linear_run):
    (linear_run / workdir.CONFIG).write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        evaluate(str(linear_run))


def test_other_images_are_refused(linear_run, monkeypatch):
    monkeypatch.setattr(data.Dataset, "fingerprint", lambda _: "other")
    with pytest.raises(UserError, match="not those"):
        evaluate(str(linear_run))
