"""Measures the error of PCA with a code of the same size, fitted to the same training images."""

from collections.abc import Mapping
from typing import Any

from trainer.evaluation.evaluators import Column, EvaluatedModel, Result

ORDER = 10
COLUMNS = (
    Column("pca_mse", "PCA mse", ".5f"),
    Column("mse_to_pca", "mse / PCA mse", ".3f"),
)


def applies(evaluated: EvaluatedModel) -> bool:
    """Returns whether the code is smaller than an image; otherwise PCA is perfect."""
    return evaluated.is_undercomplete


def measure(evaluated: EvaluatedModel) -> Result:
    """Measures `pca_mse` and, unless that is 0, `mse_to_pca`, the ratio `mse` / `pca_mse`.

    With fewer training images than values in a code also `pca_components`, which are as many as the
    images.
    """
    metrics: dict[str, float] = {
        "pca_mse": evaluated.kept_number("pca_mse", lambda: float(evaluated.pca_errors.mean()))
    }
    if evaluated.components < evaluated.model.code_size:
        metrics["pca_components"] = evaluated.components
    if metrics["pca_mse"] > 0:  # a feature may be a linear function of others
        mse = float(evaluated.test_errors.mean())
        metrics["mse_to_pca"] = mse / metrics["pca_mse"]
    return Result(metrics)


def advice(metrics: Mapping[str, Any]) -> str:
    """Says what may help if PCA has the smaller error."""
    if metrics.get("mse_to_pca", 0) <= 1:
        return ""
    components = metrics.get("pca_components", metrics["code_size"])
    return (
        f"PCA with {components} components has a smaller error. largest_errors.png shows "
        "whether a few extreme examples make the difference. If the training loss still falls, "
        "more steps help; if the validation loss rises, more data, fewer steps or "
        "--checkpoint=best."
    )
