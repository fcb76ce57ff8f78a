"""Checks that the losses and gradients of a training stay finite."""

from collections.abc import Mapping

import numpy as np

from trainer.errors import NonFiniteError

_MAX_SKIPPED_STEPS = 40  # halves a float16 loss scale of 2**15 to 2**-25


class FiniteCheck:
    """Checks the metrics of training steps, as `Steps.train` returns them."""

    def __init__(self, *, scales_losses: bool, norm_every_step: bool):
        """Takes whether losses are scaled, and whether each step computes its gradient norm."""
        self._checks_norm = norm_every_step and not scales_losses
        self._skipped_steps = 0

    def nonfinite_steps(self, metrics: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns which steps, bool [count], have a loss or a gradient that is not finite.

        Without a gradient norm, a bad gradient shows in the loss of the next step. With scaled
        losses, a step whose gradient overflows is skipped and counts as finite.
        """
        finite = np.isfinite(metrics["loss"])
        if self._checks_norm:
            finite &= np.isfinite(metrics["gradient_norm"])
        return ~finite

    def require_finite(self, first_step: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Checks the steps of one call, which follow the steps of the call before.

        Raises:
          NonFiniteError: a loss is not finite, or gradients overflow at every loss scale.
        """
        nonfinite = self.nonfinite_steps(metrics)
        if nonfinite.any():
            steps = first_step + np.flatnonzero(nonfinite)
            raise NonFiniteError(
                f"the loss or its gradient is NaN or infinite in steps {steps[0]} to {steps[-1]}; "
                "a lower optimizer.learning_rate or an optimizer.clip_norm may help"
            )
        for step, skipped in enumerate(metrics["skipped_steps"], start=first_step):
            self._skipped_steps = self._skipped_steps + 1 if skipped else 0
            if self._skipped_steps >= _MAX_SKIPPED_STEPS:
                raise NonFiniteError(
                    f"{_MAX_SKIPPED_STEPS} steps in a row up to step {step} were skipped, since "
                    "their float16 gradients are NaN or infinite at every loss scale; "
                    "try precision=bfloat16"
                )
