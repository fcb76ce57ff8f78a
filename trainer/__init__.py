"""Trains, evaluates and serves autoencoders."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.sklearn import AutoencoderTransformer

__all__ = ["AutoencoderTransformer"]

# oneDNN's faster convolutions are off by default on x86 CPUs without AVX-512. TensorFlow reads the
# variable on its import; set here, every entry point uses the same kernels.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def __getattr__(name: str) -> Any:
    """Imports the transformer, which needs TensorFlow, only on its first use."""
    if name == "AutoencoderTransformer":
        from trainer.tensorflow_import import import_tensorflow

        import_tensorflow()
        from trainer.sklearn import AutoencoderTransformer

        return AutoencoderTransformer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
