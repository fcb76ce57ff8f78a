"""Trains, evaluates and serves autoencoders.

`trainer.load` and `trainer.train` use runs from Python, `trainer.AutoencoderTransformer` and
`trainer.AutoencoderDetector` from scikit-learn.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.api import TrainedRun, load, train
    from trainer.detector import AutoencoderDetector
    from trainer.sklearn import AutoencoderTransformer

_MODULES = {
    "AutoencoderDetector": "detector", "AutoencoderTransformer": "sklearn",
    "TrainedRun": "api", "load": "api", "train": "api",
}  # fmt: skip
__all__ = ["AutoencoderDetector", "AutoencoderTransformer", "TrainedRun", "load", "train"]

# oneDNN's faster convolutions are off by default on x86 CPUs without AVX-512. TensorFlow reads the
# variable on its import; set here, every entry point uses the same kernels.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def __getattr__(name: str) -> Any:
    """Imports what needs TensorFlow only on its first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trainer.tensorflow_import import import_tensorflow

    import_tensorflow()
    return getattr(importlib.import_module(f"trainer.{_MODULES[name]}"), name)
