"""The contractive autoencoder: the code changes little around each image (Rifai et al. 2011).

The loss is the reconstruction error + penalty_weight * ||J||_F^2, where J = dh/dx [K, H*W*C] is
the encoder's Jacobian. `jacobian` says how the norm is computed:

- "closed_form", for one layer h = sigmoid(W x + b): sum_i (h_i (1 - h_i))^2 sum_j W_ij^2;
- "exact", for any encoder, at a cost that grows with K;
- "hutchinson", an unbiased estimate: the mean of ||J^T v||^2 over `probes` vectors v of random
  signs (Hutchinson 1989), at the cost of one more pass backwards for each.

Without `tied_weights`, shrinking the code avoids the penalty, since the decoder can scale it back.
"""

import dataclasses
from collections.abc import Iterator

from trainer.config import key
from trainer.errors import require
from trainer.models import settings

TINY = {"code_size": 4, "hidden_units": (8,), "tied_weights": True, "jacobian": "exact"}


@dataclasses.dataclass(frozen=True)
class Settings(settings.Start, settings.DenseOrTiedNetwork):
    """Declares the keys of the contractive kind."""

    penalty_weight: float = key(1e-4, "Weight of the Jacobian's norm in the loss.", at_least=0)
    jacobian: str = key(
        "exact",
        "How the norm is computed; closed_form needs one sigmoid layer.",
        choices=("closed_form", "exact", "hutchinson"),
    )
    probes: int = key(1, "Random vectors per image in hutchinson's estimate.", at_least=1)

    def check(self) -> None:
        super().check()
        require(
            self.jacobian != "closed_form" or self._is_sigmoid_layer,
            "model.jacobian='closed_form' needs model.hidden_units=() and "
            f"model.code_activation='sigmoid', not {self.hidden_units} and "
            f"{self.code_activation!r}; exact and hutchinson take any",
        )

    def notes(self, steps: int) -> Iterator[str]:
        yield from super().notes(steps)
        if self.jacobian == "exact" and self._is_sigmoid_layer:
            yield (
                f"model.jacobian='exact' takes {self.code_size:,} gradients of each example; "
                "'closed_form' gives the same norm of this sigmoid layer without any"
            )

    @property
    def _is_sigmoid_layer(self) -> bool:
        return not self.hidden_units and self.code_activation == "sigmoid"

    def stacked_layers(self) -> int:
        return len(self.hidden_units) + 1
