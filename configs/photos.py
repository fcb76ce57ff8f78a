"""Colour images of one's own: four convolutions of stride 2 that start at PCA.

Training images are mirrored, shifted and changed in brightness, contrast and colour. The length of
the run, the batch and the validations follow from the number of images. The other commands take the
checkpoint with the lowest validation error, which is at most PCA's. Early stopping is off, since
the validation error is often higher than PCA's until the learning rate has decayed.

    python -m trainer --config=configs/photos.py --config.data.name=images:DIR \
        --config.data.image_size=64 --workdir=runs/photos

3,008 colour pictures of letters, 64x64, 49 values (benchmarks/own_data.py), three seeds: test mse
.00304, .83 times PCA's with 49 components. 10 minutes on one of 2 busy cores. 32x32: .93 times
PCA's.
"""

from configs import base


def get_config():
    config = base.get_config("deep_conv")
    config.data.name = "images:DIR"
    config.data.validation_fraction = 0.1
    config.model.start = "pca"
    config.model.output_activation = "linear"
    config.model.stage_filters = (32, 64, 64, 128)
    config.model.kernel_initializer = "he_normal"
    config.model.dense_units = 256
    config.model.activation = "silu"
    config.augment.flip = True
    config.augment.shift_pixels = 4
    config.augment.brightness = 0.1
    config.augment.contrast = 0.2
    config.augment.channel_gain = 0.2
    config.optimizer.epsilon = 1e-10  # the mean over many pixels has small gradients
    config.budget = "auto"
    config.num_epochs = 0.0
    config.batch_size = 0
    config.validate_every_steps = 0
    config.checkpoint_every_steps = 0
    config.checkpoint = "best"
    return config
