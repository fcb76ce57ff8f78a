"""784-1000-500-250-30 with a linear code, as Hinton & Salakhutdinov 2006.

They report a squared error of 3.00 an image, which is an mse of .0038, after layer-wise pretraining
with logistic units; this is tanh, from scratch, on images shifted by up to a pixel.

    python -m trainer --config=configs/deep.py --workdir=runs/deep

MNIST, seed 0: test mse .00292, 0.165 times PCA's with 30 components. 45 minutes on one core
of 2 (AMD EPYC, Zen 3), 24 GiB, busy with other work besides. The validation mse after 15 epochs is
.0056 with relu, .0048 with tanh and shifted images, and .0092 with tanh from a start at PCA, which
has a linear output. Without shifted images it overfits: relu ends at .0025 in training and .0043 on
test images after 60 epochs, and AdamW with a decay of 0.1 did not help.
"""

from configs import base


def get_config():
    config = base.get_config("dense")
    config.model.code_size = 30
    config.model.hidden_units = (1000, 500, 250)
    config.model.activation = "tanh"
    config.augment.shift_pixels = 1
    config.data.name = "mnist"
    config.num_epochs = 100.0
    return config
