"""Colour images of one's own: convolutions of stride 2 that start at PCA.

python -m trainer --config=configs/photos.py --config.data.name=images:DIR \
        --config.data.image_size=64 --workdir=runs/photos
"""

from configs import base


def get_config():
    config = base.get_config("deep_conv")
    config.data.validation_fraction = 0.1
    config.model.start = "pca"
    config.model.output_activation = "linear"
    config.model.stage_filters = (32, 64, 64, 128)
    config.model.dense_units = 256
    config.budget = "auto"
    config.num_epochs = 0.0
    config.batch_size = 0
    config.validate_every_steps = 0
    config.checkpoint_every_steps = 0
    config.stop.patience_validations = 20
    config.checkpoint = "best"
    return config
