"""Measures a trained run, by one module per measurement: a new metric is a new module here.

A module is an `Evaluator`. `trainer.compare` imports the modules for their columns, and should not
wait for TensorFlow and scikit-learn: a module imports these two only inside its functions.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from trainer.evaluation.evaluated_model import EvaluatedModel

__all__ = ["Column", "EvaluatedModel", "Evaluator", "Result", "advice", "columns", "load"]


@dataclasses.dataclass(frozen=True)
class Column:
    """Describes a metric in the table of `trainer.compare`."""

    metric: str
    title: str
    format: str  # as Python's format() takes it


@dataclasses.dataclass(frozen=True)
class Result:
    """Holds the results of an evaluator.

    `figures` are uint8 [H, W, 3] by the names of their files, without ".png".
    """

    metrics: Mapping[str, Any]  # for metrics.json
    figures: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


class Evaluator(Protocol):
    """Describes a module of this package.

    It may also define `COLUMNS` for `trainer.compare`, and a function `advice` of the metrics that
    returns a line for the user, or "".
    """

    ORDER: int  # sorts the metrics of all modules

    def applies(self, evaluated: EvaluatedModel) -> bool:
        """Returns whether the model and its data have what the measurement needs."""

    def measure(self, evaluated: EvaluatedModel) -> Result:
        """Measures the model on its test images."""


def load() -> list[Evaluator]:
    """Imports the evaluators, in the order of their metrics."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    modules: list[Any] = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return sorted(modules, key=lambda module: module.ORDER)


def columns() -> list[Column]:
    """Returns the columns of all evaluators, in the order of their metrics."""
    return [column for evaluator in load() for column in getattr(evaluator, "COLUMNS", ())]


def advice(metrics: Mapping[str, Any]) -> list[str]:
    """Returns what the evaluators advise by the metrics of a run, a line each."""
    lines = [module.advice(metrics) for module in load() if hasattr(module, "advice")]
    return list(filter(None, lines))
