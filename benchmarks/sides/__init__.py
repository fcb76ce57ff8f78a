"""Trains the nets of benchmarks.nets in the trainer and in other frameworks, one module each.

Each module has `measure(way, net, batch_size, seconds)`, images per second without compilation. All
train with Adam on the same images in memory. The loss is the squared error; for the vae it is the
negative ELBO of images that each step binarises again, where the other frameworks take the grey
levels as targets, at no higher cost. All compute in float32, on a GPU without TF32.
"""

import importlib

# The ways of each module, listed here since its framework may not be installed.
WAYS = {
    "with_trainer": (
        *("trainer", "trainer_graph", "trainer_xla_update", "trainer_xla"),
        "trainer_xla_products",
    ),
    "with_keras": ("article", "fit", "fit_xla"),
    "with_torch": ("torch", "torch_compiled", "torch_channels_last", "torch_cuda_graphs"),
    "with_jax": ("jax_scan", "jax_step"),
}


def measure(module: str, way: str, net: str, batch_size: int, seconds: float) -> float:
    """Returns images per second of one of a module's ways."""
    side = importlib.import_module(f"{__name__}.{module}")
    return side.measure(way, net, batch_size, seconds)
