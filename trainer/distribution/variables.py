"""Maps paths to the variables of a model or a run, and to copies of their values."""

from collections.abc import Mapping

import keras
import numpy as np


def model_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns a model's weights by their paths, each with "model/" before it."""
    return {f"model/{variable.path}": variable for variable in model.variables}


def values_of(variables: Mapping[str, keras.Variable]) -> dict[str, np.ndarray]:
    """Copies the values of variables, under the same paths."""
    return {path: variable.numpy() for path, variable in variables.items()}


def assign_values(
    variables: Mapping[str, keras.Variable], values: Mapping[str, np.ndarray]
) -> None:
    """Assigns values to all of the variables, by path; there may be more values."""
    for path, variable in variables.items():
        variable.assign(values[path])
