"""Measures how well the nearest training codes classify the test codes."""

from trainer.evaluation.evaluators import Column, EvaluatedModel, Result

ORDER = 30
COLUMNS = (Column("knn_accuracy", "5-NN", ".1%"),)
_NEIGHBORS = 5


def applies(evaluated: EvaluatedModel) -> bool:
    """Returns whether the data have classes."""
    return evaluated.has_classes


def measure(evaluated: EvaluatedModel) -> Result:
    """Measures `knn_accuracy`, the test accuracy of 5-NN on the training codes."""
    from sklearn.neighbors import KNeighborsClassifier

    classifier = KNeighborsClassifier(min(_NEIGHBORS, len(evaluated.train_codes)), n_jobs=-1)
    classifier.fit(evaluated.train_codes, evaluated.train_labels)
    return Result({
        "knn_accuracy": float(classifier.score(evaluated.codes, evaluated.test_labels))
    })  # fmt: skip
