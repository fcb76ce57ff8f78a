"""Traces functions of tensors to graphs."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def graph_function(function: Callable[..., Any], *, jit_compile: bool | None = None) -> Any:
    """Returns a tf.function without AutoGraph, which takes seconds a start to convert the code.

    Loops and branches on tensors must be written as `tf.while_loop` and `tf.cond`.
    """
    return tf.function(function, autograph=False, jit_compile=jit_compile)
