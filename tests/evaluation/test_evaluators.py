"""Each measurement in closed form, on models made for it or built untrained."""

import math
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from sklearn.decomposition import PCA

from tests.all_configs import KINDS, tiny
from tests.models import small
from tests.models.small import images_like
from tests.models.test_vae import linear_gaussian
from trainer.evaluation import evaluators
from trainer.evaluation.evaluators import (
    EvaluatedModel,
    denoising_levels,
    jacobian,
    knn,
    likelihood,
    pca,
    pca_subspace,
    probe,
    reconstruction,
    samples,
    selected_features,
    sparsity,
)
from trainer.positions import Noise


def create(kind, image_shape, **settings):
    return small.create(kind, image_shape, **tiny(kind) | settings)


def evaluated(model, images, labels=None):
    return EvaluatedModel(model, images, images, labels, labels)


def encoding_as_is(codes, labels=None, **abilities):
    """A model of vectors whose codes are these vectors."""
    model: Any = SimpleNamespace(encode=tf.identity, code_size=codes.shape[1], **abilities)
    codes = codes.astype(np.float32)
    halves = np.arange(len(codes)) % 2 == 0
    train, test = (None if labels is None else labels[half] for half in (halves, ~halves))
    return EvaluatedModel(model, codes[halves], codes[~halves], train, test)


DENOISING = ["denoised_mse", "denoised_bce", "noisy_mse", "noisy_pca_mse", "noisy_pca_components"]
METRICS = {  # of each kind besides those of all
    "linear": "largest_angle_degrees component_cosines",
    "denoising": " ".join(["levels", *DENOISING, *(f"{name}_at_levels" for name in DENOISING)]),
    "sparse": "active_above active_units_mean dead_units_share explained_variance "
    "mean_activation_counts mean_activation_edges linear_classifier_error",
    "contractive": "jacobian_norm jacobian_norm_to_spread singular_values",
    "concrete": "selected_pixels mean_largest_probability linear_readout_mse "
    "extra_trees_accuracy pca_extra_trees_accuracy",
    "vae": "binarisation active_units kl_nats reconstruction_nats elbo_nats nll_nats nll_samples",
}
METRICS_OF_ALL = "mse psnr_db ssim bce pca_mse mse_to_pca " + (
    "probe_accuracy pca_probe_accuracy knn_accuracy"
)
FIGURES = {
    "denoising": "denoising_levels",
    "sparse": "activations filters",
    "contractive": "singular_values",
    "concrete": "selected_pixels",
    "vae": "prior_samples interpolations manifold",
}


def test_each_evaluator_has_an_order_of_its_own():
    orders = [evaluator.ORDER for evaluator in evaluators.load()]
    assert len(set(orders)) == len(orders)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_asked_what_it_can_answer(kind):
    images = images_like(30, (8, 8, 1))
    inputs = evaluated(create(kind, images.shape[1:]), images, np.arange(30) % 3)
    results = [one.measure(inputs) for one in evaluators.load() if one.applies(inputs)]
    metrics = [name for result in results for name in result.metrics]
    figures = {name: figure for result in results for name, figure in result.figures.items()}
    own = {other: set(names.split()) for other, names in METRICS.items()}
    assert {*METRICS_OF_ALL.split(), *own.get(kind, ())} <= set(metrics)
    assert not set(metrics) & set().union(*own.values()) - own.get(kind, set())
    assert len(metrics) == len(set(metrics))
    assert {"reconstructions", "largest_errors", *FIGURES.get(kind, "").split()} <= figures.keys()
    assert all(figure.dtype == np.uint8 and figure.ndim == 3 for figure in figures.values())


def test_without_classes_or_a_smaller_code_there_is_no_probe_and_no_pca():
    model = create("dense", (3,), code_size=3)
    for labels in (None, np.zeros(30, int)):
        inputs = evaluated(model, images_like(30, (3,)), labels)
        applying = [one for one in evaluators.load() if one.applies(inputs)]
        assert reconstruction in applying
        assert not {pca, probe, knn} & set(applying)


