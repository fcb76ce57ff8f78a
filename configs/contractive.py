"""1,000 sigmoid units with tied weights, that contract around the images: Rifai et al. 2011.

To be written.

    python -m trainer --config=configs/contractive.py --workdir=runs/contractive

MNIST, seed 0: test mse TODO
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
