"""50 pixels chosen of 784, and the paper's decoder of 75 units: Abid et al. 2019.

    python -m trainer --config=configs/concrete.py --workdir=runs/concrete

MNIST, seed 0: test mse ...
"""

from configs import base


def get_config():
    config = base.get_config()
    config.model = base.concrete()
    config.data.name = "mnist"
    config.num_epochs = 20.0
    config.optimizer.learning_rate = 2e-3
    config.execution = "measure"  # on a CPU, XLA takes six times as long for the selectors' noise
    return config