@pytest.mark.parametrize("mean", [0, 3e3, 1e5])
def test_pca_is_exact_whatever_the_mean(mean):
    vectors = np.random.default_rng(0).normal(size=(300, 6)) @ np.diag([4, 3, 2, 1, 0.5, 0.25])
    rows = (mean + vectors).astype(np.float32)
    inputs = evaluated(create("dense", (6,), code_size=3), rows, None)
    exact = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    known = PCA(3).fit(exact)
    rebuilt = known.inverse_transform(known.transform(exact))
    errors = np.square(rebuilt - exact).mean(axis=1)
    np.testing.assert_allclose(inputs.pca_errors, errors, rtol=1e-4, atol=1e-6)


def test_pca_has_no_more_components_than_training_images():
    few = evaluated(create("dense", (9,), code_size=5), images_like(4, (9,)), None)
    assert pca.measure(few).metrics["pca_components"] == len(few.train) < 5
    many = evaluated(create("dense", (9,), code_size=5), images_like(30, (9,)), None)
    assert "pca_components" not in pca.measure(many).metrics


def test_the_columns_are_read_without_tensorflow_and_scikit_learn():
    code = "import sys; from trainer.evaluation import evaluators; evaluators.columns(); "
    code += "print({'tensorflow', 'keras', 'sklearn', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_reconstructions_off_by_a_tenth_and_a_hundredth_have_their_metrics():
    # mse = .1^2 and .01^2; psnr = 10 log10(1 / mse) = 20 and 40 dB, a mean over the images;
    # bce = -(.5 log p + .5 log(1 - p)), p = .6 and .51.
    images = np.full((2, 16, 16, 1), 0.5, np.float32)
    errors = np.array([0.1, 0.01], np.float32)[:, None, None, None]
    metrics = reconstruction.reconstruction_metrics(images, images + errors)
    assert metrics["mse"] == pytest.approx((1e-2 + 1e-4) / 2, rel=1e-5)
    assert metrics["psnr_db"] == pytest.approx((20 + 40) / 2, rel=1e-5)
    assert metrics["bce"] == pytest.approx(-math.log(0.6 * 0.4 * 0.51 * 0.49) / 4, rel=1e-5)


def test_ssim_of_flat_images_is_that_of_their_means():
    # Without variance SSIM = (2 ab + c) / (a^2 + b^2 + c), c = .01^2 (Wang et al. 2004).
    images = np.full((1, 16, 16, 1), 0.5, np.float32)
    expected = (2 * 0.5 * 0.7 + 1e-4) / (0.5**2 + 0.7**2 + 1e-4)
    metrics = reconstruction.reconstruction_metrics(images, np.full_like(images, 0.7))
    assert metrics["ssim"] == pytest.approx(expected, rel=1e-3)
    assert reconstruction.reconstruction_metrics(images, images)["ssim"] == pytest.approx(
        1, abs=1e-6
    )


def test_reconstructions_outside_0_and_1_have_a_finite_bce_and_other_vectors_none():
    images = np.zeros((1, 12, 12, 1), np.float32)
    for rebuilt in (images + 2, images - 2):
        assert math.isfinite(reconstruction.reconstruction_metrics(images, rebuilt)["bce"])
    vectors = np.full((2, 3), 5, np.float32)
    assert reconstruction.reconstruction_metrics(vectors, vectors) == {"mse": 0}


