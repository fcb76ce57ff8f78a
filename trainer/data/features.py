"""Names the features of a table, some of which are categories of one column."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Features:
    """Names the columns that become features, in the order of the model's inputs.

    A column with categories becomes a feature for each, 1 where the column holds it and else 0.
    """

    columns: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Returns the features' names: a column's, or as "colour=red" for a category."""
        return tuple(itertools.chain.from_iterable(map(self._names_of, self.columns)))

    def _names_of(self, column: str) -> list[str]:
        values = self.categories.get(column)
        return [column] if values is None else [f"{column}={value}" for value in values]

    def to_inputs(self) -> dict[str, Any]:
        """Returns what config.json keeps of the features, for `from_inputs`."""
        inputs: dict[str, Any] = {"feature_names": list(self.names)}
        if self.categories:
            categories = {column: list(values) for column, values in self.categories.items()}
            inputs |= {"columns": list(self.columns), "categories": categories}
        return inputs

    @classmethod
    def from_inputs(cls, inputs: Mapping[str, Any]) -> "Features | None":
        """Returns the features of `to_inputs`; None if the inputs have no names."""
        if "feature_names" not in inputs:
            return None
        categories = {key: tuple(values) for key, values in inputs.get("categories", {}).items()}
        return cls(tuple(inputs.get("columns", inputs["feature_names"])), categories)

    def expand(self, rows: np.ndarray) -> np.ndarray:
        """Returns the features [N, D] of rows [N, columns], in which categories are indices.

        A missing category, NaN, is missing in each of its features.
        """
        if not self.categories:
            return rows
        expanded = np.empty((len(rows), len(self.names)), np.float32)
        place = 0
        for column, values in zip(self.columns, rows.T, strict=True):
            width = len(self._names_of(column))
            if column in self.categories:
                hot = values[:, None] == np.arange(width)
                expanded[:, place : place + width] = np.where(
                    np.isnan(values)[:, None], np.nan, hot
                )
            else:
                expanded[:, place] = values
            place += width
        return expanded
