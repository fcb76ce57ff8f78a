"""Holds the options of an evaluation: the anomalous classes, and the quantile of the threshold."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from trainer.data.dataset import Dataset, named
from trainer.errors import UserError, listed, require


@dataclasses.dataclass(frozen=True)
class AnomalyOptions:
    """Holds the options of an evaluation about anomalies, named as the flags.

    `normal_label` or `anomaly_label` names classes, by name or label; all others are of the other
    kind. An error above the `error_quantile` of the validation errors makes an example an anomaly;
    0: the quantile of the evaluation before, if it had one.
    """

    normal_label: Sequence[str] = ()
    anomaly_label: Sequence[str] = ()
    error_quantile: float = 0.0

    def check(self) -> None:
        """Raises UserError where the options are wrong, whatever the data."""
        require(
            not (self.normal_label and self.anomaly_label),
            "normal_label and anomaly_label are both given; all other classes follow from one",
        )
        require(
            0 <= self.error_quantile < 1,
            f"error_quantile={self.error_quantile} is not allowed; it must be between 0 and 1",
        )

    def check_classes(self, dataset: Dataset) -> None:
        """Raises UserError unless the data have these classes, and other ones in the test split."""
        if not (self.normal_label or self.anomaly_label):
            return
        flag = "normal_label" if self.normal_label else "anomaly_label"
        require(
            dataset.train.labels is not None and dataset.test.labels is not None,
            f"{flag} needs labels, which these data do not have: a table needs data.label_column, "
            "an .npz file y_train and y_test, a folder of images class folders",
        )
        splits = (dataset.train, dataset.validation, dataset.test)
        labels = [split.labels[:] for split in splits if split.labels is not None]
        known = sorted(set(_names(np.concatenate(labels), dataset.class_names)))
        for name in (*self.normal_label, *self.anomaly_label):
            require(
                name in known,
                f"{flag}={name!r} is not a class of the data; allowed: {listed(known, limit=12)}",
            )
        anomalous = self.are_anomalous(labels[-1], dataset.class_names)
        assert anomalous is not None
        if anomalous.all() or not anomalous.any():
            kind = "anomalous" if anomalous.all() else "normal"
            raise UserError(f"{flag} makes all test examples {kind}; a comparison needs both")

    def are_anomalous(
        self, labels: np.ndarray | None, class_names: tuple[str, ...]
    ) -> np.ndarray | None:
        """Returns which examples are anomalies by their labels [N], bool [N]; None: not known."""
        if labels is None or not (self.normal_label or self.anomaly_label):
            return None
        names = _names(labels, class_names)
        if self.anomaly_label:
            return np.isin(names, self.anomaly_label)
        return ~np.isin(names, self.normal_label)


def _names(labels: np.ndarray, class_names: tuple[str, ...]) -> np.ndarray:
    """Returns the names of classes [N] as text; the label of a class without a name."""
    names = named(labels, class_names)
    assert names is not None
    return names.astype(str)
