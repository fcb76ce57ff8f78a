"""`vae.py` by the importance-weighted bound of 5 samples (Burda et al. 2016).

python -m trainer --config=configs/iwae.py --workdir=runs/iwae
"""

from configs import vae


def get_config():
    config = vae.get_config()
    config.model.objective = "iwae"
    config.model.samples = 5
    return config
