"""`vae.py` by the importance-weighted bound of 5 samples (Burda et al. 2016).

The same net and images; more steps, of smaller batches.

    python -m trainer --config=configs/iwae.py --workdir=runs/iwae

MNIST, seed 0, with --config.num_epochs=12 --config.batch_size=100
--config.optimizer.learning_rate=1e-3: -log p(x) 104.3 nats, by 5,000 importance samples of each of
the first 2,000 test images, test mse .01476 of the grey levels. 7 minutes on 2 cores (AMD EPYC,
Zen 3), 24 GiB, busy with other work besides. Far from its end: the paper reports 85.54 after some
3,000 epochs.
"""

from configs import vae


def get_config():
    config = vae.get_config()
    config.model.objective = "iwae"
    config.model.samples = 5
    config.num_epochs = 400.0
    config.batch_size = 50
    return config
