"""1,000 sigmoid units, each active in a tenth of the images on average: Ng 2011, CS294A.

    python -m trainer --config=configs/sparse_kl.py --workdir=runs/sparse_kl

MNIST, seed 0: test mse RESULT
"""

from configs import base


def get_config():
    config = base.get_config()
    config.model = base.sparse()
    config.model.sparsity = "kl"
    config.model.code_activation = "sigmoid"
    config.model.penalty_weight = 1e-3
    config.model.loss = "bce"
    config.data.name = "mnist"
    config.num_epochs = 20.0
    return config
