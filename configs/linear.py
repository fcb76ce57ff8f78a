"""A linear encoder to 32 values and a linear decoder: PCA, learnt by gradient descent.

The weights span PCA's subspace without being its components, which `trainer.evaluate` recovers from
them (Baldi & Hornik 1989, Plaut 2018).

    python -m trainer --config=configs/linear.py --workdir=runs/linear

MNIST, three seeds: test mse .01683, as PCA (ratio 1.0000), largest angle to PCA's subspace 0.04 to
0.34 degrees; of seed 0 the |cosine| of all 32 recovered components to PCA's is 1.0000. 24 seconds
on one core (AMD EPYC, Zen 5), 24 GiB. Large batches and a rate that falls to 0 make the last
degrees: at batch 128 for 20 epochs the angle stays at 1.5.
"""

from configs import base


def get_config():
    config = base.get_config("linear")
    config.data.name = "mnist"
    config.num_epochs = 100.0
    config.batch_size = 1024
    config.optimizer.learning_rate = 3e-3
    return config
