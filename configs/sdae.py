"""Three layers of 1,000 units that restore masked images: the SDAE-3 of Vincent et al. 2010.

Sigmoid units, one layer trained after the other, as theirs; then two epochs of all layers.

    python -m trainer --config=configs/sdae.py --workdir=runs/sdae
    python -m trainer.finetune --workdir=runs/sdae --num_epochs=60 --patience_epochs=0 \
        --learning_rate=1e-3 --input_dropout=0.2 --hidden_dropout=0.5 --code_dropout=0.5

MNIST, seed 0: test mse .0066; fine-tuned, an error of 1.22 % (1.10 % in validation); they have
1.28 %; frozen codes 3.02 %. Corrupted test images restored to an mse of .0067, where PCA of them,
with the best number of components, has .0184. 9 minutes of one core and as many to fine-tune (AMD
EPYC, Zen 3), 24 GiB; busy cores take five times as long. Relu units trained all at once for 20
epochs, fine-tuned without dropout: 1.41 % (1.37 %). No other setting was tried.
"""

from configs import base


def get_config():
    config = base.get_config("denoising")
    config.model.network = "dense"
    config.model.layer_sizes = (1000, 1000, 1000)
    config.model.corruption = "masking"
    config.model.corruption_level = 0.25
    config.model.activation = "sigmoid"
    config.model.code_activation = "sigmoid"
    config.model.loss = "bce"
    config.data.name = "mnist"
    config.pretrain.epochs_per_layer = 20.0
    config.num_epochs = 2.0
    return config
