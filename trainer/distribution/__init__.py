"""Replicas, tf.function, XLA and the devices they run on."""