def test_classifiers_find_classes_that_the_codes_hold_and_no_others():
    random = np.random.default_rng(0)
    labels = np.arange(400) // 2 % 4
    holding = encoding_as_is(labels[:, None] * 10 + random.normal(size=(400, 2)), labels)
    assert probe.measure(holding).metrics == {"probe_accuracy": pytest.approx(1, abs=0.02)}
    assert knn.measure(holding).metrics == {"knn_accuracy": 1}
    empty = encoding_as_is(random.normal(size=(400, 2)), labels)
    for one in (probe, knn):
        (accuracy,) = one.measure(empty).metrics.values()
        assert accuracy == pytest.approx(1 / 4, abs=0.12)


def test_classes_that_a_plane_separates_are_found_whatever_the_scale_of_a_code():
    random = np.random.default_rng(0)
    labels = np.arange(600) // 2 % 3
    codes = 2 * np.eye(3)[labels] + random.normal(0, 0.2, (600, 3))
    for scale in (1e-3, 1e3):
        assert sparsity.linear_classifier_error(encoding_as_is(scale * codes, labels)) == 0
    shuffled = encoding_as_is(codes, random.permutation(labels))
    assert sparsity.linear_classifier_error(shuffled) == pytest.approx(2 / 3, abs=0.12)


def test_dead_and_active_units_are_counted():
    codes = np.zeros((8, 60))
    codes[:, 0] = 1.0
    codes[:4, 1] = -2.0
    codes[:, 2] = 0.4
    # The decoder halves the deviations from 0; those of units 0 and 2 are 0 from the mean.
    abilities = {"active_above": 0.5, "filters": lambda: None, "decode": lambda codes: codes / 2}
    result = sparsity.measure(encoding_as_is(codes, **abilities))
    assert result.metrics["active_units_mean"] == (2 + 2 + 1 + 1) / 4
    assert result.metrics["dead_units_share"] == pytest.approx(58 / 60)
    assert sum(result.metrics["mean_activation_counts"]) == 60
    assert list(result.figures) == ["activations"]
    errors = 4 * (0.5**2 + 0.2**2) + 2 * 1.0**2
    assert result.metrics["explained_variance"] == pytest.approx(1 - errors / (4 * 1.0**2))


def test_principal_components_are_recovered_from_any_basis_of_their_span():
    # Data of variances 36, 25, ..., 1 along the axes of a random rotation; the decoder's columns
    # span the first three axes, mixed by a random matrix.
    random = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(random.normal(size=(6, 6)))
    images = random.normal(size=(5000, 6)) * np.arange(6, 0, -1) @ rotation.T
    pca = PCA(3).fit(images)
    decoder_map = pca.components_.T @ random.normal(size=(3, 3))
    recovered = pca_subspace.principal_components(decoder_map, images)
    np.testing.assert_allclose(np.abs(np.sum(recovered * pca.components_, 1)), 1, atol=1e-6)


def test_a_linear_model_is_as_far_from_pca_as_one_direction_is_turned():
    model = create("linear", (4, 4, 1), code_size=3)
    images = images_like(100, (4, 4, 1))
    components = PCA(3).fit(images.reshape(100, 16)).components_
    outside = np.linalg.svd(components)[2][-1]
    for degrees in (30, 0):
        turned, angle = components.copy(), math.radians(degrees)
        turned[0] = math.cos(angle) * turned[0] + math.sin(angle) * outside
        model.decoder.get_layer("logits").kernel.assign(turned)
        metrics = pca_subspace.measure(evaluated(model, images)).metrics
        assert metrics["largest_angle_degrees"] == pytest.approx(degrees, abs=1e-2)
    np.testing.assert_allclose(metrics["component_cosines"], 1, atol=1e-5)


def test_the_error_of_a_projection_is_that_of_its_image():
    random = np.random.default_rng(0)
    images = random.random((200, 36))
    noisy = images + random.normal(0, 0.3, images.shape)
    for components in (3, 36):
        pca = PCA(components).fit(images)
        errors = denoising_levels.Projections(pca, images).errors(noisy)
        assert len(errors) == components + 1
        for number, error in enumerate(errors):
            basis = pca.components_[:number]
            projected = pca.mean_ + (noisy - pca.mean_) @ basis.T @ basis
            assert error == pytest.approx(np.mean((projected - images) ** 2), rel=1e-4)


