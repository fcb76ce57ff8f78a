"""The encoder's Jacobian: its norm in closed form, exactly and estimated; tied weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.all_configs import settings_of
from tests.steps import adam_steps
from trainer import models
from trainer.distribution.variables import model_variables
from trainer.errors import UserError
from trainer.models.base import StepContext
from trainer.positions import Noise
from trainer.run.checkpoints import Checkpoints

SHAPE = (4, 4, 1)
ONE_SIGMOID = {"hidden_units": (), "code_activation": "sigmoid"}
METHODS = ["closed_form", "exact", "hutchinson"]


def create(seed=0, **changes):
    keras.utils.set_random_seed(seed)
    settings = settings_of("contractive", **{"code_size": 5} | ONE_SIGMOID | changes)
    return models.create(SHAPE, settings)


def images_like(count):
    return np.random.default_rng(0).random((count, *SHAPE), np.float32)


def squared_norms(model, images):
    noise = Noise(0, 0, len(images))
    terms = model.loss_terms(images, StepContext(noise, tf.constant(0.0), training=True))
    return terms["contraction"].numpy()


def kernels(model):
    return [layer.kernel.numpy() for layer in model.encoder.layers if layer.weights]


def test_the_closed_form_is_the_exact_norm_of_a_sigmoid_layer():
    images = 4 * images_like(6)
    closed, exact = (
        squared_norms(create(jacobian=method, penalty_weight=0.5), images)
        for method in ("closed_form", "exact")
    )
    np.testing.assert_allclose(closed, exact, rtol=1e-5)


def test_the_norm_of_a_linear_encoder_is_that_of_its_kernel():
    model = create(code_activation="linear", jacobian="exact", penalty_weight=1.0)
    expected = np.square(kernels(model)[0]).sum()
    np.testing.assert_allclose(squared_norms(model, images_like(3)), [expected] * 3, rtol=1e-5)


def test_the_jacobian_of_two_layers_is_the_product_of_theirs():
    # h = tanh(V^T g), g = tanh(W^T x): J = diag(1 - h^2) V^T diag(1 - g^2) W^T.
    model = create(hidden_units=(7,), activation="tanh", code_activation="tanh")
    images = images_like(4)
    first, second = kernels(model)
    hidden = np.tanh(images.reshape(4, -1) @ first)
    codes = np.tanh(hidden @ second)
    inner = (1 - hidden**2)[:, :, None] * first.T
    expected = (1 - codes**2)[:, :, None] * (second.T @ inner)
    np.testing.assert_allclose(
        model.jacobian(images).numpy().reshape(4, 5, 16), expected, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("probes", [1, 3])
def test_hutchinsons_estimate_has_the_exact_mean_and_variance(probes):
    # E v^T A v = tr A and Var = 2 (||A||_F^2 - sum_i A_ii^2), A = J J^T, v of random signs.
    count = 4000
    images = np.repeat(images_like(1), count, axis=0)
    model = create(hidden_units=(7,), jacobian="hutchinson", probes=probes, penalty_weight=1.0)
    jacobian = model.jacobian(images[:1]).numpy().reshape(5, 16).astype(np.float64)
    product = jacobian @ jacobian.T
    variance = 2 * (np.square(product).sum() - np.square(np.diag(product)).sum()) / probes
    estimates = squared_norms(model, images)
    assert abs(estimates.mean() - np.trace(product)) < 4 * np.sqrt(variance / count)
    assert estimates.var() == pytest.approx(variance, rel=0.15)


def test_the_penalty_is_weighted():
    images = images_like(3)
    once, twice = (
        squared_norms(create(jacobian="exact", penalty_weight=weight), images)
        for weight in (0.5, 1.0)
    )
    np.testing.assert_allclose(2 * once, twice, rtol=1e-6)


def test_tied_weights_are_those_of_the_encoder():
    model = create(hidden_units=(7,), tied_weights=True, activation="tanh")
    for variable in model.trainable_variables:
        variable.assign(np.random.default_rng(1).normal(size=variable.shape) / 4)
    assert {v.path.split("/")[-1] for v in model.decoder.variables} == {"bias"}
    assert len({v.path for v in model.variables}) == len(model.variables) == 2 * 2 + 2
    first, second = kernels(model)
    hidden_bias, pixel_bias = (v.numpy() for v in model.decoder.variables)
    codes = model.encode(images_like(3)).numpy()
    logits = np.tanh(codes @ second.T + hidden_bias) @ first.T + pixel_bias
    expected = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(model.decode(codes).numpy().reshape(3, -1), expected, rtol=1e-5)


def test_tied_weights_stay_tied_through_a_checkpoint(tmp_path):
    settings = {"hidden_units": (7,), "tied_weights": True}
    saved, restored = create(0, **settings), create(1, **settings)
    images = images_like(3)
    state = {path: v.numpy() for path, v in model_variables(saved).items()}
    checkpoints = Checkpoints(tmp_path, "own")
    checkpoints.save(3, state, validation_loss=None, keep=1)
    found = checkpoints.find()
    assert found is not None
    found.restore(model_variables(restored))
    np.testing.assert_array_equal(restored(images), saved(images))
    before = restored(images).numpy()
    kernel = restored.encoder.get_layer("code").kernel
    codes = restored.encode(images)
    kernel.assign(2 * kernel)
    assert np.abs(restored.decode(codes) - before).max() > 1e-3


def steps_of(settings, devices, execution, precision="float32"):
    return adam_steps(
        lambda: create(**settings),
        devices,
        execution,
        precision=precision,
        learning_rate=1e-2,
        last_step=20,
    )[1]


@pytest.mark.parametrize("execution", ["graph", "xla"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("jacobian", METHODS)
def test_every_method_contracts_however_it_is_computed(jacobian, precision, execution):
    settings = {"tied_weights": True, "penalty_weight": 1.0, "jacobian": jacobian}
    if jacobian != "closed_form":
        settings["hidden_units"] = (7,)
    steps = steps_of(settings, 1, execution, precision)
    norms = steps.train(0, np.repeat(images_like(8)[np.newaxis], 20, axis=0))["loss/contraction"]
    assert norms[-5:].mean() < 0.9 * norms[:5].mean()


@pytest.mark.parametrize("execution", ["graph", "xla"])
@pytest.mark.parametrize("jacobian", METHODS)
def test_two_replicas_contract_as_one_does(jacobian, execution):
    images = np.random.default_rng(1).random((3, 8, *SHAPE), np.float32)
    settings = {"tied_weights": True, "penalty_weight": 0.1, "jacobian": jacobian}
    weights = []
    for devices in (1, 2):
        steps = steps_of(settings, devices, execution)
        steps.train(0, images)
        weights.append({path: v.numpy() for path, v in steps.variables().items()})
    for path, expected in weights[0].items():
        np.testing.assert_allclose(weights[1][path], expected, rtol=0, atol=1e-5, err_msg=path)


def test_settings_that_contradict_each_other_are_refused_in_one_line():
    for change, named in (
        ({"jacobian": "closed_form", "hidden_units": (7,)}, "not (7,) and 'sigmoid'"),
        ({"jacobian": "closed_form", "code_activation": "tanh"}, "not () and 'tanh'"),
    ):
        with pytest.raises(UserError) as error:
            create(**change)
        assert named in str(error.value)
        assert "\n" not in str(error.value)
