"""Builds the vae kind: its networks, its bounds and its likelihood."""

import functools
import math
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from trainer.models import base, networks, pca_start
from trainer.models.vae import Settings
from trainer.positions import Noise

_OUTPUTS = {"bernoulli": ("bce", "sigmoid"), "gaussian": ("mse", "linear")}
_SAMPLES_AT_ONCE = 500  # importance samples computed together, of the thousands for an image
_MANIFOLD_SIDE = 20


class Model(base.Autoencoder):
    """Implements the kind that `trainer.models.vae` describes."""

    def __init__(self, image_shape: tuple[int, ...], settings: Settings):
        encoder, decoder = networks.create(image_shape, settings, numbers_of_each=2)
        loss, output_activation = _OUTPUTS[settings.likelihood]
        super().__init__(
            image_shape,
            encoder,
            decoder,
            loss=loss,
            output_activation=output_activation,
            start=settings.start,
        )
        log_likelihoods: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
            "bernoulli": bernoulli_nats,
            "gaussian": functools.partial(
                gaussian_nats, standard_deviation=settings.standard_deviation
            ),
        }
        self._pixel_log_likelihood = log_likelihoods[settings.likelihood]
        self.binarisation = settings.binarisation
        self._settings = settings
        self.nll_samples = settings.nll_samples

    def check_data(self, lowest: float, highest: float) -> None:
        """Raises UserError if the likelihood is Bernoulli and the data leave [0, 1]."""
        if self._settings.likelihood == "bernoulli":
            others = "model.likelihood='gaussian' and model.binarisation='none'"
            base.require_unit_interval("model.likelihood='bernoulli'", lowest, highest, others)

    def encode(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the posterior means of images [B, H, W, C], float32 [B, K]."""
        return self.posterior(images)[0]

    def plain_keras_code(self, encoded: keras.KerasTensor) -> keras.KerasTensor:
        """Takes the mean and leaves out the log variance."""
        return keras.ops.split(encoded, 2, axis=-1)[0]

    def posterior(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns mean and log variance of q(z|x), each float32 [B, K]."""
        mean, log_variance = tf.split(self.encoder(images), 2, axis=-1)
        return mean, log_variance

    def prior_codes(self, noise: Noise) -> tf.Tensor:
        """Draws codes z ~ N(0, I), float32 [B, K]."""
        return noise.normal("prior", (self.code_size,))

    def loss_terms(self, images: tf.Tensor, context: base.StepContext) -> dict[str, tf.Tensor]:
        """Returns an upper bound of -log p(x) in nats, summed over the pixels.

        "elbo": `reconstruction_nats`, -log p(x|z) averaged over the samples of z, and `kl_nats`,
        beta times KL(q(z|x) || p(z)). Beta rises linearly from 0 until the warm-up ends; an
        evaluation, at progress 1, has the final beta.
        "iwae": `iwae_nats`, -log 1/k sum_i p(x, z_i) / q(z_i|x) of k samples (Burda et al. 2016).
        """
        seen = self.binarised(images, context.noise)
        mean, log_variance = self.posterior(seen)
        noise = context.noise.normal("code", (self._settings.samples, self.code_size))
        if self._settings.objective == "iwae":
            return {"iwae_nats": self._iwae_nats(seen, mean, log_variance, noise)}
        kl, codes = kl_nats(mean, log_variance), reparametrised(mean, log_variance, noise)
        if self._settings.estimator == "path_derivative":
            log_ratios = log_ratio_without_score(mean, log_variance, codes)
            kl = base.with_gradient_of(kl, -tf.reduce_mean(log_ratios, axis=1))
        return {
            "reconstruction_nats": self._reconstruction_nats(seen, codes),
            "kl_nats": self._beta_at(context.progress) * kl,
        }

    def binarised(self, images: tf.Tensor, noise: Noise) -> tf.Tensor:
        """Draws x from the images, float32 of 0 and 1, if "dynamic"; else returns the images."""
        if self.binarisation != "dynamic":
            return images
        return tf.cast(noise.uniform("binarisation", self.image_shape) < images, tf.float32)

    def nll_nats(self, images: tf.Tensor, noise: Noise) -> tf.Tensor:
        """Estimates -log p(x) by importance sampling from q(z|x), float32 [B].

        The mean estimate is an upper bound. Computes some samples of one image at a time, so that
        the activations stay in the caches.
        """
        seen = self.binarised(images, noise)
        mean, log_variance = self.posterior(seen)

        def nll_of(row):
            image_noise = noise.of(row).normal("importance", (self.nll_samples, self.code_size))
            image, image_mean, image_log_variance = (
                tf.gather(rows, [row]) for rows in (seen, mean, log_variance)
            )
            log_weights = [
                self._log_weights(
                    image,
                    image_mean,
                    image_log_variance,
                    image_noise[:, first : first + _SAMPLES_AT_ONCE],
                )
                for first in range(0, self.nll_samples, _SAMPLES_AT_ONCE)
            ]
            return -log_mean_exp(tf.concat(log_weights, axis=1))[0]

        return tf.map_fn(nll_of, tf.range(tf.shape(images)[0]), fn_output_signature=tf.float32)

    @property
    def has_likelihood(self) -> bool:
        """Returns whether p(x|z) is a distribution of the images; grey levels are not Bernoulli."""
        return self._settings.likelihood != "bernoulli" or self.binarisation != "none"

    def elbo_terms(self, images: tf.Tensor, noise: Noise) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns -log p(x|z) averaged over samples of z, the KL, and the posterior mean.

        The first two are float32 [B], in nats; the mean is float32 [B, K].
        """
        seen = self.binarised(images, noise)
        mean, log_variance = self.posterior(seen)
        code_noise = noise.normal("code", (self._settings.samples, self.code_size))
        codes = reparametrised(mean, log_variance, code_noise)
        return self._reconstruction_nats(seen, codes), kl_nats(mean, log_variance), mean

    def manifold(self) -> base.ImageGrid | None:
        """Returns the images of a code of two values at quantiles of the prior.

        The quantiles are evenly spread in probability. None: the code has another size.
        """
        from scipy.special import ndtri  # the inverse of the normal distribution function

        if self.code_size != 2:
            return None
        levels = ndtri((np.arange(_MANIFOLD_SIDE) + 0.5) / _MANIFOLD_SIDE)
        down, across = np.meshgrid(-levels, levels, indexing="ij")
        codes = np.stack([across.ravel(), down.ravel()], axis=1).astype(np.float32)
        return base.ImageGrid(np.asarray(self.decode(codes)), columns=_MANIFOLD_SIDE, gap=0)

    def _start_at(self, pca: pca_start.Pca) -> None:
        """Starts at probabilistic PCA and its exact posterior (Tipping & Bishop 1999).

        A component of a variance v above that of the likelihood, s^2, has the decoder's column
        sqrt(v - s^2) times the component, and the posterior N(sqrt(v - s^2) / v * score, s^2 / v).
        """
        noise = self._settings.standard_deviation**2
        variances = np.maximum(pca.variances, noise)
        roots = np.sqrt(variances - noise)
        encoder_map = pca.encoder_map * roots / variances
        pca_start.set_shortcuts(
            self.encoder,
            self.decoder,
            np.concatenate([encoder_map, np.zeros_like(encoder_map)], axis=1),
            np.concatenate([-pca.mean @ encoder_map, np.log(noise / variances)]),
            roots[:, np.newaxis] * pca.decoder_map,
            pca.mean,
        )

    def _beta_at(self, progress):
        beta, warmup_share = self._settings.beta, self._settings.beta_warmup_share
        if warmup_share == 0:
            return beta
        return beta * tf.minimum(progress / warmup_share, 1.0)

    def _reconstruction_nats(self, seen, codes):
        return -tf.reduce_mean(self._log_likelihood(seen, codes), axis=1)

    def _iwae_nats(self, seen, mean, log_variance, noise):
        """Returns -log 1/k sum_i w_i of k samples, [B], with the gradient of the estimator."""
        if self._settings.estimator == "standard":
            return -log_mean_exp(self._log_weights(seen, mean, log_variance, noise))
        codes, set_factors = gradient_times(reparametrised(mean, log_variance, noise))
        log_weights = self._log_likelihood(seen, codes)
        log_weights += log_ratio_without_score(mean, log_variance, codes)
        set_factors(tf.nn.softmax(log_weights)[:, :, tf.newaxis])
        return -log_mean_exp(log_weights)

    def _log_weights(self, seen, mean, log_variance, noise):
        """Returns log p(x, z) / q(z|x), [B, k], of samples z made from noise [B, k, K]."""
        codes = reparametrised(mean, log_variance, noise)
        log_ratio = 0.5 * (tf.square(noise) + log_variance[:, tf.newaxis] - tf.square(codes))
        return self._log_likelihood(seen, codes) + tf.reduce_sum(log_ratio, axis=-1)

    def _log_likelihood(self, seen, codes):
        """Returns log p(x|z) of images [B, H, W, C] given each of the codes [B, k, K], [B, k]."""
        pixels = math.prod(self.image_shape)
        logits = self.decoder(tf.reshape(codes, [-1, self.code_size]))
        logits = tf.reshape(logits, [-1, codes.shape[1], pixels])
        seen = tf.reshape(seen, [-1, 1, pixels])
        return tf.reduce_sum(self._pixel_log_likelihood(logits, seen), axis=-1)


def reparametrised(mean: tf.Tensor, log_variance: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
    """Returns samples mean + std * noise: [B, K], [B, K], [B, k, K] to [B, k, K]."""
    return mean[:, tf.newaxis] + tf.exp(0.5 * log_variance)[:, tf.newaxis] * noise


def kl_nats(mean: tf.Tensor, log_variance: tf.Tensor) -> tf.Tensor:
    """Returns KL(N(mean, diag(variance)) || N(0, I)) in nats, [B] (Kingma & Welling 2014)."""
    terms = tf.square(mean) + tf.exp(log_variance) - log_variance - 1
    return 0.5 * tf.reduce_sum(terms, axis=-1)


def log_ratio_without_score(
    mean: tf.Tensor, log_variance: tf.Tensor, codes: tf.Tensor
) -> tf.Tensor:
    """Returns log p(z) - log q(z|x) of codes z [B, k, K], [B, k], differentiable in z alone."""
    mean, log_variance = (
        tf.stop_gradient(moment)[:, tf.newaxis] for moment in (mean, log_variance)
    )
    scaled = tf.square(codes - mean) * tf.exp(-log_variance)
    return 0.5 * tf.reduce_sum(scaled + log_variance - tf.square(codes), axis=-1)


def gradient_times(values: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], None]]:
    """Returns values whose gradient is multiplied by factors, and a function that sets them.

    So the factors may follow from the values; they are set before the gradient is computed.
    """
    factors: list[tf.Tensor] = []

    @tf.custom_gradient
    def identity(inputs):
        return tf.identity(inputs), lambda gradient: gradient * factors[0]

    return identity(values), factors.append


def log_mean_exp(values: tf.Tensor) -> tf.Tensor:
    """Returns log 1/k sum_i exp(v_i) over the last axis, [B, k] to [B]."""
    return tf.reduce_logsumexp(values, axis=-1) - math.log(values.shape[-1])


def bernoulli_nats(logits: tf.Tensor, pixels: tf.Tensor) -> tf.Tensor:
    """Returns log p of each pixel x given the logit l: x l - log(1 + exp(l))."""
    return pixels * logits - tf.math.softplus(logits)


def gaussian_nats(means: tf.Tensor, pixels: tf.Tensor, standard_deviation: float) -> tf.Tensor:
    """Returns the log density of each pixel, N(mean, standard_deviation**2)."""
    scaled = (pixels - means) / standard_deviation
    return -0.5 * tf.square(scaled) - math.log(standard_deviation * math.sqrt(2 * math.pi))
