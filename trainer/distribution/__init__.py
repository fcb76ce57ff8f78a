"""The training step (`step.py`); replicas, tf.function, XLA, devices."""
