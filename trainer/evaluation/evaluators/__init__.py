"""The measurements of a trained run, one module each: a new metric is a new module here.

A module is an `Evaluator`. To find the modules, and what `trainer.compare` shows of them, must not
take the seconds that TensorFlow and scikit-learn need: a module imports these in its functions.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from trainer.evaluation.evaluated_model import EvaluatedModel

__all__ = ["Column", "EvaluatedModel", "Evaluator", "Result", "columns", "load"]


@dataclasses.dataclass(frozen=True)
class Column:
    """A metric in the table of `trainer.compare`."""

    metric: str
    title: str
    format: str  # as Python's format() takes it


@dataclasses.dataclass(frozen=True)
class Result:
    """What an evaluator measured."""

    metrics: Mapping[str, Any]  # for metrics.json
    figures: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    # uint8 [H, W, 3] by the names of the files, without ".png"


class Evaluator(Protocol):
    """What a module of this package defines; `COLUMNS`, of `trainer.compare`, may be missing."""

    ORDER: int  # of the metrics among those of the other modules

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
