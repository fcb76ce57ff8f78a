"""1,000 units over 784 pixels, 25 of them active at a time: Makhzani & Frey 2013.

Linear units, tied weights, squared error, as theirs.

    python -m trainer --config=configs/sparse.py --workdir=runs/sparse

MNIST, seed 0: test mse RESULT
"""

from configs import base


def get_config():
    config = base.get_config()
    config.model = base.sparse()
    config.model.tied_weights = True
    config.model.output_activation = "linear"
    config.data.name = "mnist"
    config.num_epochs = 40.0
    return config
