"""PCA of the training examples, against scikit-learn's."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from trainer.data import pca as pca_module
from trainer.data.dataset import Records
from trainer.data.pca import TrainingStatistics


def rows_like(count, size, rank=6):
    """Rows near a subspace, whose components have well separated variances."""
    random = np.random.default_rng(0)
    scores = random.normal(size=(count, rank)) * 2.0 ** -np.arange(rank)
    return (scores @ random.normal(size=(rank, size))).astype(np.float32)


def projections(pca, rows):
    scores = (rows - pca.mean) @ pca.encoder_map
    return scores, scores @ pca.decoder_map + pca.mean


@pytest.mark.parametrize("max_exact", [4096, 10], ids=["exact", "sampled"])
def test_the_components_are_those_of_scikit_learn(max_exact, monkeypatch):
    monkeypatch.setattr(pca_module, "_MAX_EXACT", max_exact)
    images = (127 + 20 * rows_like(60, 12)).clip(0, 255).astype(np.uint8).reshape(60, 3, 4, 1)
    rows = images.reshape(60, -1) / 255
    pca, known = TrainingStatistics(images).pca(5), PCA(5).fit(rows)
    scores, projected = projections(pca, rows)
    np.testing.assert_allclose(projected, known.inverse_transform(known.transform(rows)), atol=1e-5)
    np.testing.assert_allclose(np.abs(scores), np.abs(known.transform(rows)), atol=1e-5)
    np.testing.assert_allclose(pca.variances, known.explained_variance_ * 59 / 60, rtol=1e-5)


def test_rows_in_files_give_the_same_bits_as_rows_in_memory(monkeypatch):
    monkeypatch.setattr(pca_module, "BLOCK_ROWS", 7)
    rows = np.random.default_rng(0).normal(1e6, 1, (30, 5)).astype(np.float32)
    in_memory = TrainingStatistics(rows).pca(2)
    in_files = TrainingStatistics(Records(lambda index: rows[index], np.arange(30))).pca(2)
    for name, array in vars(in_memory).items():
        np.testing.assert_array_equal(array, getattr(in_files, name))


@pytest.mark.parametrize("count", [3, 40])
def test_components_beyond_the_rank_are_zero(count):
    rows = np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)
    pca = TrainingStatistics(rows).pca(6)
    np.testing.assert_allclose(projections(pca, rows)[1], rows, atol=1e-5)
    assert not pca.variances[4:].any() and not pca.encoder_map[:, 4:].any()
    assert pca.decoder_map.shape == (6, 4)


@pytest.mark.parametrize("repeats", [1, 3])
def test_components_beyond_the_rank_of_few_large_examples_are_zero(repeats):
    different = np.random.default_rng(0).integers(0, 256, (7, 40, 40, 3), np.uint8)
    images = different.repeat(repeats, axis=0)
    pca = TrainingStatistics(images).pca(15)
    rows = images.reshape(len(images), -1) / 255
    np.testing.assert_allclose(projections(pca, rows)[1], rows, atol=1e-4)
    assert not pca.variances[6:].any() and not pca.encoder_map[:, 6:].any()
    others = np.random.default_rng(1).random((5, 4800))
    assert np.square(projections(pca, others)[1] - others).mean() < 0.2


def test_large_images_have_the_components_of_images_averaged_over_squares(monkeypatch):
    # Images of equal pixels in each square of 2x2, cut off at the border, lose nothing.
    monkeypatch.setattr(pca_module, "_MAX_EXACT", 10)
    monkeypatch.setattr(pca_module, "_MAX_SAMPLED", 30)
    small = rows_like(50, 18).reshape(50, 3, 3, 2)
    images = small.repeat(2, axis=1).repeat(2, axis=2)[:, :5]
    rows = images.reshape(50, -1)
    pca, known = TrainingStatistics(images).pca(4), PCA(4).fit(small.reshape(50, -1))
    expected = known.inverse_transform(known.transform(small.reshape(50, -1)))
    expected = expected.reshape(small.shape).repeat(2, axis=1).repeat(2, axis=2)[:, :5]
    scores, projected = projections(pca, rows)
    np.testing.assert_allclose(projected, expected.reshape(50, -1), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(pca.decoder_map, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(scores.var(axis=0), pca.variances, rtol=1e-4)