def test_a_masked_image_has_the_error_of_what_was_masked():
    # E (m x - x)^2 = level E x^2, where m is 0 with the chance `level`.
    images = images_like(2000, (6, 6, 1))
    model = create("denoising", (6, 6, 1), corruption="masking", corruption_level=0.25)
    metrics = denoising_levels.measure(evaluated(model, images)).metrics
    power, levels = np.square(images).mean(), np.array(denoising_levels.LEVELS)
    assert metrics["noisy_mse"] == pytest.approx(0.25 * power, rel=0.02)
    assert metrics["levels"] == list(levels)
    np.testing.assert_allclose(metrics["noisy_mse_at_levels"], levels * power, rtol=0.02)


def test_restored_images_are_measured_against_the_clean_ones():
    images = images_like(300, (6, 6, 1))
    settings = {"start": "random", "output_activation": "sigmoid"}  # of which BCE is defined
    model = create("denoising", (6, 6, 1), corruption_level=0.4, **settings)
    metrics = denoising_levels.measure(evaluated(model, images)).metrics
    noisy = model.corrupted(images, Noise(0, 0, 300, stream="evaluation"))
    restored = model(noisy).numpy().astype(np.float64)
    assert metrics["denoised_mse"] == pytest.approx(np.mean((restored - images) ** 2), rel=1e-5)
    entropy = images * np.log(restored) + (1 - images) * np.log(1 - restored)
    assert metrics["denoised_bce"] == pytest.approx(-entropy.mean(), rel=1e-5)
    # At least as good as the mean image, since no component at all is allowed too.
    variance = images.var(axis=0, dtype=np.float64).mean()
    assert metrics["noisy_pca_mse"] <= variance * (1 + 1e-5)
    for name in ("denoised_mse", "denoised_bce", "noisy_mse", "noisy_pca_mse"):
        assert metrics[f"{name}_at_levels"][denoising_levels.LEVELS.index(0.4)] == metrics[name]


def test_a_linear_encoder_is_measured_by_its_kernel_whatever_its_scale():
    settings = {"code_activation": "linear", "hidden_units": (), "code_size": 5}
    model = create("contractive", (4, 4, 1), **settings)
    images = images_like(120, (4, 4, 1))
    layer = model.encoder.get_layer("code")
    kernel = layer.kernel.numpy()
    metrics = jacobian.measure(evaluated(model, images)).metrics
    assert metrics["jacobian_norm"] == pytest.approx(np.linalg.norm(kernel), rel=1e-5)
    expected = np.linalg.svd(kernel, compute_uv=False)
    np.testing.assert_allclose(metrics["singular_values"], expected, rtol=1e-4)
    # The codes' total variance is the trace of W^T Cov(x) W.
    covariance = np.cov(images.reshape(120, -1).T, bias=True)
    ratio = np.linalg.norm(kernel) / np.sqrt(np.trace(kernel.T @ covariance @ kernel))
    assert metrics["jacobian_norm_to_spread"] == pytest.approx(ratio, rel=1e-4)
    layer.kernel.assign(3 * kernel)
    scaled = jacobian.measure(evaluated(model, images)).metrics
    assert scaled["jacobian_norm"] == pytest.approx(3 * metrics["jacobian_norm"], rel=1e-4)
    assert scaled["jacobian_norm_to_spread"] == pytest.approx(ratio, rel=1e-4)


def selecting(pixels, images):
    """A model that selects pixels, with nothing to draw them on."""
    return SimpleNamespace(
        encode=lambda rows: tf.gather(tf.reshape(rows, [len(rows), -1]), pixels, axis=1),
        code_size=len(pixels),
        selected_pixels=lambda: np.array(pixels),
        mean_largest_probability=lambda: 1.0,
        marked_pixels=lambda _: None,
        image_shape=images.shape[1:],
    )


