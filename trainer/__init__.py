"""Train, measure and keep autoencoders."""

import os

# TensorFlow leaves its faster convolutions off on x86 CPUs without AVX-512. Read when TensorFlow is
# imported, and set here so that every way into this package computes with the same ones.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
