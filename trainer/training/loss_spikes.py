"""Rolls a run back before a loss spike, and continues without the steps that led to the spike.

Follows Chowdhery et al. 2022 (PaLM, section 5.1), but exactly: the running mean of the losses,
which decides whether a step is a spike, and the steps to skip are part of each checkpoint. So the
run, interrupted or not, ends with the bits of a run that never had the skipped steps.
"""

import contextlib
import itertools
import sys
from collections.abc import Iterator

import numpy as np

from trainer.config import LossSpikes
from trainer.distribution.workers import Workers
from trainer.errors import NonFiniteError
from trainer.run.checkpoints import Checkpoint, Checkpoints

_MEAN_STEPS = 100  # time constant of the running mean
_STATE = "spikes/"  # begins the paths of the arrays in a checkpoint
_STATISTICS = f"{_STATE}loss_statistics"  # in a checkpoint: [count, mean loss, mean |loss|]
_SKIPPED = f"{_STATE}skipped"  # in a checkpoint: int64 [rollbacks, 2], first and last step


class Spike(Exception):  # noqa: N818
    """Reports a loss spike at a step from which the run may roll back."""

    def __init__(self, step: int, reason: str):
        super().__init__(f"step {step}: {reason}")
        self.step = step
        self.reason = reason


class SpikeGuard:
    """Detects loss spikes, and keeps the steps to skip after roll-backs.

    All workers call the same methods in the same order; the chief decides.
    """

    def __init__(self, settings: LossSpikes, workers: Workers):
        self._settings = settings
        self._enabled = settings.loss_ratio > 0
        self._workers = workers
        self._statistics = np.zeros(3)
        self._skipped: list[tuple[int, int]] = []  # first and last step of each roll-back

    def resume(self, checkpoint: Checkpoint | None) -> None:
        """Restores the state from the chief's checkpoint, on all workers."""
        state = checkpoint.arrays(_STATE) if checkpoint else {}
        self._statistics = state.get(_STATISTICS, np.zeros(3))
        ranges = state.get(_SKIPPED, np.zeros((0, 2), np.int64))
        count = self._workers.broadcast_int(len(ranges))
        if not self._workers.is_chief:
            ranges = np.zeros((count, 2), np.int64)
        if count:
            ranges = self._workers.broadcast_ints(ranges.ravel()).reshape(-1, 2)
        self._skipped = [(int(first), int(last)) for first, last in ranges]

    def forget(self) -> None:
        """Forgets the running mean, since the next steps have another loss."""
        self._statistics = np.zeros(3)

    def state(self) -> dict[str, np.ndarray]:
        """Returns the arrays to store in a checkpoint."""
        if not (self._enabled or self._skipped):
            return {}
        skipped = np.array(self._skipped, np.int64).reshape(-1, 2)
        return {_STATISTICS: self._statistics, _SKIPPED: skipped}

    @property
    def borders(self) -> tuple[int, ...]:
        """Returns the steps where a call must end, so that all of its steps are skipped or none."""
        return tuple(border for first, last in self._skipped for border in (first, last + 1))

    def skips(self, step: int) -> bool:
        """Returns whether a step is skipped."""
        return any(first <= step <= last for first, last in self._skipped)

    def watch(self, first_step: int, losses: np.ndarray, nonfinite: np.ndarray) -> None:
        """Looks for a spike in the losses [K] of a call; `nonfinite` [K] steps are always spikes.

        Raises:
          Spike: a step is a spike.
          NonFiniteError: a step is a spike, and `max_rollbacks` are used up.
        """
        if not self._enabled:
            return
        step, reason = -1, "the loss runs away on the chief"
        if self._workers.is_chief:
            step, reason = self._find(first_step, losses, nonfinite)
        step = self._workers.broadcast_int(step)
        if step >= 0:
            self._roll_back_or_end(step, reason)

    @contextlib.contextmanager
    def nonfinite_as_spike(self, step: int) -> Iterator[None]:
        """Turns a NonFiniteError inside into a spike at a step, if roll-backs are enabled.

        Raises:
          Spike: instead of NonFiniteError.
        """
        try:
            yield
        except NonFiniteError as error:
            if self._enabled:
                self._roll_back_or_end(step, str(error))
            raise

    def needed_step(self, step: int) -> int | None:
        """Returns the earliest step that a roll-back after `step` may need; None: no roll-back."""
        if not self._enabled or len(self._skipped) >= self._settings.max_rollbacks:
            return None
        left = self._settings.max_rollbacks - len(self._skipped)
        return self._window_start(step, left * self._settings.skip_steps)

    def rollbacks_before(self, step: int) -> dict[str, float]:
        """Returns the count of roll-backs before a step, for a row of the metrics log."""
        if not (self._enabled or self._skipped):
            return {}
        return {"rollbacks": float(sum(last < step for _, last in self._skipped))}

    def roll_back(self, spike: Spike, checkpoints: Checkpoints | None) -> Checkpoint | None:
        """Chooses the steps to skip; returns the checkpoint to restore, None on other workers.

        Deletes the chief's later checkpoints. A run that is killed before it has saved the next
        checkpoint meets the same spike again, and skips the same steps.

        Raises:
          UserError: no checkpoint is whole.
          StorageError: a checkpoint cannot be deleted.
        """
        first = self._window_start(spike.step, self._settings.skip_steps)
        checkpoint = self._workers.run_on_chief(
            lambda: _go_back(checkpoints, first) if checkpoints else None
        )
        first = self._workers.broadcast_int(max(first, checkpoint.step) if checkpoint else 0)
        self._skipped.append((first, spike.step))
        if checkpoint:
            self._statistics = checkpoint.arrays(_STATE).get(_STATISTICS, np.zeros(3))
            skipped = f"steps {first:,} to {spike.step:,} are"
            if first == spike.step:
                skipped = f"step {first:,} is"
            print(
                f"LOSS SPIKE at step {spike.step:,}: {spike.reason}; back to step "
                f"{checkpoint.step:,}, {skipped} skipped (roll-back {len(self._skipped)} of "
                f"{self._settings.max_rollbacks})",
                file=sys.stderr,
                flush=True,
            )
        return checkpoint

    def _window_start(self, step: int, count: int) -> int:
        """Returns the first of the `count` > 0 steps up to `step` that are not skipped yet."""
        left = (earlier for earlier in range(step, -1, -1) if not self.skips(earlier))
        return min(itertools.islice(left, count), default=0)

    def _find(self, first_step: int, losses: np.ndarray, nonfinite: np.ndarray) -> tuple[int, str]:
        """Returns the step of a call's first spike, or -1, and why; updates the running mean.

        A loss is a spike if it exceeds the mean by more than `loss_ratio` - 1 times the mean
        absolute loss; a positive loss, if it exceeds `loss_ratio` times the mean.
        """
        count, mean, size = self._statistics.tolist()
        for index, loss in enumerate(losses.tolist()):
            step = int(first_step + index)
            if nonfinite[index]:
                return step, "the loss or its gradient is NaN or infinite"
            if count and loss > mean + (self._settings.loss_ratio - 1) * size:
                return step, f"the loss is {loss:.5g}, after a mean of {mean:.5g}"
            count += 1
            share = 1 / min(count, _MEAN_STEPS)
            mean += share * (loss - mean)
            size += share * (abs(loss) - size)
        self._statistics = np.array([count, mean, size])
        return -1, ""

    def _roll_back_or_end(self, step: int, reason: str) -> None:
        if len(self._skipped) < self._settings.max_rollbacks:
            raise Spike(step, reason)
        raise NonFiniteError(
            f"step {step}: {reason}, and spikes.max_rollbacks={self._settings.max_rollbacks} "
            "allows no more roll-backs; a lower optimizer.learning_rate or an "
            "optimizer.clip_norm may help"
        )


def _go_back(checkpoints: Checkpoints, first_step: int) -> Checkpoint:
    checkpoint = checkpoints.find_before(first_step)
    assert checkpoint is not None, "each run begins with a checkpoint"
    checkpoints.delete_after(max(first_step, checkpoint.step))
    return checkpoint
