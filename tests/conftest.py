import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import keras
import pytest
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
)
keras.utils.set_random_seed(0)
tf.config.experimental.enable_op_determinism()


@pytest.fixture
def digits_config():
    """A run on a CPU that takes seconds: the dense kind, 10 steps on the embedded digits."""
    from configs import base

    config = base.get_config()
    config.model.hidden_units = (16,)
    config.model.code_size = 4
    config.batch_size = 64
    config.num_epochs = 10 * 64 / 1366
    config.execution = "graph"
    config.steps_per_call = 2
    config.log_every_steps = 2
    config.validate_every_steps = 5
    config.checkpoint_every_steps = 5
    return config
