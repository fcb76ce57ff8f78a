"""The sparse autoencoder: a code of more units than pixels, few of them active at a time.

The loss is a reconstruction error; `sparsity` says what makes the code sparse:

- "k_sparse": the k largest activations of an image are kept, the others set to 0 (Makhzani & Frey
  2013). In training k falls linearly from `first_active_units` to `active_units` over the
  `annealing_share` of the steps, since units die if k begins small; at test time
  `alpha * active_units` activations are kept.
- "batch_topk": of a batch of B examples the B * k largest activations are kept, as far as they are
  positive, so that examples have different numbers of them (Bussmann et al. 2024, arXiv
  2412.06410). k falls as in "k_sparse". At test time activations from a threshold on are kept: the
  exponential moving average over the training steps of the smallest activation kept in a step. If
  several activations equal the smallest, all of them are kept.
- "kl": penalty_weight * sum_j KL(target_rate || the mean of unit j over the global batch) between
  Bernoulli distributions (Ng 2011, CS294A).
- "l1": penalty_weight * sum_j |h_j| of each image.
- "jumprelu": activations up to a unit's threshold are set to 0, and the penalty is penalty_weight *
  the number of the others (Rajamanoharan et al. 2024, arXiv 2407.14435). The thresholds are
  trained: their gradient counts an activation as if the step at the threshold were `bandwidth`
  wide.

A unit is active above 0, with "kl" above 0.1 and with "l1" above 0.01. Dead units are those that
have been active for no example of the global batch in the last `dead_after_steps` steps; the steps
since each was last active are part of the checkpoint.

With `auxiliary_weight`, "k_sparse" brings dead units back (Gao et al. 2024, arXiv 2406.04093,
section 2.4): the `auxiliary_units` largest of an image's dead activations learn to reconstruct what
the kept ones leave.

With `resample_every_steps`, dead units get new weights before each step whose number is a multiple
of it, except step 0 and steps after which fewer than `resample_every_steps` remain, too few for the
new units to learn (Bricken et al. 2023, Towards Monosemanticity, appendix on neuron resampling).
The B examples of the step's global batch are drawn without replacement, with probabilities
proportional to the square of their reconstruction error, by the noise of their positions; each of
the first B dead units gets one:

- its encoder weights are the example less the mean of the batch, scaled to `resample_norm` times
  the mean norm of the other units' encoder weights, which tied decoder weights share;
- its untied decoder weights are the same, scaled to the mean norm of the others' decoder weights;
- its bias makes its pre-activation 0 at the mean of the batch;
- the optimizer's slots are 0, its threshold of "jumprelu" is `first_threshold`.

The other units keep their bits. Bricken et al. draw from 819,200 examples, subtract the decoder's
bias in place of the mean, and have decoder weights of norm 1. An average of the weights goes on
over the change.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from trainer.config import key
from trainer.errors import require
from trainer.models import settings

SPARSITIES = ("k_sparse", "batch_topk", "kl", "l1", "jumprelu")
TINY = {"code_size": 20, "active_units": 3, "first_active_units": 9, "tied_weights": True}
_NEEDED_ACTIVATIONS = {"kl": "sigmoid", "jumprelu": "linear"}  # of the code


@dataclasses.dataclass(frozen=True)
class Settings(settings.DenseOrTiedNetwork):
    """Declares the keys of the sparse kind."""

    code_size: int = 1000
    hidden_units: tuple[int, ...] = ()
    sparsity: str = key("k_sparse", "What makes the code sparse.", choices=SPARSITIES)
    active_units: int = key(
        25, "Units that k_sparse keeps in each code, batch_topk on average.", at_least=1
    )
    first_active_units: int = key(
        100, "Units that k_sparse or batch_topk keeps at step 0.", at_least=1
    )
    initial_std: float = key(
        0.0,
        "Standard deviation of the normal distribution from which all kernels are initialised; 0: "
        "Glorot uniform.",
        at_least=0,
    )
    annealing_share: float = key(
        0.5,
        "Share of the training in which first_active_units falls to active_units.",
        at_least=0,
        at_most=1,
    )
    alpha: float = key(1.0, "Factor of k_sparse's active_units at test time.", at_least=0)
    threshold_decay: float = key(
        0.99,
        "Share of batch_topk's test threshold that stays at each training step.",
        at_least=0,
        below=1,
    )
    target_rate: float = key(
        0.1, "Mean activation over a batch towards which kl pulls each unit.", above=0, below=1
    )
    penalty_weight: float = key(1e-4, "Weight of the penalty of kl, l1 or jumprelu.", at_least=0)
    first_threshold: float = key(0.1, "Thresholds of jumprelu at step 0.", above=0)
    bandwidth: float = key(
        0.1,
        "Width around a threshold of jumprelu within which activations train the threshold.",
        above=0,
    )
    auxiliary_weight: float = key(
        0.0,
        "Weight of the loss that brings dead units of k_sparse back, such as 0.03; 0: none.",
        at_least=0,
    )
    auxiliary_units: int = key(
        256, "Dead units, at most, that reconstruct what the kept ones leave.", at_least=1
    )
    dead_after_steps: int = key(
        500, "Steps without being active after which a unit is dead.", at_least=1, at_most=10**7
    )
    resample_every_steps: int = key(
        0,
        "Dead units get new weights every N steps, from examples of large errors, but not in the "
        "last N - 1 steps; 0: never.",
        at_least=0,
    )
    resample_norm: float = key(
        0.2,
        "Norm of resampled encoder weights, as a share of the mean norm of the other units'.",
        above=0,
    )

    def check(self) -> None:
        super().check()
        active, first, size = self.active_units, self.first_active_units, self.code_size
        require(
            self.sparsity not in ("k_sparse", "batch_topk") or active <= first <= size,
            f"model.active_units={active} and model.first_active_units={first} are not allowed; "
            f"active_units <= first_active_units <= code_size={size} must hold",
        )
        require(
            self.sparsity != "k_sparse" or 1 <= self.alpha <= size / active,
            f"model.alpha={self.alpha} is not allowed; model.active_units={active} of {size} "
            f"allow 1 to {size / active:g}",
        )
        require(
            self.sparsity != "batch_topk" or self.alpha == 1,
            f"model.sparsity='batch_topk' needs model.alpha=1, not {self.alpha}; its threshold "
            "decides how many units are active at test time",
        )
        needed = _NEEDED_ACTIVATIONS.get(self.sparsity, self.code_activation)
        require(
            self.code_activation == needed,
            f"model.sparsity={self.sparsity!r} needs model.code_activation={needed!r}, "
            f"not {self.code_activation!r}",
        )
        self._check_needs("auxiliary_weight", sparsity="k_sparse", hidden_units=())
        self._check_needs("resample_every_steps", hidden_units=())

    def check_training(self, *, averages: bool, trims: bool) -> None:
        require(
            not (averages and self.sparsity == "batch_topk"),
            "averaging.decay and averaging.last_share must be 0 with model.sparsity='batch_topk': "
            "its threshold at test time belongs to the weights of the last steps",
        )
        require(
            not (trims and self.sparsity == "kl"),
            "trim_share must be 0 with model.sparsity='kl', whose mean activations are of all "
            "examples of a batch",
        )

    def notes(self, steps: int) -> Iterator[str]:
        dead_after, every = self.dead_after_steps, self.resample_every_steps
        if self.auxiliary_weight and steps <= dead_after:
            yield (
                f"only {steps:,} steps, but model.dead_after_steps={dead_after}: no unit counts as "
                "dead, and model.auxiliary_weight does nothing; train for longer, or lower "
                "dead_after_steps"
            )
        if every and steps < (first := every * math.ceil(dead_after / every)) + every:
            yield (
                f"only {steps:,} steps, but with model.resample_every_steps={every} and "
                f"model.dead_after_steps={dead_after} units are resampled from step {first:,} on, "
                f"and not in the last {every} steps; train for longer, or lower both"
            )

    def _check_needs(self, asked: str, **needs: Any) -> None:
        """Raises UserError if the key `asked` is not 0 and another lacks the value it needs."""
        for name, needed in needs.items():
            value = getattr(self, name)
            require(
                value == needed or not getattr(self, asked),
                f"model.{asked}={getattr(self, asked)} needs model.{name}={needed!r}, "
                f"not {value!r}",
            )
