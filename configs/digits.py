"""A first try, in half a minute: scikit-learn's 1,797 digits of 8x8 pixels, 8 values each.

A dense network of 64-256-128-8 and back, relu, sigmoid at the end.

    python -m trainer --config=configs/digits.py --workdir=runs/digits

Digits, seed 0: test mse .01177, 0.48 times PCA's with 8 components; accuracy of a linear probe on
the codes 92.8 %, on PCA's 89.7 %. 20 seconds on one of 2 busy cores. Longer trainings overfit: the
lowest validation loss is .01155 in 100 epochs, .01233 in 300.
"""

from configs import base


def get_config():
    config = base.get_config("dense")
    config.data.name = "digits"
    config.data.image_size = 8
    config.model.hidden_units = (256, 128)
    config.model.code_size = 8
    config.num_epochs = 100.0
    config.batch_size = 32
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 100
    config.checkpoint = "best"
    return config
