"""The encoder's Jacobian: its norm in closed form, exactly and estimated; tied weights."""

import numpy as np
import pytest

from tests.all_configs import settings_of
from tests.marks import slow
from tests.models import small
from tests.steps import adam_steps

SHAPE = (4, 4, 1)
ONE_SIGMOID = {"hidden_units": (), "code_activation": "sigmoid"}


def create(**settings):
    return small.create("contractive", SHAPE, **{"code_size": 5} | ONE_SIGMOID | settings)


def squared_norms(model, images):
    return model.loss_terms(images, small.context(len(images)))["contraction"].numpy()


def kernels(model):
    return [layer.kernel.numpy() for layer in model.encoder.layers if layer.weights]


def test_the_closed_form_is_the_exact_norm_of_a_sigmoid_layer():
    images = 4 * small.images_like(6, SHAPE)
    closed, exact = (
        squared_norms(create(jacobian=method, penalty_weight=0.5), images)
        for method in ("closed_form", "exact")
    )
    np.testing.assert_allclose(closed, exact, rtol=1e-5)


def test_exact_is_said_to_be_slow_where_the_closed_form_is_the_same():
    for changes, says in (
        ({}, True),
        ({"hidden_units": (7,)}, False),
        ({"jacobian": "hutchinson"}, False),
    ):
        settings = settings_of("contractive", **ONE_SIGMOID | {"jacobian": "exact"} | changes)
        assert any("closed_form" in note for note in settings.notes(10)) == says


def test_the_norm_of_a_linear_encoder_is_that_of_its_kernel():
    model = create(code_activation="linear", jacobian="exact", penalty_weight=0.5)
    expected = 0.5 * np.square(kernels(model)[0]).sum()
    norms = squared_norms(model, small.images_like(3, SHAPE))
    np.testing.assert_allclose(norms, [expected] * 3, rtol=1e-5)


@pytest.mark.parametrize("code_size", [1, 5, 17])  # 17 in passes of three units
def test_the_jacobian_of_two_layers_is_the_product_of_theirs(code_size):
    # h = tanh(V^T g), g = tanh(W^T x): J = diag(1 - h^2) V^T diag(1 - g^2) W^T.
    settings = {"hidden_units": (7,), "activation": "tanh", "code_activation": "tanh"}
    model = create(code_size=code_size, **settings)
    images = small.images_like(4, SHAPE)
    first, second = kernels(model)
    hidden = np.tanh(images.reshape(4, -1) @ first)
    codes = np.tanh(hidden @ second)
    inner = (1 - hidden**2)[:, :, None] * first.T
    expected = (1 - codes**2)[:, :, None] * (second.T @ inner)
    np.testing.assert_allclose(
        model.jacobian(images).numpy().reshape(expected.shape), expected, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("probes", [1, 3])
def test_hutchinsons_estimate_has_the_exact_mean_and_variance(probes):
    # E v^T A v = tr A and Var = 2 (||A||_F^2 - sum_i A_ii^2), A = J J^T, v of random signs.
    count = 4000
    images = np.repeat(small.images_like(1, SHAPE), count, axis=0)
    model = create(hidden_units=(7,), jacobian="hutchinson", probes=probes, penalty_weight=1.0)
    jacobian = model.jacobian(images[:1]).numpy().reshape(5, 16).astype(np.float64)
    product = jacobian @ jacobian.T
    variance = 2 * (np.square(product).sum() - np.square(np.diag(product)).sum()) / probes
    estimates = squared_norms(model, images)
    assert abs(estimates.mean() - np.trace(product)) < 4 * np.sqrt(variance / count)
    assert estimates.var() == pytest.approx(variance, rel=0.15)


def test_tied_weights_are_those_of_the_encoder():
    model = create(hidden_units=(7,), tied_weights=True, activation="tanh")
    for variable in model.trainable_variables:
        variable.assign(np.random.default_rng(1).normal(size=variable.shape) / 4)
    assert {v.path.split("/")[-1] for v in model.decoder.variables} == {"bias"}
    assert len({v.path for v in model.variables}) == len(model.variables) == 2 * 2 + 2
    first, second = kernels(model)
    hidden_bias, pixel_bias = (v.numpy() for v in model.decoder.variables)
    codes = model.encode(small.images_like(3, SHAPE)).numpy()
    logits = np.tanh(codes @ second.T + hidden_bias) @ first.T + pixel_bias
    expected = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(model.decode(codes).numpy().reshape(3, -1), expected, rtol=1e-5)


def steps_of(devices, execution, precision="float32", **settings):
    return adam_steps(
        lambda: create(tied_weights=True, **settings),
        devices,
        execution,
        precision=precision,
        learning_rate=1e-2,
        last_step=20,
    )[1]


@pytest.mark.parametrize(
    ("jacobian", "hidden_units", "execution"),
    [("closed_form", (), "graph"), slow("hutchinson", (7,), "xla")],  # "exact": of every kind
)
def test_other_methods_contract_in_half_precision_too(jacobian, hidden_units, execution):
    settings = {"penalty_weight": 1.0, "jacobian": jacobian, "hidden_units": hidden_units}
    steps = steps_of(1, execution, "float16", **settings)
    images = np.tile(small.images_like(8, SHAPE), (20, 1, 1, 1, 1))
    norms = steps.train(0, images)["loss/contraction"]
    assert norms[-5:].mean() < 0.9 * norms[:5].mean()


def test_two_replicas_draw_the_probes_that_one_does():
    images = np.random.default_rng(1).random((3, 8, *SHAPE), np.float32)
    weights = []
    for devices in (1, 2):
        steps = steps_of(devices, "graph", penalty_weight=0.1, jacobian="hutchinson")
        steps.train(0, images)
        weights.append({path: v.numpy() for path, v in steps.variables().items()})
    for path, expected in weights[0].items():
        np.testing.assert_allclose(weights[1][path], expected, rtol=0, atol=1e-5, err_msg=path)
