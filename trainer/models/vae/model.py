"""The vae kind: its networks, its bounds and its likelihood."""

import functools
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.models import base, networks
from trainer.models.vae import Settings
from trainer.monitoring import figures
from trainer.positions import Noise

_OUTPUTS = {"bernoulli": ("bce", "sigmoid"), "gaussian": ("mse", "linear")}
_ACTIVE_VARIANCE = 0.01  # of a unit's posterior mean over the images (Burda et al. 2016)
_SAMPLES_AT_ONCE = 500  # of an image's code, of the thousands that tell its likelihood
_SAMPLES_SHOWN = 100
_PAIRS_SHOWN = 10
_MANIFOLD_SIDE = 20


class Model(base.Autoencoder):
    """Implements the kind that `trainer.models.vae` describes."""

    def __init__(self, image_shape: tuple[int, ...], settings: Settings):
        encoder, decoder = networks.create(image_shape, settings, numbers_of_each=2)
        loss, output_activation = _OUTPUTS[settings.likelihood]
        super().__init__(
            image_shape, encoder, decoder, loss=loss, output_activation=output_activation
        )
        log_likelihoods: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
            "bernoulli": bernoulli_nats,
            "gaussian": functools.partial(
                gaussian_nats, standard_deviation=settings.standard_deviation
            ),
        }
        self._likelihood = settings.likelihood
        self._pixel_log_likelihood = log_likelihoods[settings.likelihood]
        self._binarisation = settings.binarisation
        self._objective = settings.objective
        self._samples = settings.samples
        self._beta = settings.beta
        self._beta_warmup_share = settings.beta_warmup_share
        self._nll_samples = settings.nll_samples

    def check_data(self, lowest: float, highest: float) -> None:
        """Raises UserError if a Bernoulli likelihood is asked of numbers outside [0, 1]."""
        if self._likelihood == "bernoulli":
            others = "model.likelihood='gaussian' and model.binarisation='none'"
            base.require_unit_interval("model.likelihood='bernoulli'", lowest, highest, others)

    def encode(self, images: tf.Tensor) -> tf.Tensor:
        """Images [B, H, W, C] to the means of their codes, float32 [B, K]."""
        return self.posterior(images)[0]

    def plain_keras_code(self, encoded: keras.KerasTensor) -> keras.KerasTensor:
        """The mean alone."""
        return keras.ops.split(encoded, 2, axis=-1)[0]

    def posterior(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and log variance of q(z|x), each float32 [B, K]."""
        mean, log_variance = tf.split(self.encoder(images), 2, axis=-1)
        return mean, log_variance

    def prior_codes(self, noise: Noise) -> tf.Tensor:
        """Codes of z ~ N(0, I), float32 [B, K]."""
        return noise.normal("prior", (self.code_size,))

    def loss_terms(self, images: tf.Tensor, context: base.StepContext) -> dict[str, tf.Tensor]:
        """What bounds -log p(x) from above, in nats, summed over the pixels.

        "elbo": `reconstruction_nats`, -log p(x|z) averaged over the samples of z, and `kl_nats`,
        beta times KL(q(z|x) || p(z)). Beta rises from 0 in proportion to the training's progress
        until its warm-up ends; an evaluation, which comes at progress 1, has the final one.
        "iwae": `iwae_nats`, -log 1/k sum_i p(x, z_i) / q(z_i|x) of k samples (Burda et al. 2016).
        """
        seen = self.binarised(images, context.noise)
        mean, log_variance = self.posterior(seen)
        noise = context.noise.normal("code", (self._samples, self.code_size))
        if self._objective == "iwae":
            log_weights = self._log_weights(seen, mean, log_variance, noise)
            return {"iwae_nats": -log_mean_exp(log_weights)}
        return {
            "reconstruction_nats": self._reconstruction_nats(seen, mean, log_variance, noise),
            "kl_nats": self._beta_at(context.progress) * kl_nats(mean, log_variance),
        }

    def binarised(self, images: tf.Tensor, noise: Noise) -> tf.Tensor:
        """The x that is modelled: float32 of 0 and 1, or the images unless it is drawn anew."""
        if self._binarisation != "dynamic":
            return images
        return tf.cast(noise.uniform("binarisation", self.image_shape) < images, tf.float32)

    def nll_nats(self, images: tf.Tensor, noise: Noise) -> tf.Tensor:
        """-log p(x) by importance sampling from q(z|x), float32 [B]; no less, on average.

        One image after the other, and a part of its samples at a time, so that their layers stay
        in the caches.
        """
        seen = self.binarised(images, noise)
        mean, log_variance = self.posterior(seen)

        def nll_of(row):
            its_noise = noise.of(row).normal("importance", (self._nll_samples, self.code_size))
            image, its_mean, its_log_variance = (
                tf.gather(part, [row]) for part in (seen, mean, log_variance)
            )
            log_weights = [
                self._log_weights(
                    image,
                    its_mean,
                    its_log_variance,
                    its_noise[:, first : first + _SAMPLES_AT_ONCE],
                )
                for first in range(0, self._nll_samples, _SAMPLES_AT_ONCE)
            ]
            return -log_mean_exp(tf.concat(log_weights, axis=1))[0]

        return tf.map_fn(nll_of, tf.range(tf.shape(images)[0]), fn_output_signature=tf.float32)

    def own_metrics(self, measured: base.Measured) -> dict[str, Any]:
        """The bound and the likelihood of the test images, in nats an image.

        `elbo_nats` is -`reconstruction_nats` - `kl_nats`, whatever the objective and beta;
        `nll_nats` is -log p(x) by `nll_samples` importance samples. The images are binarised as
        `binarisation` says. `active_units` counts the code's units whose posterior mean has a
        variance above 0.01 over the images. Of grey levels that a "bernoulli" models there is no
        likelihood, but `grey_cross_entropy_nats` in the place of the reconstruction.
        """
        rows = measured.map_noisy_batches(self._bound_and_means, measured.test)
        reconstruction, kl = rows[:, :2].mean(axis=0, dtype=np.float64).tolist()
        active = rows[:, 2:].var(axis=0) > _ACTIVE_VARIANCE
        own = {"binarisation": self._binarisation, "active_units": int(active.sum()), "kl_nats": kl}
        if self._likelihood == "bernoulli" and self._binarisation == "none":
            return own | {"grey_cross_entropy_nats": reconstruction}
        nll = measured.map_noisy_batches(self.nll_nats, measured.test)
        return own | {
            "reconstruction_nats": reconstruction,
            "elbo_nats": -reconstruction - kl,
            "nll_nats": float(nll.mean(dtype=np.float64)),
            "nll_samples": self._nll_samples,
        }

    def own_pictures(
        self, measured: base.Measured, metrics: dict[str, Any]
    ) -> dict[str, np.ndarray]:
        """`prior_samples`; `interpolations`; `manifold` of a code of two numbers.

        Each row of the interpolations leads from a test image to another by equal steps between
        their codes. The manifold decodes the quantiles of the prior, evenly spread in probability.
        """
        del metrics
        samples = measured.map_noisy_batches(
            lambda _, noise: self.decode(self.prior_codes(noise)), measured.test[:_SAMPLES_SHOWN]
        )
        shown = {"prior_samples": figures.grid(samples, columns=math.isqrt(_SAMPLES_SHOWN))}
        if len(measured.test) > 1:
            shown["interpolations"] = self._interpolations(measured)
        if self.code_size == 2:
            shown["manifold"] = self._manifold()
        return shown

    def validation_pictures(self, images: np.ndarray, noise: Noise) -> dict[str, np.ndarray]:
        """`prior_samples`, as many as there are images, and `manifold`, both as `own_pictures`."""
        samples = self.decode(self.prior_codes(noise)).numpy()
        shown = super().validation_pictures(images, noise)
        shown["prior_samples"] = figures.grid(samples, columns=math.isqrt(_SAMPLES_SHOWN))
        if self.code_size == 2:
            shown["manifold"] = self._manifold()
        return shown

    def _bound_and_means(self, images, noise):
        """Reconstruction and KL in nats, and the posterior mean: [B, 2 + K]."""
        seen = self.binarised(images, noise)
        mean, log_variance = self.posterior(seen)
        code_noise = noise.normal("code", (self._samples, self.code_size))
        reconstruction = self._reconstruction_nats(seen, mean, log_variance, code_noise)
        terms = tf.stack([reconstruction, kl_nats(mean, log_variance)], axis=1)
        return tf.concat([terms, mean], axis=1)

    def _interpolations(self, measured):
        share = np.linspace(0, 1, 10, dtype=np.float32)[:, np.newaxis]
        rows = []
        for first in range(0, min(2 * _PAIRS_SHOWN, len(measured.test) - 1), 2):
            start, end = measured.test_codes[first : first + 2]
            between = self.decode((1 - share) * start + share * end)
            images = measured.test[first : first + 2]
            rows.append(np.concatenate([images[:1], between, images[1:]]))
        return figures.grid(np.concatenate(rows), columns=len(rows[0]))

    def _manifold(self):
        from scipy.special import ndtri  # the inverse of the normal distribution function

        levels = ndtri((np.arange(_MANIFOLD_SIDE) + 0.5) / _MANIFOLD_SIDE)
        down, across = np.meshgrid(-levels, levels, indexing="ij")
        codes = np.stack([across.ravel(), down.ravel()], axis=1).astype(np.float32)
        return figures.grid(np.asarray(self.decode(codes)), columns=_MANIFOLD_SIDE, gap=0)

    def _beta_at(self, progress):
        if self._beta_warmup_share == 0:
            return self._beta
        return self._beta * tf.minimum(progress / self._beta_warmup_share, 1.0)

    def _reconstruction_nats(self, seen, mean, log_variance, noise):
        codes = reparametrised(mean, log_variance, noise)
        return -tf.reduce_mean(self._log_likelihood(seen, codes), axis=1)

    def _log_weights(self, seen, mean, log_variance, noise):
        """The log p(x, z) / q(z|x) of the samples z that noise [B, k, K] gives, [B, k]."""
        codes = reparametrised(mean, log_variance, noise)
        log_ratio = 0.5 * (tf.square(noise) + log_variance[:, tf.newaxis] - tf.square(codes))
        return self._log_likelihood(seen, codes) + tf.reduce_sum(log_ratio, axis=-1)

    def _log_likelihood(self, seen, codes):
        """The log p(x|z) of images [B, H, W, C] by each of their codes [B, k, K], [B, k]."""
        pixels = math.prod(self.image_shape)
        logits = self.decoder(tf.reshape(codes, [-1, self.code_size]))
        logits = tf.reshape(logits, [-1, codes.shape[1], pixels])
        seen = tf.reshape(seen, [-1, 1, pixels])
        return tf.reduce_sum(self._pixel_log_likelihood(logits, seen), axis=-1)


def reparametrised(mean: tf.Tensor, log_variance: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
    """Samples mean + standard deviation * noise: [B, K], [B, K], [B, k, K] to [B, k, K]."""
    return mean[:, tf.newaxis] + tf.exp(0.5 * log_variance)[:, tf.newaxis] * noise


def kl_nats(mean: tf.Tensor, log_variance: tf.Tensor) -> tf.Tensor:
    """KL(N(mean, diag(variance)) || N(0, I)) in nats, [B, K] to [B] (Kingma & Welling 2014)."""
    terms = tf.square(mean) + tf.exp(log_variance) - log_variance - 1
    return 0.5 * tf.reduce_sum(terms, axis=-1)


def log_mean_exp(values: tf.Tensor) -> tf.Tensor:
    """The log 1/k sum_i exp(v_i) over the last axis, [B, k] to [B]."""
    return tf.reduce_logsumexp(values, axis=-1) - math.log(values.shape[-1])


def bernoulli_nats(logits: tf.Tensor, pixels: tf.Tensor) -> tf.Tensor:
    """The log p of each pixel x of logit l: x l - log(1 + exp(l))."""
    return pixels * logits - tf.math.softplus(logits)


def gaussian_nats(means: tf.Tensor, pixels: tf.Tensor, standard_deviation: float) -> tf.Tensor:
    """The log density of each pixel, N(mean, standard_deviation**2)."""
    deviations = (pixels - means) / standard_deviation
    return -0.5 * tf.square(deviations) - math.log(standard_deviation * math.sqrt(2 * math.pi))
