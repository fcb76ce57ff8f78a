"""Loss spikes: a run whose loss runs away goes back, and on without the steps that led there.

As Chowdhery et al. 2022 (PaLM, section 5.1), but exact. What is a spike follows from the losses of
the steps before, whose mean is kept in the checkpoints; the steps to skip are written down before
the run goes on. So it ends with the bits of a run that never had these steps, interrupted or not.
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trainer.config import Config
from trainer.distribution.workers import Workers
from trainer.errors import NonFiniteError, UserError, writing
from trainer.run import checkpoints, workdir
from trainer.storage import atomic

FILE = "spikes.json"
_MEAN_STEPS = 100  # time constant of the running mean, in steps
_LOSS_STATISTICS = "spikes/loss_statistics"  # of a state: [count, mean loss, mean |loss|]
_FOLLOWED = "the chief has seen the loss run away"


class Spike(Exception):  # noqa: N818
    """The loss has run away at a step, and the run can go back."""

    def __init__(self, step: int, why: str):
        super().__init__(f"step {step}: {why}")
        self.step = step
        self.why = why


class Spikes:
    """Detects loss spikes and knows the steps that are skipped because of them.

    All workers call the same methods; the chief decides.
    """

    def __init__(self, config: Config, run: Path, workers: Workers):
        self._settings = config.spikes
        self._on = config.spikes.loss_ratio > 0
        self._run = run
        self._workers = workers
        self._loss_statistics = np.zeros(3)
        self._skipped: list[tuple[int, int]] = []  # the first and last step, of each roll-back

    def resume(self, checkpoint: checkpoints.Checkpoint | None) -> None:
        """Goes on from the chief's checkpoint, with what its workdir says of earlier spikes.

        Raises:
          UserError: the chief cannot read that.
        """
        broadcast_int = self._workers.broadcast_int
        notes = self._workers.run_on_chief(self._read) or []
        pairs = [(note["first_skipped"], note["last_skipped"]) for note in notes]
        count = broadcast_int(len(pairs))
        pairs = pairs or [(0, 0)] * count
        self._skipped = [(broadcast_int(first), broadcast_int(last)) for first, last in pairs]
        state = checkpoint.state() if checkpoint and self._on else {}
        self._loss_statistics = state.get(_LOSS_STATISTICS, np.zeros(3))

    @property
    def borders(self) -> tuple[int, ...]:
        """The steps at which a call must end, so that it is skipped as a whole or not at all."""
        return tuple(border for first, last in self._skipped for border in (first, last + 1))

    def skips(self, step: int) -> bool:
        """Whether a step is passed over."""
        return any(first <= step <= last for first, last in self._skipped)

    def watch(self, first_step: int, losses: np.ndarray, broken: np.ndarray) -> None:
        """Takes the losses [count] of each call of `Steps.train`, in their order.

        Which of its steps are `broken`, bool [count], `Steps.nonfinite_steps` says.

        Raises:
          Spike: one of the steps is one.
          NonFiniteError: likewise, and the run has gone back as often as it may.
        """
        if not self._on:
            return
        step, why = -1, _FOLLOWED
        if self._workers.is_chief:
            step, why = self._find(first_step, losses, broken)
        step = self._workers.broadcast_int(step)
        if step >= 0:
            self._raise(step, why)

    @contextlib.contextmanager
    def non_finite_as_spike(self, step: int) -> Iterator[None]:
        """Takes a NonFiniteError inside, where the run may go back, for a spike at a step.

        Raises:
          Spike: instead of it.
        """
        try:
            yield
        except NonFiniteError as error:
            if self._on:
                self._raise(step, str(error))
            raise

    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint holds of it."""
        return {_LOSS_STATISTICS: self._loss_statistics} if self._on else {}

    def needed_step(self, step: int) -> int | None:
        """The step from which all the roll-backs that are left could go on; None without any.

        They could be wanted one after the other from `step` on, each further back than the last.
        """
        left = self._settings.max_rollbacks - len(self._skipped)
        if not self._on or left <= 0:
            return None
        return self._back(step, left * self._settings.skip_steps)

    def row(self, step: int) -> dict[str, float]:
        """What a row of the log says of it: how many roll-backs there were before a step."""
        if not (self._on or self._skipped):
            return {}
        return {"rollbacks": float(sum(last < step for _, last in self._skipped))}

    def roll_back(self, spike: Spike) -> checkpoints.Checkpoint:
        """Finds where the chief goes on, and writes down which steps are skipped from there.

        What it knows of later steps goes first: a kill before the note has the spike met again.

        Raises:
          UserError: no checkpoint is whole.
          StorageError: the workdir cannot be written.
        """
        folder = self._run / workdir.CHECKPOINTS
        first = self._back(spike.step, self._settings.skip_steps)
        run_id = workdir.run_id(self._run)
        checkpoint = checkpoints.find_before(folder, first, run_id=run_id)
        assert checkpoint is not None, "each run begins with a checkpoint"
        first = max(first, checkpoint.step)
        checkpoints.delete_after(folder, first, run_id=run_id)
        note = {
            "first_skipped": first,
            "last_skipped": spike.step,
            "back_to_step": checkpoint.step,
            "why": spike.why,
        }
        path = self._run / FILE
        notes = [*self._read(), note]
        with writing(path):
            atomic.write_json(path, {"rollbacks": notes})
        one = first == spike.step
        skipped = f"step {first:,} is" if one else f"steps {first:,} to {spike.step:,} are"
        print(
            f"LOSS SPIKE at step {spike.step:,}: {spike.why}; back to step {checkpoint.step:,}, "
            f"{skipped} skipped (roll-back {len(notes)} of {self._settings.max_rollbacks})",
            file=sys.stderr,
            flush=True,
        )
        return checkpoint

    def _back(self, step: int, count: int) -> int:
        """The step from which `count` steps up to `step` are not skipped yet; 0 of fewer."""
        first = step + 1
        while count > 0 and first > 0:
            first -= 1
            count -= not self.skips(first)
        return first

    def _find(self, first_step: int, losses: np.ndarray, broken: np.ndarray) -> tuple[int, str]:
        """The first spike in a call and what it is, or -1; the steps before it join the mean.

        Above the ratio times the mean, of losses that are never negative; of others, as far above
        the mean in terms of their size.
        """
        met, mean, size = self._loss_statistics.tolist()
        for place, loss in enumerate(losses.tolist()):
            step = int(first_step + place)
            if broken[place]:
                return step, "the loss or its gradient is NaN or infinite"
            if met and loss > mean + (self._settings.loss_ratio - 1) * size:
                return step, f"the loss is {loss:.5g}, after a mean of {mean:.5g}"
            met += 1
            share = 1 / min(met, _MEAN_STEPS)
            mean += share * (loss - mean)
            size += share * (abs(loss) - size)
        self._loss_statistics = np.array([met, mean, size])
        return -1, ""

    def _raise(self, step: int, why: str) -> None:
        most = self._settings.max_rollbacks
        if len(self._skipped) < most:
            raise Spike(step, why)
        raise NonFiniteError(
            f"step {step}: {why}, and spikes.max_rollbacks={most} allows no more roll-backs; "
            "a lower optimizer.learning_rate or an optimizer.clip_norm may help"
        )

    def _read(self) -> list[dict]:
        """The notes, of each roll-back one."""
        path = self._run / FILE
        if not path.exists():
            return []
        try:
            notes = json.loads(path.read_text())["rollbacks"]
            for note in notes:
                first, last = note["first_skipped"], note["last_skipped"]
                if not (isinstance(first, int) and isinstance(last, int) and 0 <= first <= last):
                    raise ValueError(note)
        except (OSError, *atomic.JSON_ERRORS) as error:
            raise UserError(
                f"{path} cannot be read ({type(error).__name__}); put it back from a copy, or "
                "remove it: the spikes are then met again, but what is skipped may differ"
            ) from error
        return notes
