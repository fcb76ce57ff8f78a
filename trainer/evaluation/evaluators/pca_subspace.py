"""Measures how close the subspace of a linear decoder comes to the principal subspace."""

import math

import numpy as np

from trainer.evaluation.evaluators import EvaluatedModel, Result

ORDER = 40


def applies(evaluated: EvaluatedModel) -> bool:
    """Returns whether the decoder is linear."""
    return hasattr(evaluated.model, "decoder_map")


def measure(evaluated: EvaluatedModel) -> Result:
    """Compares the decoder's subspace, and components recovered from that subspace, with PCA.

    `largest_angle_degrees` is the largest principal angle between the two subspaces;
    `component_cosines` the |cosine| of each recovered component to PCA's, largest variance first.
    """
    from scipy.linalg import subspace_angles

    decoder_map = evaluated.model.decoder_map
    recovered = principal_components(decoder_map, evaluated.train_rows)
    components = evaluated.pca.components_
    angles = subspace_angles(decoder_map, components.T)
    return Result(
        {
            "largest_angle_degrees": math.degrees(angles.max()),
            "component_cosines": np.abs(np.sum(recovered * components, axis=1)).tolist(),
        }
    )


def principal_components(decoder_map: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns principal components [K, D] of rows [N, D] in the column span of a map [D, K].

    QR gives an orthonormal basis Q of the span; PCA of the data projected on Q, in K dimensions,
    rotates Q to the components. This holds for every decoder that spans the principal subspace; the
    decoder's singular vectors are the components only with L2 on both maps (Kunin 2019).
    """
    from sklearn.decomposition import PCA

    basis, _ = np.linalg.qr(decoder_map)
    rotation = PCA(svd_solver="covariance_eigh").fit(rows @ basis.astype(np.float64)).components_
    return rotation @ basis.T
