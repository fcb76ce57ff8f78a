"""The variational autoencoder, and the importance-weighted one.

The model is p(x|z) p(z) with z ~ N(0, I), the posterior q(z|x) = N(mean(x), diag(variance(x)))
(Kingma & Welling 2014). The encoder ends in mean and log variance, [B, 2K]; the code is the mean.
The decoder gives the logits of a "bernoulli" p(x|z), or the mean of a "gaussian" one of fixed std.
With binarisation "dynamic", each pixel is drawn as 0 or 1 whenever an example is seen, with its
intensity as the probability (Burda et al. 2016). With "static", the data are such a draw already,
the same each time. With "none", x is the grey levels, for which "bernoulli" is not a likelihood.

`estimator` is the estimator of the bound's gradient in the encoder; all are unbiased, with the same
bound and the same gradient in the decoder:

- "standard": the derivative of the sampled bound, of the elbo with its KL in closed form.
- "path_derivative": the elbo's, without the score of q(z|x), which averages to 0. Where q(z|x) is
  the posterior, each sample's derivative is 0 (Roeder et al. 2017).
- "doubly_reparametrised": the iwae bound's, with squared weights and without the score (Tucker et
  al. 2018). With more samples its signal-to-noise ratio rises, that of "standard" falls.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from trainer.config import Data, key
from trainer.errors import require
from trainer.models import settings

TINY = {"code_size": 2, "hidden_units": (8,), "nll_samples": 2}


@dataclasses.dataclass(frozen=True)
class Settings(settings.Start, settings.Network):
    """Declares the keys of the vae kind."""

    for_vectors: ClassVar[Mapping[str, Any] | None] = {
        "likelihood": "gaussian",
        "binarisation": "none",
    }

    code_size: int = 50
    hidden_units: tuple[int, ...] = (200, 200)
    activation: str = "tanh"
    likelihood: str = key(
        "bernoulli", "Likelihood of the pixels.", choices=("bernoulli", "gaussian")
    )
    standard_deviation: float = key(
        0.1, "Std of the gaussian likelihood; the pixels' range is 1.", above=0
    )
    binarisation: str = key(
        "dynamic",
        "When pixels are drawn as 0 or 1: at each step, once by data.binarise, or never.",
        choices=("dynamic", "static", "none"),
    )
    objective: str = key(
        "elbo",
        "Bound to maximise; iwae is tighter, by importance weights.",
        choices=("elbo", "iwae"),
    )
    estimator: str = key(
        "standard",
        "Estimator of the encoder's gradient: path_derivative for the elbo, doubly_reparametrised "
        "for iwae; both are of lower variance near the optimum.",
        choices=("standard", "path_derivative", "doubly_reparametrised"),
    )
    samples: int = key(1, "Samples of the code per image in the objective.", at_least=1)
    beta: float = key(
        1.0, "Weight of the KL divergence in the elbo; at 1 the elbo bounds log p(x).", at_least=0
    )
    beta_warmup_share: float = key(
        0.0, "Share of the training in which beta rises linearly from 0.", at_least=0, at_most=1
    )
    nll_samples: int = key(
        5000, "Samples of the code per image for trainer.evaluate's log p(x).", at_least=1
    )

    def check(self) -> None:
        super().check()
        require(
            self.likelihood == "bernoulli" or self.binarisation == "none",
            f"model.likelihood={self.likelihood!r} needs model.binarisation='none', "
            f"not {self.binarisation!r}",
        )
        require(
            self.start == "random" or self.likelihood == "gaussian",
            f"model.start={self.start!r} needs model.likelihood='gaussian', "
            f"not {self.likelihood!r}",
        )
        require(
            self.objective == "elbo" or (self.beta, self.beta_warmup_share) == (1, 0),
            f"model.objective={self.objective!r} needs model.beta=1 and "
            f"model.beta_warmup_share=0, not {self.beta} and {self.beta_warmup_share}",
        )

        objective = {"path_derivative": "elbo", "doubly_reparametrised": "iwae"}.get(self.estimator)
        require(
            objective in (None, self.objective),
            f"model.estimator={self.estimator!r} needs model.objective={objective!r}, "
            f"not {self.objective!r}, with which model.estimator='standard' is allowed",
        )

    def check_with(self, data: Data) -> None:
        require(
            data.binarise or self.binarisation != "static",
            "model.binarisation='static' needs data.binarise=True",
        )
        require(
            not data.binarise or self.binarisation == "static",
            f"data.binarise=True needs model.binarisation='static', not {self.binarisation!r}",
        )
