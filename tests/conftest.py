import gc
import os
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# trainer/__init__.py sets this too, but here TensorFlow is imported first. Without it, on a CPU
# without AVX-512, a training in the test process rounds differently from one in its own process.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# Optimising the compiled code of tiny models takes longer than running it.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

import keras
import pytest
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
)
keras.utils.set_random_seed(0)
tf.config.experimental.enable_op_determinism()
gc.freeze()  # each collection would search what TensorFlow's import leaves


@pytest.fixture
def digits_config():
    from tests.runs import small_config

    return small_config()


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """The workdir of a finished run of `digits_config`: a test that changes it takes a copy."""
    from tests.runs import small_config
    from trainer.training.train import train

    run = tmp_path_factory.mktemp("digits") / "run"
    train(small_config(), str(run))
    return run


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """A cache folder of the tests, and not the user's."""
    os.environ.setdefault("MPLCONFIGDIR", str(Path("~/.cache/matplotlib").expanduser()))
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
