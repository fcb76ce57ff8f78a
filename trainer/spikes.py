"""Loss spikes: a run whose loss runs away goes back, and on without the steps that led there.

As Chowdhery et al. 2022 (PaLM, section 5.1), but exact. What is a spike follows from the losses of
the steps before, whose mean is kept in the checkpoints; the steps to skip are written down before
the run goes on. So it ends with the bits of a run that never had these steps, interrupted or not.
"""

import contextlib
import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from trainer import checkpoints, files, workdir
from trainer.errors import NonFiniteError, UserError, require, require_at_least, writing
from trainer.workers import Workers

FILE = "spikes.json"
_MEAN_STEPS = 100  # that the mean of the losses reaches back, about
_LOSSES = "spikes/losses"  # of a state: how many were met, their mean and that of their sizes
_FOLLOWED = "the chief has seen the loss run away"


class Spike(Exception):  # noqa: N818
    """The loss has run away at a step, and the run can go back."""

    def __init__(self, step: int, why: str):
        super().__init__(f"step {step}: {why}")
        self.step = step
        self.why = why


def check_spikes(settings: ConfigDict) -> None:
    """Raises UserError unless these can be a config's `spikes`."""
    require(
        settings.ratio == 0 or 1 < settings.ratio < math.inf,
        f"spikes.ratio={settings.ratio} is not allowed; it must be above 1 and finite, or 0: never",
    )
    for key in ("skip_steps", "most"):
        require_at_least(f"spikes.{key}", settings[key], 1)


class Spikes:
    """Those of a run, met or to come. All workers call the same methods; the chief decides."""

    def __init__(self, config: ConfigDict, run: Path, workers: Workers):
        self._settings = config.spikes
        self._on = config.spikes.ratio > 0
        self._scaled = config.precision == "float16"  # a gradient that overflows is no harm there
        self._run = run
        self._workers = workers
        self._losses = np.zeros(3)
        self._skipped: list[tuple[int, int]] = []  # the first and last step, of each roll-back

    def take_up(self, checkpoint: checkpoints.Checkpoint | None) -> None:
        """Goes on from the chief's checkpoint, with what its workdir says of earlier spikes.

        Raises:
          UserError: the chief cannot read that.
        """
        of_chief = self._workers.of_chief
        notes = self._workers.chief_does(self._read) or []
        pairs = [(note["first_skipped"], note["last_skipped"]) for note in notes]
        count = of_chief(len(pairs))
        pairs = pairs or [(0, 0)] * count
        self._skipped = [(of_chief(first), of_chief(last)) for first, last in pairs]
        state = checkpoint.state() if checkpoint and self._on else {}
        self._losses = state.get(_LOSSES, np.zeros(3))

    @property
    def borders(self) -> tuple[int, ...]:
        """The steps at which a call must end, so that it is skipped as a whole or not at all."""
        return tuple(border for first, last in self._skipped for border in (first, last + 1))

    def skips(self, step: int) -> bool:
        """Whether a step is passed over."""
        return any(first <= step <= last for first, last in self._skipped)

    def watch(self, first_step: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Takes what each call of `Steps.train` returned, in their order.

        Raises:
          Spike: one of the steps is one.
          NonFiniteError: likewise, and the run has gone back as often as it may.
        """
        if not self._on:
            return
        step, why = -1, _FOLLOWED
        if self._workers.is_chief:
            step, why = self._find(first_step, metrics)
        step = self._workers.of_chief(step)
        if step >= 0:
            self._raise(step, why)

    @contextlib.contextmanager
    def instead_of_an_end(self, step: int) -> Iterator[None]:
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
        return {_LOSSES: self._losses} if self._on else {}

    def first_skipped(self, step: int) -> int | None:
        """The first step that a spike at some step would skip; None where none does.

        The steps that are skipped already do not count.
        """
        if not self._on:
            return None
        first, more = step, self._settings.skip_steps - 1
        while more > 0 and first > 0:
            first -= 1
            more -= not self.skips(first)
        return first

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
        first = self.first_skipped(spike.step)
        assert first is not None, "spikes are met where they are looked for"
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
            files.write_json(path, {"rollbacks": notes})
        several = f"steps {first:,} to {spike.step:,} are"
        print(
            f"LOSS SPIKE at step {spike.step:,}: {spike.why}; back to step {checkpoint.step:,}, "
            f"{several if first < spike.step else f'step {first:,} is'} skipped "
            f"(roll-back {len(notes)} of {self._settings.most})",
            file=sys.stderr,
            flush=True,
        )
        return checkpoint

    def _find(self, first_step: int, metrics: Mapping[str, np.ndarray]) -> tuple[int, str]:
        """The first spike in a call and what it is, or -1; the steps before it join the mean.

        Above the ratio times the mean, of losses that are never negative; of others, as far above
        the mean in terms of their size.
        """
        met, mean, size = self._losses.tolist()
        losses, norms = metrics["loss"].tolist(), metrics["gradient_norm"].tolist()
        for step, (loss, norm) in enumerate(zip(losses, norms, strict=True), start=first_step):
            if not math.isfinite(loss) or not (self._scaled or math.isfinite(norm)):
                return int(step), "the loss or its gradient is NaN or infinite"
            if met and loss > mean + (self._settings.ratio - 1) * size:
                return int(step), f"the loss is {loss:.5g}, after a mean of {mean:.5g}"
            met += 1
            share = 1 / min(met, _MEAN_STEPS)
            mean += share * (loss - mean)
            size += share * (abs(loss) - size)
        self._losses = np.array([met, mean, size])
        return -1, ""

    def _raise(self, step: int, why: str) -> None:
        most = self._settings.most
        if len(self._skipped) < most:
            raise Spike(step, why)
        raise NonFiniteError(
            f"step {step}: {why}, and spikes.most={most} allows no more roll-backs; "
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
        except (OSError, *files.JSON_ERRORS) as error:
            raise UserError(
                f"{path} cannot be read ({type(error).__name__}); put it back from a copy, or "
                "remove it: the spikes are then met again, but what is skipped may differ"
            ) from error
        return notes
