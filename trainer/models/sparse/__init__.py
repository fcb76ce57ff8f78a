"""The sparse autoencoder: a code of more units than pixels, few of them active at a time.

The loss is a reconstruction error; `sparsity` says what makes the code sparse:

- "k_sparse": the k largest activations of an image are kept, the others set to 0 (Makhzani & Frey
  2013). In training k falls linearly from `first_active_units` to `active_units` over the
  `annealing_share` of the steps, since units die if k begins small; at test time
  `alpha * active_units` activations are kept.
- "kl": penalty_weight * sum_j KL(target_rate || the mean of unit j over the global batch) between
  Bernoulli distributions (Ng 2011, CS294A).
- "l1": penalty_weight * sum_j |h_j| of each image.
"""

import dataclasses

from trainer.config import key
from trainer.errors import require
from trainer.models import settings

TINY = {"code_size": 20, "active_units": 3, "first_active_units": 9, "tied_weights": True}


@dataclasses.dataclass(frozen=True)
class Settings(settings.DenseOrTiedNetwork):
    """Declares the keys of the sparse kind."""

    code_size: int = 1000
    hidden_units: tuple[int, ...] = ()
    sparsity: str = key("k_sparse", "What makes the code sparse.", choices=("k_sparse", "kl", "l1"))
    active_units: int = key(25, "Units that k_sparse keeps in each code.", at_least=1)
    first_active_units: int = key(100, "Units that k_sparse keeps at step 0.", at_least=1)
    annealing_share: float = key(
        0.5,
        "Share of the training in which first_active_units falls to active_units.",
        at_least=0,
        at_most=1,
    )
    alpha: float = key(1.0, "Factor of active_units at test time.", at_least=0)
    target_rate: float = key(
        0.1, "Mean activation over a batch towards which kl pulls each unit.", above=0, below=1
    )
    penalty_weight: float = key(1e-4, "Weight of the kl or l1 penalty in the loss.", at_least=0)

    def check(self) -> None:
        super().check()
        active, first, size = self.active_units, self.first_active_units, self.code_size
        require(
            self.sparsity != "k_sparse" or active <= first <= size,
            f"model.active_units={active} and model.first_active_units={first} are not allowed; "
            f"active_units <= first_active_units <= code_size={size} must hold",
        )
        require(
            self.sparsity != "k_sparse" or 1 <= self.alpha <= size / active,
            f"model.alpha={self.alpha} is not allowed; model.active_units={active} of {size} "
            f"allow 1 to {size / active:g}",
        )
        require(
            self.sparsity != "kl" or self.code_activation == "sigmoid",
            "model.sparsity='kl' needs model.code_activation='sigmoid', "
            f"not {self.code_activation!r}",
        )
