"""1,000 sigmoid units with tied weights, that contract around the images: Rifai et al. 2011.

Their error is a sum over the pixels, here it is a mean: a penalty_weight of 5e-4 is a lambda of
0.39 of theirs.

    python -m trainer --config=configs/contractive.py --workdir=runs/contractive
    python -m trainer.finetune --workdir=runs/contractive --num_epochs=14

MNIST, seed 0: test mse .0049, probe accuracy .9803 on frozen codes; fine-tuned, an error of 1.34 %
(1.30 % of the validation images), where they have 1.14 %. The mean of ||J||_F is 5.92 on test
images, 0.90 of the codes' spread. A penalty_weight of 1e-4 for 20 epochs at a rate of 1e-3 gave
test mse .0030, probe accuracy .9707, and 1.52 % (1.43 %) after 20 epochs of fine-tuning; 1.5e-3 for
8 epochs 1.43 % (1.40 %). 8 minutes and 4 to fine-tune, on 2 cores (AMD EPYC, Zen 3), 24 GiB, that
much else was running on.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.model = base.contractive()
    config.model.code_size = 1000
    config.model.hidden_units = ()
    config.model.code_activation = "sigmoid"
    config.model.tied_weights = True
    config.model.penalty_weight = 5e-4
    config.model.jacobian = "closed_form"
    config.model.loss = "bce"
    config.data.name = "mnist"
    config.num_epochs = 12.0
    config.optimizer.learning_rate = 2e-3
    return config
