"""Changes training images at random, by noise of their positions, so that a network sees more.

Moves pixels by gathers alone, which compute the same bits each time on any device.
"""

import tensorflow as tf

from trainer.config import Augment
from trainer.positions import Noise


def augmented(images: tf.Tensor, augment: Augment, noise: Noise) -> tf.Tensor:
    """Returns images [B, H, W, C] in [0, 1], each changed at random as the keys say.

    An image is zoomed about its centre, mirrored and shifted, all in one interpolation; then its
    channels are multiplied, its contrast is scaled about each channel's mean, its brightness is
    added, and it is clipped to [0, 1]. A key at its default costs nothing.
    """
    if not augment.is_active:
        return images
    return tf.clip_by_value(_recoloured(_moved(images, augment, noise), augment, noise), 0.0, 1.0)


def _moved(images: tf.Tensor, augment: Augment, noise: Noise) -> tf.Tensor:
    """Mirrors, zooms and shifts images; the nearest pixel fills what lies outside an image."""
    if not (augment.flip or augment.shift_pixels or augment.zoom):
        return images
    zeros = tf.zeros([images.shape[0], 1])
    shifts, scale, sign = [zeros, zeros], zeros + 1, zeros + 1
    if augment.shift_pixels:
        values = 2 * augment.shift_pixels + 1
        drawn = tf.floor(values * noise.uniform("augment.shift_pixels", (2,)))
        shifts = tf.split(drawn - augment.shift_pixels, 2, axis=1)
    if augment.zoom:
        scale = 1 - augment.zoom * noise.uniform("augment.zoom", (1,))
    if augment.flip:
        sign = tf.where(noise.uniform("augment.flip", (1,)) < 0.5, -1.0, 1.0)
    for axis, shift, step in ((1, shifts[0], scale), (2, shifts[1], scale * sign)):
        centre = (images.shape[axis] - 1) / 2
        offsets = tf.range(images.shape[axis], dtype=tf.float32) - centre
        # Whole numbers, and exact, unless the image is zoomed.
        coordinates = centre + (offsets - shift) * step
        images = _sampled(images, coordinates, axis, interpolates=augment.zoom > 0)
    return images


def _sampled(
    images: tf.Tensor, coordinates: tf.Tensor, axis: int, *, interpolates: bool
) -> tf.Tensor:
    """Samples each image at its coordinates [B, size] along an axis, linearly between pixels."""

    def pixels(index):
        index = tf.clip_by_value(index, 0.0, images.shape[axis] - 1.0)
        return tf.gather(images, tf.cast(index, tf.int32), axis=axis, batch_dims=1)

    if not interpolates:
        return pixels(coordinates)
    index = tf.floor(coordinates)
    lower, upper = pixels(index), pixels(index + 1)
    share = tf.expand_dims(coordinates - index, 3 - axis)[..., tf.newaxis]
    return lower + share * (upper - lower)


def _recoloured(images: tf.Tensor, augment: Augment, noise: Noise) -> tf.Tensor:
    """Changes the gain of each channel, the contrast and the brightness of images."""

    def within(purpose: str, limit: float, channels: int = 1) -> tf.Tensor:
        return limit * (2 * noise.uniform(f"augment.{purpose}", (1, 1, channels)) - 1)

    if augment.channel_gain:
        images *= 1 + within("channel_gain", augment.channel_gain, images.shape[-1])
    if augment.contrast:
        means = tf.reduce_mean(images, axis=[1, 2], keepdims=True)
        images = means + (1 + within("contrast", augment.contrast)) * (images - means)
    if augment.brightness:
        images += within("brightness", augment.brightness)
    return images
