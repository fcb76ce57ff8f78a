"""1,000 units over 784 pixels, 25 of them active at a time: Makhzani & Frey 2013.

Linear units, tied weights, squared error, as theirs; 75 units are kept at test time.

    python -m trainer --config=configs/sparse.py --workdir=runs/sparse

MNIST, seed 0: logistic regression on the frozen codes has a test error of 1.71 %, where the paper
has 1.35 %; test mse .0073, no unit dead. 34 minutes on one core (AMD EPYC, Zen 3) of 2, 24 GiB,
busy with other work. Without the auxiliary loss (Gao et al. 2024) 1.91 %, test mse .0067, 7 % of
the units dead, and 2.2 % on validation images. Chosen there, without it: from 250 units down to 25
in a fifth of the training, its error is 2.2 to 2.4 %, in seven tenths 3.2 %; from 50 in three
tenths, with batches of 32, 2.6 %, with a third of the units dead.
"""

from configs import base


def get_config():
    config = base.get_config("sparse")
    config.model.tied_weights = True
    config.model.output_activation = "linear"
    config.model.alpha = 3.0
    config.model.auxiliary_weight = 1 / 32
    config.model.auxiliary_units = 25
    config.model.dead_after_steps = 445  # an epoch
    config.data.name = "mnist"
    config.num_epochs = 60.0
    return config
