"""Classifies images by a softmax layer on an autoencoder's code, both trained on labels."""

import keras
import tensorflow as tf

from trainer.errors import require
from trainer.evaluation.finetuning_options import FineTuning
from trainer.models.base import Autoencoder, StepContext
from trainer.models.dropout import dropout, hidden_layers, outputs_dropped
from trainer.models.learner import Learner

_PLAIN = FineTuning()


class Classifier(Learner, keras.Model):
    """Computes logits W code + b of an autoencoder's code; trains the encoder with W and b.

    Vincent et al. 2010 and Rifai et al. 2011 measure encoders in this way. The settings say what
    regularises the training; the logits themselves have no noise.
    """

    def __init__(self, autoencoder: Autoencoder, classes: int, settings: FineTuning = _PLAIN):
        """Adds a softmax layer of so many classes.

        Raises:
          UserError: `hidden_dropout` is set, but the encoder has no hidden dense layers.
        """
        super().__init__()
        self.encoder = autoencoder.encoder
        self._encode = autoencoder.encode  # may do more than the encoder
        self._settings = settings
        self._hidden = hidden_layers(autoencoder.encoder)
        require(
            not settings.hidden_dropout or len(self._hidden) > 0,
            f"hidden_dropout={settings.hidden_dropout} is not allowed; this run's encoder has no "
            "hidden dense layers",
        )
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
        with outputs_dropped(self._hidden, settings.hidden_dropout, noise):
            codes = self._encode(images)
        logits = self.softmax(dropout(codes, settings.code_dropout, noise, "code_dropout"))
        return {
            "cross_entropy": cross_entropy_nats(logits, context.labels, settings.label_smoothing)
        }


class SoftmaxLayer(Learner):
    """Trains the softmax layer of a classifier alone; the encoder keeps its weights.

    Steps take it in place of the classifier.
    """

    def __init__(self, classifier: Classifier):
        self.layers = classifier.layers
        self.variables = classifier.variables
        self.trainable_variables = classifier.softmax.trainable_variables
        self._classifier = classifier

    def loss_terms(self, images: tf.Tensor, context: StepContext) -> dict[str, tf.Tensor]:
        """Returns the classifier's `cross_entropy` in nats, float32 [B]."""
        return self._classifier.loss_terms(images, context)


def cross_entropy_nats(
    logits: tf.Tensor, labels: tf.Tensor, label_smoothing: float = 0.0
) -> tf.Tensor:
    """Returns -sum_c t_c log softmax(logits)_c of logits [B, C] and labels [B], float32 [B].

    The target t is 1 - label_smoothing for the label, plus label_smoothing / C for every class
    (Szegedy et al. 2016).
    """
    # One-hot, since the gradient of a gather is a scatter, which XLA on a GPU does one by one.
    targets = tf.one_hot(labels, logits.shape[1])
    if label_smoothing:
        targets = (1 - label_smoothing) * targets + label_smoothing / logits.shape[1]
    return tf.nn.softmax_cross_entropy_with_logits(targets, logits)
