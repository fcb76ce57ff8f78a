"""Each form for XLA computes what Keras's layer does, and has its gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from trainer.distribution.xla_layers import ALL, MAX_POOLING, count_multiplications, rewritten

SAME = {"padding": "same"}
COVERED = {
    "few_maps_in": lambda: layers.Conv2D(5, 3, **SAME),
    "few_maps_out_of_even_size": lambda: layers.Conv2D(1, 4, **SAME),
    "stride_2": lambda: layers.Conv2D(5, 3, 2, **SAME),
    "stride_2_of_even_size": lambda: layers.Conv2D(2, 4, 2, activation="tanh", **SAME),
    "transposed": lambda: layers.Conv2DTranspose(3, 3, 2, activation="tanh", **SAME),
    "transposed_of_even_size": lambda: layers.Conv2DTranspose(3, 4, 2, **SAME),
    "transposed_without_overlap": lambda: layers.Conv2DTranspose(3, 2, 2, **SAME),
    "transposed_without_bias": lambda: layers.Conv2DTranspose(3, 3, 1, use_bias=False, **SAME),
    "transposed_of_stride_3": lambda: layers.Conv2DTranspose(2, 5, 3, **SAME),
    "max_pooling": lambda: layers.MaxPooling2D(2, **SAME),
    "up_sampling": lambda: layers.UpSampling2D(),
}
NOT_COVERED = {
    "padding": lambda: layers.Conv2D(2, 3),
    "dilation": lambda: layers.Conv2D(2, 3, dilation_rate=2, **SAME),
    "groups": lambda: layers.Conv2D(3, 3, groups=3, **SAME),
    "oblong": lambda: layers.Conv2D(2, (1, 3), **SAME),
    "gaps": lambda: layers.Conv2DTranspose(2, 2, 3, **SAME),
    "pool_size": lambda: layers.MaxPooling2D(3, **SAME),
    "pool_stride": lambda: layers.MaxPooling2D(2, strides=1, **SAME),
    "interpolation": lambda: layers.UpSampling2D(interpolation="bilinear"),
    "another_layer": lambda: layers.AveragePooling2D(2, **SAME),
}
KERAS_OPERATIONS = {"Conv2D", "Conv2DBackpropInput", "MaxPool", "MaxPoolV2"}


def network_of(*stack, shape=(8, 8, 1)):
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input(shape), *stack])


def outputs_and_gradients(network, inputs):
    """The outputs, and the gradients of a sum of them with another weight for each."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = network(inputs)
        total = tf.reduce_sum(outputs * np.random.default_rng(0).normal(size=outputs.shape))
    sources = [inputs, *(variable.value for variable in network.trainable_variables)]
    return [outputs, *tape.gradient(total, sources)]


def operations_of(network):
    graph = tf.function(network).get_concrete_function(tf.TensorSpec(network.input_shape)).graph
    return {operation.type for operation in graph.get_operations()}


@pytest.mark.parametrize("name", COVERED)
def test_a_form_gives_the_outputs_and_gradients_of_keras(name):
    for shape in ((8, 8, 3), (7, 6, 1)):
        network = network_of(COVERED[name](), shape=shape)
        for weights in network.trainable_variables[1:]:
            weights.assign(tf.random.normal(weights.shape))
        inputs = tf.random.normal((2, *shape))
        expected = outputs_and_gradients(network, inputs)
        with rewritten(network, ALL):
            found = outputs_and_gradients(network, inputs)
            assert not operations_of(network) & KERAS_OPERATIONS
        for new, original in zip(found, expected, strict=True):
            np.testing.assert_allclose(new, original, rtol=0, atol=1e-4)


def test_a_layer_that_no_form_covers_is_left_to_keras():
    for name, layer in NOT_COVERED.items():
        network = network_of(layer(), shape=(7, 6, 3))
        before = operations_of(network)
        with rewritten(network, ALL):
            assert operations_of(network) == before, name


def test_only_the_layers_that_are_named_are_rewritten_and_only_for_a_while():
    inner = network_of(layers.MaxPooling2D(2, **SAME), shape=(8, 8, 2))
    network = network_of(layers.Conv2D(2, 3, **SAME), inner)
    before = operations_of(network)
    with rewritten(network, MAX_POOLING):
        assert before - operations_of(network) == {"MaxPool"}
    assert operations_of(network) == before


def test_a_tie_in_a_pool_goes_to_the_first_pixel_either_way():
    network = network_of(layers.MaxPooling2D(2, **SAME))
    inputs = tf.ones((1, 8, 8, 1))
    expected = outputs_and_gradients(network, inputs)[1].numpy()
    with rewritten(network, ALL):
        np.testing.assert_array_equal(outputs_and_gradients(network, inputs)[1], expected)


def test_multiplications_are_counted_by_whether_a_convolution_has_few_channels():
    flat = network_of(layers.Flatten(), layers.Dense(2))
    assert count_multiplications(flat) == (0, 0)
    # 8x8 pixels x 9 taps x 1 x 16 with few channels; 4x4 x 9 x 16 x 10 with many.
    both = network_of(layers.Conv2D(16, 3, **SAME), layers.Conv2D(10, 3, 2, **SAME))
    assert count_multiplications(both) == (9216, 23040)
    few_to_many = network_of(layers.Conv2DTranspose(20, 3, 2, **SAME))
    assert count_multiplications(few_to_many) == (8 * 8 * 9 * 20, 0)
