"""Three layers of 1,000 units that restore masked images: the SDAE-3 of Vincent et al. 2010.

They train one layer after the other, of sigmoid units; here all are trained at once, of relu.

    python -m trainer --config=configs/sdae.py --workdir=runs/sdae
    python -m trainer.finetune --workdir=runs/sdae --learning_rate=1e-3

MNIST, seed 0: test mse .0069; fine-tuned, an error of 1.41 % (1.37 % in validation); they have
1.28 %; frozen codes 2.68 %. Corrupted test images restored to an mse of .0059, where PCA of them,
with the best number of components, has .0184. 10 minutes and 3 to fine-tune, on 2 cores (AMD EPYC,
Zen 3), 24 GiB, busy with other work besides. Nothing was tuned.
"""

from configs import base


def get_config():
    config = base.get_config("denoising")
    config.model.network = "dense"
    config.model.layer_sizes = (1000, 1000, 1000)
    config.model.corruption = "masking"
    config.model.corruption_level = 0.25
    config.model.code_activation = "relu"
    config.model.loss = "bce"
    config.data.name = "mnist"
    config.num_epochs = 20.0
    return config
