"""Convolutional networks of stages that halve the image."""

import numpy as np
import pytest

from tests.models.small import create, images_like


@pytest.mark.parametrize("dense_units", [0, 7])
@pytest.mark.parametrize(("filters", "side"), [((4,), 15), ((4, 6), 8), ((2, 3, 4, 5), 2)])
def test_each_stage_halves_the_image_rounded_up_and_the_decoder_doubles_it(
    filters, side, dense_units
):
    shape = (29, 30, 3)
    model = create("deep_conv", shape, stage_filters=filters, dense_units=dense_units, code_size=2)
    flat = side * (15 if filters == (4,) else side) * filters[-1]
    units = dense_units or flat
    assert model.encoder.get_layer("code").kernel.shape == (units, 2)
    if dense_units:
        assert model.encoder.get_layer("hidden").kernel.shape == (flat, dense_units)
    images = images_like(2, shape)
    assert model(images).shape == images.shape


def test_a_residual_block_is_the_identity_at_first():
    shape, images = (8, 8, 1), images_like(3, (8, 8, 1))
    keys = {"stage_filters": (4, 6), "code_size": 2, "normalisation": "group"}
    plain = create("deep_conv", shape, **keys)
    deeper = create("deep_conv", shape, residual_blocks=2, **keys)
    blocks = [weights for weights in deeper.weights if "residual" in weights.path]
    assert len(blocks) == 4 * 2 * 6  # of the two stages of each network: kernels, biases, norms
    weights = {weights.path: weights for weights in plain.weights}
    for variable in deeper.weights:
        if "residual" not in variable.path:
            variable.assign(weights[variable.path])
    np.testing.assert_allclose(deeper(images), plain(images), rtol=1e-5)


def test_group_normalisation_makes_the_code_independent_of_contrast():
    # The first convolution is linear in an image without a bias; its groups are then normalised.
    images = images_like(3, (8, 8, 1))
    model = create("deep_conv", (8, 8, 1), normalisation="group", stage_filters=(8,), code_size=2)
    np.testing.assert_allclose(model.encode(20 * images), model.encode(200 * images), atol=1e-3)
