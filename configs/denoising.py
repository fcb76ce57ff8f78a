"""keras.io's convolutional denoiser, on Gaussian noise of 0.4: 28,353 parameters, a code of 1,568.

To be written.

    python -m trainer --config=configs/denoising.py --workdir=runs/denoising

MNIST, seed 0: test mse TODO
"""

from configs import base


def get_config():
    config = base.get_config()
    config.model = base.denoising()
    config.model.network = "conv"
    config.model.layer_sizes = (32, 32)
    config.model.code_activation = "relu"
    config.model.loss = "bce"
    config.data.name = "mnist"
    config.num_epochs = 10.0
    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup_steps = 200
    return config
