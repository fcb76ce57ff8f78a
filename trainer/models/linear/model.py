"""The linear kind: its networks."""

import math
from typing import Any

import numpy as np

from trainer.models import base, networks
from trainer.models.linear import Settings


class Model(base.Autoencoder):
    """Implements the kind that `trainer.models.linear` describes."""

    def __init__(self, image_shape: tuple[int, ...], settings: Settings):
        size = settings.code_size
        base.require_undercomplete(size, image_shape)
        super().__init__(
            image_shape,
            networks.dense_encoder(image_shape, (), size, "linear", "linear"),
            networks.dense_decoder(image_shape, (), size, "linear"),
            loss="mse",
            output_activation="linear",
        )

    def own_metrics(self, measured: base.Measured) -> dict[str, Any]:
        """How near the decoder's subspace and the components recovered from it come to PCA.

        `largest_angle_degrees` is the largest principal angle between the two subspaces;
        `component_cosines` the |cosine| of each recovered component to PCA's, largest variance
        first.
        """
        from scipy.linalg import subspace_angles

        decoder_map = self.decoder.get_layer("logits").kernel.numpy().T  # [H*W*C, K]
        recovered = principal_components(decoder_map, measured.train)
        components = measured.pca.components_
        angles = subspace_angles(decoder_map, components.T)
        return {
            "largest_angle_degrees": math.degrees(angles.max()),
            "component_cosines": np.abs(np.sum(recovered * components, axis=1)).tolist(),
        }


def principal_components(decoder_map: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The principal components [K, D] of images [N, ...] within the columns' span of a map [D, K].

    QR gives an orthonormal basis Q of the span; PCA of the data projected on Q, in K dimensions,
    rotates it to the components. Right for every decoder that spans the principal subspace,
    whereas its singular vectors are the components only with L2 on both maps (Kunin 2019).
    """
    from sklearn.decomposition import PCA

    basis, _ = np.linalg.qr(decoder_map)
    projected = images.reshape(len(images), -1) @ basis
    rotation = PCA(svd_solver="covariance_eigh").fit(projected).components_
    return rotation @ basis.T
