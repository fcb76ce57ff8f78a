"""Train, measure and keep autoencoders."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.sklearn import AutoencoderTransformer

__all__ = ["AutoencoderTransformer"]

# TensorFlow leaves its faster convolutions off on x86 CPUs without AVX-512. Read when TensorFlow is
# imported, and set here so that every way into this package computes with the same ones.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def __getattr__(name: str) -> Any:
    """Imports the transformer when it is asked for: a wrong flag is answered without TensorFlow."""
    if name == "AutoencoderTransformer":
        from trainer.tensorflow_import import import_tensorflow

        import_tensorflow()
        from trainer.sklearn import AutoencoderTransformer

        return AutoencoderTransformer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
