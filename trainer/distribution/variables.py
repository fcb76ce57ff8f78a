"""Maps paths to the variables of a model or a run, and to copies of their values."""

from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf


def model_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns a model's weights by their paths, each with "model/" before it."""
    return {f"model/{variable.path}": variable for variable in model.variables}


def require_tracked(model: keras.Layer) -> None:
    """Raises TypeError if an attribute of a model or of its layers is a plain tf.Variable.

    Keras does not track such a variable: no step would train it, and no checkpoint would hold it.
    """
    for part in tf.train.TrackableView(model).descendants():
        if isinstance(part, (tf.Variable, keras.Variable)):
            continue
        for name, value in vars(part).items():
            values = value.values() if isinstance(value, dict) else value
            values = list(values) if isinstance(value, (dict, list, tuple)) else [value]
            if any(isinstance(each, tf.Variable) for each in values):
                raise TypeError(
                    f"the attribute {name!r} of a {type(part).__name__} holds a tf.Variable, which "
                    "would neither be trained nor be in a checkpoint; use keras.Variable or, in a "
                    "layer, self.add_weight"
                )


def values_of(variables: Mapping[str, keras.Variable]) -> dict[str, np.ndarray]:
    """Copies the values of variables, under the same paths."""
    return {path: variable.numpy() for path, variable in variables.items()}


def assign_values(
    variables: Mapping[str, keras.Variable], values: Mapping[str, np.ndarray]
) -> None:
    """Assigns values to all of the variables, by path; there may be more values."""
    for path, variable in variables.items():
        variable.assign(values[path])
