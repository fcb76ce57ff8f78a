"""1,000 sigmoid units with tied weights, that contract around the images: Rifai et al. 2011.

Their error is a sum over the pixels, here it is a mean: a penalty_weight of 1e-4 is a lambda of
0.078 of theirs.

    python -m trainer --config=configs/contractive.py --workdir=runs/contractive

MNIST, seed 0: test mse .00301, probe accuracy .9707 on frozen codes. The mean of ||J||_F is 10.4
on test images, 1.28 of the codes' spread, with singular values from 1.81 down. 9 minutes on 2
cores (AMD EPYC, Zen 3), 24 GiB, busy with other work besides.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.model = base.contractive()
    config.model.code_size = 1000
    config.model.hidden_units = ()
    config.model.code_activation = "sigmoid"
    config.model.tied_weights = True
    config.model.jacobian = "closed_form"
    config.model.loss = "bce"
    config.data.name = "mnist"
    config.num_epochs = 20.0
    return config
