"""The variational autoencoder of Burda et al. 2016: 784-200-200-50 and back, tanh.

Binary pixels, drawn anew each time an image is seen, so its nats compare with figures for dynamic
binarisation alone.

    python -m trainer --config=configs/vae.py --workdir=runs/vae
"""

from configs import base


def get_config():
    config = base.get_config()
    config.model = base.vae()
    config.data.name = "mnist"
    config.num_epochs = 60.0
    config.batch_size = 100
    return config
