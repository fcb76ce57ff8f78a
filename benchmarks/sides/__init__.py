"""The trainer and the ways a user would train these nets without it, one module a framework.

Each has `measure(way, net, batch_size, seconds)`, images per second once compiled. All train with
Adam on the same images, which lie in memory: on their squared error, or the vae on the negative
ELBO of images binarised anew in each step. The peers take the grey levels as its targets, which
costs them no more. All compute in float32; on a GPU without TF32, as the trainer does.
"""

import importlib

# The ways of each module, here so that they are known where its framework is not installed.
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
    """Images per second of a way of one of these modules."""
    side = importlib.import_module(f"{__name__}.{module}")
    return side.measure(way, net, batch_size, seconds)
