"""Three layers of 1,000 units that restore masked images: the SDAE-3 of Vincent et al. 2010.

They train one layer after the other, of sigmoid units; here all are trained at once, of relu.

    python -m trainer --config=configs/sdae.py --workdir=runs/sdae
    python -m trainer.finetune --workdir=runs/sdae --learning_rate=1e-3

They report an error of 1.28 % once fine-tuned. Its test mse and its error are still to be measured
here.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.model = base.denoising()
    config.model.network = "dense"
    config.model.layer_sizes = (1000, 1000, 1000)
    config.model.corruption = "masking"
    config.model.corruption_level = 0.25
    config.model.code_activation = "relu"
    config.model.loss = "bce"
    config.data.name = "mnist"
    config.num_epochs = 20.0
    return config
