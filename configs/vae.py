"""The variational autoencoder of Burda et al. 2016: 784-200-200-50 and back, tanh.

Binary pixels, drawn anew each time an image is seen, so its nats compare with figures for dynamic
binarisation alone. For those of pixels drawn once, `--config.model.binarisation=static
--config.data.binarise=true`.

    python -m trainer --config=configs/vae.py --workdir=runs/vae

MNIST, seed 0: an elbo of -96.94 nats on the test images, 16 of 50 units active, test mse .00938 of
the grey levels; -log p(x) 93.5 nats, by 5,000 importance samples of each of the first 2,000 test
images. 8 minutes on 2 cores (AMD EPYC, Zen 3), 24 GiB, busy with other work besides. It is still
falling: the paper reports 86.76 after some 3,000 epochs.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.model = base.vae()
    config.data.name = "mnist"
    config.num_epochs = 60.0
    config.batch_size = 100
    return config
