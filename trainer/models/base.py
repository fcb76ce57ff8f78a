"""Defines the contract of every kind: encode, decode, and loss terms per example."""

import dataclasses
import math

import keras
import numpy as np
import tensorflow as tf

from trainer.errors import require
from trainer.models import pca_start
from trainer.models.layer_pairs import LayerPair
from trainer.models.learner import Learner
from trainer.positions import Noise

_MAX_FILTERS = 100
_MEAN_MARGIN = 1e-3  # of pixels that are always 0 or 1, whose logits are not finite


@dataclasses.dataclass(frozen=True)
class StepContext:
    """Holds what a loss of one step depends on besides images: noise, progress, batch means."""

    noise: Noise  # a row for each example, by its position
    progress: tf.Tensor  # float32 [], the share of the steps that are done; 1 in an evaluation
    training: bool  # False: in an evaluation
    batch_means: tf.Tensor | None = None  # float32 [S], of the kind's `statistics`
    # float32 [global B, S], of the kind's `shared_values`; None in an evaluation
    batch_values: tf.Tensor | None = None
    first_row: tf.Tensor | int = 0  # of the examples in the global batch
    labels: tf.Tensor | None = None  # int64 [B], in the training of a classifier


@dataclasses.dataclass(frozen=True)
class ImageGrid:
    """Holds images to draw side by side: [N, H, W, C] in [0, 1], or vectors [N, D] of any values.

    The fields are the arguments of `trainer.monitoring.figures.grid`.
    """

    images: np.ndarray
    columns: int = 10
    gap: int = 2  # white pixels between two images
    stretch: bool = False  # scales each image from black, its minimum, to white, its maximum
    marks: np.ndarray | None = None  # bool [N, H, W], the pixels to mark


