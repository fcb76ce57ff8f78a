"""Small models of a kind, random images, and the context of a step."""

import keras
import numpy as np
import tensorflow as tf

from tests.all_configs import settings_of
from trainer import models
from trainer.models.base import StepContext
from trainer.positions import Noise

# Why numbers of an example may differ between batches or replicas.
OF_THE_BATCH = "noise must come from context.noise, and a loss term be of its example"


def create(kind, image_shape, **settings):
    keras.utils.set_random_seed(0)
    return models.create(image_shape, settings_of(kind, **settings))


def images_like(count, image_shape, seed=0):
    return np.random.default_rng(seed).random((count, *image_shape), np.float32)


def context(count, first=0, progress=0.5, *, training=True, **others):
    noise = Noise(0, first, count)
    return StepContext(noise, tf.constant(progress, tf.float32), training=training, **others)
