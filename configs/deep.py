"""784-1000-500-250-30 with a linear code, as Hinton & Salakhutdinov 2006.

They report a squared error of 3.00 an image, which is an mse of .0038, after layer-wise pretraining
with logistic units; this is relu, from scratch.

    python -m trainer --config=configs/deep.py --workdir=runs/deep

MNIST, seed 0: test mse .00434, 0.245 times PCA's with 30 components. 14 minutes on 2 cores (AMD
EPYC, Zen 3), 24 GiB, busy with other work besides. The training mse ends at .0025: it overfits, and
AdamW with a decay of 0.1 did not help.
"""

from configs import base


def get_config():
    config = base.get_config("dense")
    config.model.code_size = 30
    config.model.hidden_units = (1000, 500, 250)
    config.data.name = "mnist"
    config.num_epochs = 60.0
    return config
