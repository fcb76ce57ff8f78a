"""How well penalised logistic regression classifies sparse codes."""

import numpy as np

from trainer.evaluation.evaluators import EvaluatedModel, Result

ORDER = 71
_PENALTY_SHARE = 600  # mean loss + |w|^2 / (2 * 600); chosen by validation


def applies(evaluated: EvaluatedModel) -> bool:
    """Returns whether the codes are sparse and there are classes to tell apart."""
    return hasattr(evaluated.model, "active_above") and evaluated.has_classes


def measure(evaluated: EvaluatedModel) -> Result:
    """Measures `linear_classifier_error`, a test error."""
    error = linear_classifier_error(
        evaluated.train_codes, evaluated.codes, evaluated.train_labels, evaluated.test_labels
    )
    return Result({"linear_classifier_error": error})


def linear_classifier_error(
    train_codes: np.ndarray,
    test_codes: np.ndarray,
    train_labels: np.ndarray | None,
    test_labels: np.ndarray | None,
) -> float:
    """Returns the test error of logistic regression on codes [N, K].

    All units are divided by one scale, the root mean square of the training codes: with one scale a
    unit, as `probe` has it, the rarest would count the most. The weights are penalised, since 1,000
    units tell all of the training images apart.
    """
    from sklearn.linear_model import LogisticRegression

    scale = max(float(np.sqrt(np.square(train_codes).mean())), np.finfo(np.float32).tiny)
    penalty = _PENALTY_SHARE / len(train_codes)
    classifier = LogisticRegression(C=penalty, max_iter=1000, tol=2e-4)
    classifier.fit(train_codes / scale, train_labels)
    return 1 - float(classifier.score(test_codes / scale, test_labels))
