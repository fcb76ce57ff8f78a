"""Builds the contractive kind: its networks and its loss."""

import math
from collections.abc import Callable

import keras
import tensorflow as tf

from trainer.models import base, networks
from trainer.models.contractive import Settings
from trainer.models.layer_pairs import LayerPair
from trainer.positions import Noise

Encode = Callable[[tf.Tensor], tf.Tensor]  # of the model or of one layer: [B, ...] to [B, K]
CodesAndNorm = tuple[tf.Tensor, tf.Tensor]  # float32 [B, K], and ||J||_F^2 of each, float32 [B]

_MAX_PASSES = 8  # backward passes for a Jacobian; more are faster, but take longer to compile


class Model(base.Autoencoder):
    """Implements the kind that `trainer.models.contractive` describes."""

    def __init__(self, image_shape: tuple[int, ...], settings: Settings):
        super().__init__(
            image_shape,
            *networks.dense_autoencoder(image_shape, settings, tied=settings.tied_weights),
            loss=settings.loss,
            output_activation=settings.output_activation,
            start=settings.start,
        )
        self._penalty_weight = settings.penalty_weight
        self._probes = settings.probes
        self._method = settings.jacobian

    def loss_terms(self, images: tf.Tensor, context: base.StepContext) -> dict[str, tf.Tensor]:
        """Returns the reconstruction error, and `contraction`, the weighted squared norm."""
        images = tf.convert_to_tensor(images)
        codes, squared_norm = self._codes_and_norm(self.encode, images, context.noise)
        return {
            **self.error_term(self.decoder(codes), images),
            "contraction": self._penalty_weight * squared_norm,
        }

    def layer_terms(
        self, pair: LayerPair, inputs: tf.Tensor, context: base.StepContext
    ) -> dict[str, tf.Tensor]:
        """Returns the error of a layer's inputs, and `contraction` by the layer's own Jacobian."""
        if pair.is_sigmoid:
            codes = pair.encode(inputs)
            squared_norm = _norm_of_sigmoid_layer(pair.kernel, codes)
        else:
            codes, squared_norm = self._codes_and_norm(pair.encode, inputs, context.noise)
        return {
            pair.loss: pair.error(codes, inputs),
            "contraction": self._penalty_weight * squared_norm,
        }

    def jacobian(self, images: tf.Tensor) -> tf.Tensor:
        """Returns J of images [B, H, W, C], float32 [B, K, H, W, C]."""
        return _jacobian(self.encode, tf.convert_to_tensor(images), self.code_size)

    def _codes_and_norm(self, encode: Encode, inputs: tf.Tensor, noise: Noise) -> CodesAndNorm:
        methods = {
            "closed_form": self._closed_form,
            "exact": self._exact,
            "hutchinson": self._hutchinson,
        }
        return methods[self._method](encode, inputs, noise)

    def _closed_form(self, encode: Encode, inputs: tf.Tensor, noise: Noise) -> CodesAndNorm:
        del noise
        codes = encode(inputs)
        return codes, _norm_of_sigmoid_layer(self.encoder.get_layer("code").kernel, codes)

    def _exact(self, encode: Encode, inputs: tf.Tensor, noise: Noise) -> CodesAndNorm:
        del noise
        codes = encode(inputs)
        return codes, _sum_of_squares(_jacobian(encode, inputs, codes.shape[1]))

    def _hutchinson(self, encode: Encode, inputs: tf.Tensor, noise: Noise) -> CodesAndNorm:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(inputs)
            codes = encode(inputs)
        uniform = noise.uniform("probe", (self._probes, codes.shape[1]))
        signs = tf.unstack(tf.where(uniform < 0.5, -1.0, 1.0), axis=1)
        products = [tape.gradient(codes, inputs, output_gradients=v) for v in signs]  # J^T v
        return codes, tf.add_n([_sum_of_squares(rows) for rows in products]) / self._probes


def _jacobian(encode: Encode, inputs: tf.Tensor, code_size: int) -> tf.Tensor:
    """Returns J, float32 [B, K, ...], of inputs [B, ...].

    Repeats the batch, so that each of at most 8 backward passes gives the rows of several units.
    With `GradientTape.batch_jacobian` XLA would compile the weights as constants, and so compile
    again after every step.
    """
    repeats = math.ceil(code_size / _MAX_PASSES)
    passes = math.ceil(code_size / repeats)
    repeated = tf.repeat(inputs, repeats, axis=0)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(repeated)
        codes = encode(repeated)
    rows = []
    for units in tf.split(tf.eye(passes * repeats, code_size), passes):
        directions = tf.tile(units, [tf.shape(inputs)[0], 1])
        gradients = tape.gradient(codes, repeated, output_gradients=directions)
        rows.append(tf.reshape(gradients, [-1, repeats, *inputs.shape[1:]]))
    return tf.concat(rows, axis=1)[:, :code_size]


def _norm_of_sigmoid_layer(kernel: keras.Variable, codes: tf.Tensor) -> tf.Tensor:
    """Returns ||J||_F^2 of a layer's codes [B, K], whose kernel is [D, K]."""
    unit_norms = tf.reduce_sum(tf.square(tf.convert_to_tensor(kernel)), axis=0)
    return tf.linalg.matvec(tf.square(codes * (1 - codes)), unit_norms)


def _sum_of_squares(rows: tf.Tensor) -> tf.Tensor:
    """Sums the squares of each row, [B, ...] to [B]."""
    return tf.reduce_sum(tf.square(rows), axis=list(range(1, len(rows.shape))))
