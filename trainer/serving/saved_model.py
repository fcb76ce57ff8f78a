"""Writes the SavedModel of an export: its networks, samples of the prior, and scores."""

import dataclasses
from pathlib import Path

import keras
import tensorflow as tf
from keras.export import ExportArchive

from trainer.models.base import Autoencoder
from trainer.positions import Noise
from trainer.run.distances import Distances
from trainer.run.error_reference import ErrorReference
from trainer.serving import plain_keras


@dataclasses.dataclass(frozen=True)
class Scores:
    """Computes what `trainer.encode --errors` writes of examples, except PCA's errors."""

    residuals: keras.Model  # see `plain_keras.residuals`
    reference: ErrorReference

    def of(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns `errors` and perhaps `distances`, float32 [B], `is_anomaly` and so on, [B]."""
        codes, residuals = self.residuals(examples)
        errors = tf.reduce_mean(tf.square(residuals), axis=range(1, len(residuals.shape)))
        scores = {"errors": errors}
        if self.reference.error_threshold is not None:
            scores["is_anomaly"] = errors > self.reference.error_threshold
        if self.reference.distances is not None:
            distances = _distances(self.reference.distances, residuals, codes)
            scores["distances"] = tf.cast(distances, tf.float32)
            if self.reference.distance_threshold is not None:
                scores["is_anomaly_by_distance"] = distances > self.reference.distance_threshold
        return scores


def write(
    path: Path,
    encoder: keras.Model,
    decoder: keras.Model,
    model: Autoencoder,
    seed: int,
    scores: Scores,
) -> None:
    """Writes a SavedModel of encode, decode, reconstruct, errors and, with a prior, sample.

    Args:
      path: the folder to create.
      encoder: see `plain_keras.encoder`.
      decoder: see `plain_keras.decoder`.
      model: gives the prior.
      seed: of the samples; the run's seed gives the samples of `trainer.sample`.
      scores: computed by `errors`.
    """
    rows = plain_keras.input_name(model)
    inputs, codes = (
        tf.TensorSpec(network.inputs[0].shape, network.inputs[0].dtype, network.inputs[0].name)
        for network in (encoder, decoder)
    )

    # Unlike a tf.function, a signature does not check the shapes of its arguments.
    def encode(x):
        return encoder(tf.ensure_shape(x, inputs.shape))

    def decode(x):
        return decoder(tf.ensure_shape(x, codes.shape))

    def sample(n, first):
        samples = model.prior_codes(Noise(seed, first, n, stream="evaluation"))
        return {"codes": samples, rows: decoder(samples)}

    archive = ExportArchive()
    archive.add_endpoint("encode", lambda x: {"codes": encode(x)}, [inputs])
    archive.add_endpoint("decode", lambda x: {rows: decode(x)}, [codes])
    archive.add_endpoint("reconstruct", lambda x: {rows: decoder(encode(x))}, [inputs])
    if model.prior_codes(Noise(seed, 0, 1)) is not None:
        arguments = [tf.TensorSpec((), tf.int32, "n"), tf.TensorSpec((), tf.int64, "first")]
        archive.add_endpoint("sample", sample, arguments)
    archive.add_endpoint("errors", lambda x: scores.of(tf.ensure_shape(x, inputs.shape)), [inputs])
    archive.write_out(path, verbose=False)


def _distances(distances: Distances, residuals: tf.Tensor, codes: tf.Tensor) -> tf.Tensor:
    """Computes `Distances.of` by TensorFlow, float64 [B]."""
    size = len(distances.stds)
    flat = tf.reshape(residuals, [-1, size - codes.shape[1]])
    values = tf.cast(tf.concat([flat, codes], axis=1), tf.float64)
    deviations = values / distances.stds - distances.location
    return tf.reduce_sum((deviations @ distances.precision) * deviations, axis=1) / size
