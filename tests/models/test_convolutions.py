"""Each rewritten layer computes what Keras's own does, and has its gradients."""

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.models.convolutions import (
    Convolution,
    MaxPooling,
    TransposedConvolution,
    UpSampling,
    as_matrix_products,
    count_multiplications,
)

LAYERS: dict[str, Callable[[], keras.Layer]] = {
    "few_maps_in": lambda: Convolution(5, 3),
    "few_maps_out": lambda: Convolution(1, 3),
    "even_size": lambda: Convolution(1, 4),
    "large": lambda: Convolution(4, 5),
    "stride_2": lambda: Convolution(5, 3, 2),
    "stride_2_of_even_size": lambda: Convolution(2, 4, 2),
    "transposed": lambda: TransposedConvolution(3, 3, 2),
    "transposed_of_even_size": lambda: TransposedConvolution(3, 4, 2),
    "transposed_without_overlap": lambda: TransposedConvolution(3, 2, 2),
    "transposed_of_stride_1": lambda: TransposedConvolution(3, 3, 1),
    "transposed_of_stride_3": lambda: TransposedConvolution(2, 5, 3),
    "max_pooling": MaxPooling,
    "up_sampling": UpSampling,
}


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (2, 7, 6, 1)])
@pytest.mark.parametrize("name", LAYERS)
def test_matrix_products_give_keras_outputs_and_gradients(name, shape):
    keras.utils.set_random_seed(1)
    layer = LAYERS[name]()
    inputs = tf.random.normal(shape)
    layer.build(shape)
    if layer.weights:
        layer.bias.assign(tf.random.normal(layer.bias.shape))
    sources = [inputs, *(variable.value for variable in layer.trainable_variables)]
    found = []
    for rewritten in (False, True):
        with as_matrix_products(rewritten), tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs)
            # Another weight for each output, so that no two can be exchanged.
            total = tf.reduce_sum(outputs * np.random.default_rng(0).normal(size=outputs.shape))
        found.append([outputs, *tape.gradient(total, sources)])
    for new, original in zip(found[1], found[0], strict=True):
        np.testing.assert_allclose(new, original, rtol=0, atol=1e-4)


def test_a_tie_in_a_pool_goes_to_the_first_pixel_either_way():
    layer = MaxPooling()
    inputs = tf.ones((1, 4, 4, 1))
    gradients = []
    for rewritten in (False, True):
        with as_matrix_products(rewritten), tf.GradientTape() as tape:
            tape.watch(inputs)
            total = tf.reduce_sum(layer(inputs))
        gradients.append(tape.gradient(total, inputs).numpy())
    np.testing.assert_array_equal(gradients[1], gradients[0])


def network_of(*layers):
    return keras.Sequential([keras.Input((8, 8, 1)), *layers])


def test_multiplications_are_counted_by_whether_a_convolution_has_few_channels():
    flat = network_of(keras.layers.Flatten(), keras.layers.Dense(2))
    assert count_multiplications([flat]) == (0, 0)
    # 8x8 pixels x 9 taps x 1 x 16 with few channels; 4x4 x 9 x 16 x 10 with many.
    both = network_of(Convolution(16, 3), Convolution(10, 3, 2))
    assert count_multiplications([flat, both]) == (9216, 23040)
    few_to_many = network_of(TransposedConvolution(20, 3, 2))
    assert count_multiplications([few_to_many]) == (8 * 8 * 9 * 20, 0)
