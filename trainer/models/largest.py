"""Finds the largest values of each row."""

import tensorflow as tf


def is_largest(activations: tf.Tensor, count: int | tf.Tensor, *, most: int) -> tf.Tensor:
    """Returns which are the `count` <= `most` largest activations of each row, bool [B, K].

    Of equal activations the first count.
    """
    # Compares, since XLA on a GPU would scatter a mask one element after the other; compares
    # floats, since TensorFlow compares int32 on the host. A NaN is kept, and so is noticed.
    unit = tf.range(activations.shape[1], dtype=tf.float32)
    largest, units = tf.math.top_k(tf.stop_gradient(activations), most)  # [B, most], descending
    least_kept = tf.gather(largest, [count - 1], axis=1)
    last_unit = tf.cast(tf.gather(units, [count - 1], axis=1), tf.float32)
    # Of equal activations top_k returns the first unit first.
    equal_but_later = (activations == least_kept) & (unit > last_unit)
    return ~((activations < least_kept) | equal_but_later)
