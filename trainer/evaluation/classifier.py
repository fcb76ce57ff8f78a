"""Classifies images by a softmax layer on an autoencoder's code, both trained on labels."""

import keras
import tensorflow as tf

from trainer.evaluation.finetuning_options import FineTuning
from trainer.models.base import Autoencoder, StepContext
from trainer.positions import Noise

_PLAIN = FineTuning()


class Classifier(keras.Model):
    """Computes logits W code + b of an autoencoder's code; trains the encoder with W and b.

    Vincent et al. 2010 and Rifai et al. 2011 measure encoders in this way. The settings say what
    regularises the training (Srivastava et al. 2014); the logits themselves have no noise.
    """

    def __init__(self, autoencoder: Autoencoder, classes: int, settings: FineTuning = _PLAIN):
        super().__init__()
        self.encoder = autoencoder.encoder
        self._encode = autoencoder.encode  # may do more than the encoder
        self._settings = settings
        self.softmax = keras.layers.Dense(classes, name="softmax", dtype="float32")
        self.softmax.build((None, autoencoder.code_size))
        self.built = True

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the logits of images [B, H, W, C], float32 [B, classes]."""
        return self.softmax(self._encode(images))

    def loss_terms(self, images: tf.Tensor, context: StepContext) -> dict[str, tf.Tensor]:
        """Returns the `cross_entropy` of the labels in nats, float32 [B]."""
        settings, noise = self._settings if context.training else _PLAIN, context.noise
        images = dropout(images, settings.input_dropout, noise, "input_dropout")
        codes = dropout(self._encode(images), settings.code_dropout, noise, "code_dropout")
        return {"cross_entropy": cross_entropy_nats(self.softmax(codes), context.labels)}

    def statistics(self, images: tf.Tensor) -> None:
        """Returns None: no loss term needs means over the batch."""
        del images


def dropout(rows: tf.Tensor, share: float, noise: Noise, purpose: str) -> tf.Tensor:
    """Sets a share of the values of rows [B, ...] to 0 and divides the others by 1 - share.

    So the mean over the noise is the row itself (Srivastava et al. 2014).
    """
    if share == 0:
        return rows
    kept = noise.uniform(purpose, tuple(rows.shape[1:])) >= share
    return tf.where(kept, rows / (1 - share), 0.0)


def cross_entropy_nats(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Returns -log softmax(logits)[label] of logits [B, classes] and labels [B], float32 [B]."""
    # One-hot, since the gradient of a gather is a scatter, which XLA on a GPU does one by one.
    targets = tf.one_hot(labels, logits.shape[1])
    return tf.nn.softmax_cross_entropy_with_logits(targets, logits)