class Autoencoder(Learner, keras.Model):
    """Reconstructs images [B, H, W, C], pixels in [0, 1], from a code [B, K].

    Unless pixels are mentioned, images may be vectors [B, D] of any values. `encoder` maps images
    to the code, `decoder` maps the code to logits, the reconstruction before the output
    activation; both return float32. A model sees one replica and knows of no other.
    """

    output_bias = "zeros"  # the value of the key of the same name

    def __init__(
        self,
        image_shape: tuple[int, ...],
        encoder: keras.Sequential,
        decoder: keras.Sequential,
        *,
        loss: str,
        output_activation: str,
        start: str = "random",
    ):
        """Takes built networks, and the values of keys of the same names.

        With `start` "pca", the networks get linear shortcuts, which `initialise` sets.
        """
        super().__init__()
        self.image_shape = image_shape
        self.starts_at_pca = start == "pca"
        pair = (encoder, decoder)
        if self.starts_at_pca:
            pair = pca_start.add_shortcuts(image_shape, encoder, decoder)
        self.encoder, self.decoder = pair
        self._loss = loss
        self.output_activation = output_activation
        self.built = True

    @property
    def code_size(self) -> int:
        """Returns the size K of a code."""
        return self.decoder.input_shape[-1]

    def initialise(self, statistics: pca_start.Statistics) -> None:
        """Sets the weights that depend on the training examples; begins a new run."""
        if self.starts_at_pca:
            self._start_at(statistics.pca(self.code_size))
        if self.output_bias == "data":
            self._set_output_bias(statistics.mean())

    def encode(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the codes of images [B, H, W, C], float32 [B, K]."""
        return self.encoder(images)

    def decode(self, codes: tf.Tensor) -> tf.Tensor:
        """Returns the reconstructions from codes [B, K], float32 [B, H, W, C]."""
        return self._output(self.decoder(codes))

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the reconstructions of images, both [B, H, W, C]."""
        return self.decode(self.encode(images))

    def plain_keras_code(self, encoded: keras.KerasTensor) -> keras.KerasTensor:
        """Computes the code from the encoder's output by Keras's own operations.

        Takes and returns symbolic tensors, for an exported network that loads without the trainer.
        A kind whose `encode` does more than `encoder` overrides this method.
        """
        return encoded

    def loss_terms(self, images: tf.Tensor, context: StepContext) -> dict[str, tf.Tensor]:
        """Returns the terms of the loss, each float32 [B]; training minimises their sum.

        By default the reconstruction error alone, under the name of the loss.
        """
        del context
        return self.error_term(self.decoder(self.encode(images)), images)

    def layer_pair(self, number: int) -> LayerPair:
        """Returns what pretrains the layer of a number, counted from 0 at the image."""
        return LayerPair(self, number, self._loss)

    def layer_terms(
        self, pair: LayerPair, inputs: tf.Tensor, context: StepContext
    ) -> dict[str, tf.Tensor]:
        """Returns the terms of the loss of a layer's pretraining on its inputs, each float32 [B].

        By default the error of the inputs alone.
        """
        del context
        return {pair.loss: pair.error(pair.encode(inputs), inputs)}

    def error_term(self, logits: tf.Tensor, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns `error` as a term of the loss, by its name: "mse" or "bce"."""
        return {self._loss: self.error(logits, images)}

    def error(self, logits: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        """Returns the error of each reconstruction, float32 [B], a mean over the pixels.

        "mse" is the squared error, "bce" the binary cross-entropy of the logits in nats.
        """
        if self._loss == "bce":
            error = tf.nn.sigmoid_cross_entropy_with_logits(labels=images, logits=logits)
        else:
            error = tf.square(self._output(logits) - images)
        return tf.reduce_mean(error, axis=list(range(1, len(images.shape))))

    def check_data(self, lowest: float, highest: float) -> None:
        """Raises UserError unless the kind can learn from data within this range."""
        others = "model.loss='mse' and model.output_activation='linear'"
        if self._loss == "bce":
            require_unit_interval("model.loss='bce'", lowest, highest, others)
        if self.output_activation == "sigmoid":
            require_unit_interval("model.output_activation='sigmoid'", lowest, highest, others)

    def corrupted(self, images: tf.Tensor, noise: Noise) -> tf.Tensor | None:
        """Corrupts images [B, H, W, C] for the model to restore; None: no corruption."""
        del images, noise
        return None

    def prior_codes(self, noise: Noise) -> tf.Tensor | None:
        """Draws codes from the kind's prior, float32 [B, K]; None: the kind has no prior."""
        del noise
        return None

    def has_converged(self) -> bool:
        """Returns whether a training may end at this validation, before its last step.

        Must depend on the weights alone, or a resumed run would end at another step.
        """
        return False

    def advice(self) -> str:
        """Returns a line for the user on a trained model that needs more training, or ""."""
        return ""

    def manifold(self) -> ImageGrid | None:
        """Returns images of codes spread over a prior of two values; None: no such prior."""
        return None

    def filters(self) -> ImageGrid | None:
        """Returns the weights of the first dense units; None: the first layer is a convolution."""
        first = next(layer for layer in self.encoder.layers if layer.weights)
        if not isinstance(first, keras.layers.Dense):
            return None
        kernels = first.kernel.numpy().T[:_MAX_FILTERS].reshape(-1, *self.image_shape)
        return ImageGrid(kernels, stretch=True)

    def reconstruction_rows(self, images: np.ndarray, noise: Noise) -> dict[str, np.ndarray]:
        """Returns images [N, H, W, C], codes and reconstructions, by the titles of a figure's rows.

        The rows are `original`, `corrupted` if the kind corrupts, `code` and `reconstruction`.
        """
        corrupted = self.corrupted(images, noise)
        codes = self.encode(images if corrupted is None else corrupted)
        rows = {"original": images, "corrupted": corrupted, "code": codes}
        rows["reconstruction"] = self.decode(codes)
        return {name: np.asarray(row) for name, row in rows.items() if row is not None}

    def validation_images(self, images: np.ndarray, noise: Noise) -> dict[str, ImageGrid]:
        """Returns the images to log at a validation, by TensorBoard's tags; must be quick.

        Takes some validation images [N, H, W, C] in [0, 1] and the noise of N examples. By default
        returns `filters`, `prior_samples` and `manifold`, if the kind has them.
        """
        del images
        codes = self.prior_codes(noise)
        samples = None if codes is None else ImageGrid(np.asarray(self.decode(codes)))
        grids = {
            "filters": self.filters(),
            "prior_samples": samples,
            "manifold": self.manifold(),
        }
        return {tag: grid for tag, grid in grids.items() if grid is not None}

    def _set_output_bias(self, mean: np.ndarray) -> None:
        """Sets the bias that alone gives the mean example [D], of convolutions its mean pixel.

        A sigmoid's bias is the logit of the mean, which is first clipped to [0.001, 0.999].
        """
        names = [layer.name for layer in self.decoder.layers]
        require(
            "logits" in names,
            "model.output_bias='data' needs a decoder whose last layer with a bias is named "
            f"'logits'; the layers of this one are {', '.join(names)}",
        )
        bias = self.decoder.get_layer("logits").bias
        values = mean.reshape(-1, bias.shape[0]).mean(axis=0)
        if self.output_activation == "sigmoid":
            values = np.clip(values, _MEAN_MARGIN, 1 - _MEAN_MARGIN)
            values = np.log(values / (1 - values))
        bias.assign(values)

    def _start_at(self, pca: pca_start.Pca) -> None:
        """Makes the code PCA's scores, divided by one number so that their mean square is 1."""
        scale = np.sqrt(pca.variances.mean()) or 1.0
        encoder_map = pca.encoder_map / scale
        pca_start.set_shortcuts(
            self.encoder,
            self.decoder,
            encoder_map,
            -pca.mean @ encoder_map,
            pca.decoder_map * scale,
            pca.mean,
        )

    def _output(self, logits: tf.Tensor) -> tf.Tensor:
        return tf.sigmoid(logits) if self.output_activation == "sigmoid" else logits


def require_undercomplete(code_size: int, image_shape: tuple[int, ...]) -> None:
    """Raises UserError if the code is larger than the image it should compress."""
    pixels = math.prod(image_shape)
    shape = "x".join(map(str, image_shape))
    what = f"an image of {shape}" if len(image_shape) > 1 else f"a vector of {shape} feature(s)"
    require(
        code_size <= pixels,
        f"model.code_size={code_size} is not allowed here; {what} allows 1 to {pixels}",
    )


def require_unit_interval(setting: str, lowest: float, highest: float, instead: str) -> None:
    """Raises UserError, with what to set instead, if the data leave [0, 1]."""
    require(
        lowest >= 0 and highest <= 1,
        f"{setting} needs numbers in [0, 1], but the data reach from {lowest:g} to {highest:g}; "
        f"such data need {instead}",
    )


def with_gradient_of(values: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Returns values, with the gradient of others, to whose shape they are broadcast.

    With the batch means [S] as values and the statistics [B, S] of each example as others, a loss
    term f has the value f(means) for each example. The mean of its gradients over the global batch
    is the gradient of f(means): f'(means) times the mean gradient of the statistics.
    """
    # The difference is 0 exactly, so that the values keep their bits.
    return tf.stop_gradient(values) + (others - tf.stop_gradient(others))