def test_a_linear_readout_of_images_that_are_linear_in_the_pixels_is_perfect():
    random = np.random.default_rng(0)
    rows = random.random((50, 4), np.float32) @ random.random((4, 30), np.float32) + 0.3
    labels = (rows[:, 13] > np.median(rows[:, 13])).astype(int)
    images = rows.reshape(50, 6, 5, 1)
    model = selecting([7, 0, 29, 13], images)
    metrics = selected_features.measure(evaluated(model, images, labels)).metrics
    assert metrics["linear_readout_mse"] == pytest.approx(0, abs=1e-8)
    assert metrics["selected_pixels"] == [7, 0, 29, 13]
    assert metrics["extra_trees_accuracy"] == 1
    without = selected_features.measure(evaluated(model, images)).metrics
    assert "extra_trees_accuracy" not in without
    assert without["linear_readout_mse"] == metrics["linear_readout_mse"]
    blind = selected_features.measure(evaluated(selecting([7], images), images)).metrics
    assert blind["linear_readout_mse"] > 1e-3


def test_the_measured_bound_and_likelihood_are_those_of_the_model():
    model, nll = linear_gaussian(nll_samples=10)
    images = images_like(600, (3, 3, 1))
    metrics = likelihood.measure(evaluated(model, images)).metrics
    assert metrics["nll_nats"] == pytest.approx(nll(images).mean(), rel=1e-4)
    # With the true posterior the bound is tight, but for the sampling of its first term.
    assert metrics["elbo_nats"] == pytest.approx(-nll(images).mean(), abs=0.2)
    assert metrics["elbo_nats"] == -metrics["reconstruction_nats"] - metrics["kl_nats"]
    assert (metrics["binarisation"], metrics["nll_samples"]) == ("none", 10)


def test_active_units_are_those_whose_mean_varies_with_the_image():
    model, _ = linear_gaussian(nll_samples=1)
    images = images_like(100, (3, 3, 1))
    assert likelihood.measure(evaluated(model, images)).metrics["active_units"] == 2
    kernel, bias = model.encoder.get_layer("code").get_weights()
    kernel[:, 1] *= 1e-2
    model.encoder.get_layer("code").set_weights([kernel, bias])
    assert likelihood.measure(evaluated(model, images)).metrics["active_units"] == 1


def test_grey_levels_get_no_likelihood_from_a_bernoulli():
    model = create("vae", (3, 3, 1), binarisation="none")
    metrics = likelihood.measure(evaluated(model, images_like(4, (3, 3, 1)))).metrics
    assert set(metrics) == {"binarisation", "active_units", "kl_nats", "grey_cross_entropy_nats"}


def test_an_interpolation_leads_from_one_image_to_the_other():
    images = np.array([0.0, 0.9, 0.5, 0.5], np.float32).reshape(4, 1, 1, 1)
    model = SimpleNamespace(
        encode=lambda images: tf.reshape(images, [-1, 1]),
        decode=lambda codes: tf.reshape(codes, [-1, 1, 1, 1]),
        prior_codes=lambda noise: noise.normal("prior", (1,)),
        manifold=lambda: None,
    )
    drawn = samples.measure(evaluated(model, images)).figures
    assert drawn.keys() == {"prior_samples", "interpolations"}
    way = [0, *range(0, 100, 10), 90]  # the image, 10 codes and the other image, per cent
    expected = [[round(2.55 * share) for share in way], [128] * 12]
    factor = 500 // (12 + 11 * 2)  # of 12 pixels and the gaps between them
    rows, columns = slice(40 + factor // 2, -10, 3 * factor), slice(10 + factor // 2, None)
    shown = drawn["interpolations"][rows, columns, 0][:, :: 3 * factor]
    np.testing.assert_allclose(shown[:, :12], expected, atol=1)
