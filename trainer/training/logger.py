"""Writes what a training leaves: metrics, TensorBoard's charts, checkpoints, progress."""

import contextlib
import math
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import numpy as np

from trainer import positions
from trainer.config import hyperparameters
from trainer.data.dataset import spread_over_classes, to_unit
from trainer.distribution.inference import model_graph
from trainer.distribution.variables import model_variables, values_of
from trainer.errors import Preempted
from trainer.monitoring import example_columns, figures
from trainer.monitoring.goodput import Clock
from trainer.monitoring.progress import Progress
from trainer.monitoring.tensorboard import SPLITS, Summaries
from trainer.run.background import BackgroundSaver
from trainer.run.checkpoints import Checkpoint
from trainer.training.loss_spikes import Spike, SpikeGuard
from trainer.training.phases import Phase, phase_at
from trainer.training.setup import Setup
from trainer.training.steps_per_call import due, log_windows

_WINDOW = "logged/"  # begins the paths of a window's metrics in a checkpoint
_MAX_IMAGES = 100  # validation images for a kind's figures
_MAX_NUMBERS = 2**20  # in all images for the figures
_FIGURES_PER_DOUBLING = 64  # validations with figures per doubling of the number of validations


class MetricsWindow:
    """Collects the metrics of the steps since the last log row.

    With `compiles`, the first call includes the compilation and does not count for the speed.
    """

    def __init__(self, compiles: bool = False, before: Mapping[str, np.ndarray] | None = None):
        """Begins with `before`, the `state` of a window at the checkpoint where a run resumes."""
        self._compiles = compiles
        self._before = {name.removeprefix(_WINDOW): rows for name, rows in (before or {}).items()}
        self._seconds: list[float] = []
        self._metrics: list[dict[str, np.ndarray]] = []

    @property
    def is_empty(self) -> bool:
        """Returns whether no step was taken."""
        return not (self._before or self._metrics)

    def add(self, metrics: dict[str, np.ndarray], seconds: float) -> None:
        """Adds the metrics of some steps, as `Steps.train` returns them, and their seconds."""
        self._metrics.append(metrics)
        self._seconds.append(seconds)

    def state(self) -> dict[str, np.ndarray]:
        """Returns the metrics of the steps, as checkpoints hold them."""
        return {f"{_WINDOW}{name}": rows for name, rows in self._columns().items()}

    def _columns(self) -> dict[str, np.ndarray]:
        parts = [*([self._before] if self._before else []), *self._metrics]
        names = parts[0] if parts else ()
        return {name: np.concatenate([metrics[name] for metrics in parts]) for name in names}

    def summarise(self, batch_size: int) -> dict[str, float]:
        """Returns the means over the steps, and the last values of learning rate and loss scale.

        `gradient_norm` is the last finite one, if any, since most steps do not compute the norm;
        `skipped_steps` counts the steps that float16 skipped; `images_per_second` is there if this
        process has taken a step.
        """
        columns = self._columns()
        norms = columns.pop("gradient_norm")
        settings = {name: float(columns.pop(name)[-1]) for name in ("learning_rate", "loss_scale")}
        skipped = float(columns.pop("skipped_steps").sum())
        row = {name: float(values.mean()) for name, values in columns.items()}
        row |= {"skipped_steps": skipped, **settings}
        if np.isfinite(norms).any():
            row["gradient_norm"] = float(norms[np.isfinite(norms)][-1])
        timed = slice(1 if self._compiles and len(self._seconds) > 1 else 0, None)
        images = batch_size * sum(len(metrics["loss"]) for metrics in self._metrics[timed])
        if self._seconds:
            row["images_per_second"] = images / sum(self._seconds[timed])
        return row


class Logger:
    """Writes the records of a training on the chief, from the first step to the end."""

    def __init__(
        self,
        setup: Setup,
        spikes: SpikeGuard,
        clock: Clock,
        checkpoint: Checkpoint | None,
        last_step: int,
    ):
        """Begins at the step of the checkpoint, or at step 0 without one."""
        first_step = checkpoint.step if checkpoint else 0
        assert setup.run is not None
        config = setup.config
        self._config = config
        self._workdir = setup.workdir
        self._log = setup.run.log
        self._model = setup.model
        self._dataset = setup.dataset
        splits = SPLITS if config.tensorboard else ()
        self._summaries = Summaries(setup.workdir, splits, start_step=first_step)
        self._progress = Progress(
            first_step,
            last_step,
            config.batch_size,
            unit=setup.dataset.unit,
            quiet=config.quiet,
        )
        self._saver = BackgroundSaver(setup.run.checkpoints)
        self._clock = clock
        self._spikes = spikes
        self.begin_phase(phase_at(setup.phases, first_step))
        if checkpoint:
            self._window = MetricsWindow(compiles=True, before=checkpoint.arrays(_WINDOW))
        if first_step == 0 and config.tensorboard:
            self._summaries.text("train", 0, "config", f"```\n{config}```")
            self._summaries.layout()
            self._summaries.graph(model_graph(setup.model))
        self._summaries.begin(hyperparameters(config))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes all files; a preemption or a roll-back does not end the training."""
        with contextlib.closing(self):
            if not isinstance(error, Preempted | Spike):
                self._summaries.end(succeeded=error is None)

    def begin_phase(self, phase: Phase) -> None:
        """Logs the steps and validations from here on as those of a phase."""
        self._window = MetricsWindow(compiles=True)
        self._phase = phase

    def advance(self, step: int, loss: float) -> None:
        """Moves the progress bar."""
        self._progress.advance(step, loss)

    def log_steps(
        self, first_step: int, metrics: Mapping[str, np.ndarray], count: int, seconds: float
    ) -> None:
        """Logs the steps of a call wherever a row is due; skipped steps have no `metrics`, {}.

        A row contains the means over the steps since the last row, also after an interruption.
        """
        ends = log_windows(first_step, first_step + count, self._config, self._phase.end)
        for first, step in ends:
            if metrics:
                rows = slice(first - first_step, step - first_step)
                some = {name: values[rows] for name, values in metrics.items()}
                self._window.add(some, seconds * (step - first) / count)
            due_now = due(step, self._config.log_every_steps, self._phase.end)
            if due_now and not self._window.is_empty:
                row = self._window.summarise(self._config.batch_size)
                row |= self._spikes.rollbacks_before(step)
                self._training(step, row | {"goodput": self._clock.shares()["steps"]})
                self._window = MetricsWindow()

    def _training(self, step: int, row: Mapping[str, float]) -> None:
        self._summaries.scalars("train", step, {self._chart(name): row[name] for name in row})
        self._log.append({"step": step, "split": "train"} | self._phase.marks | dict(row))
        if "images_per_second" in row:
            self._progress.training(step, row["loss"], row["images_per_second"])
        self._clock.write_if_due(self._workdir)

    def log_validation(self, step: int, losses: Mapping[str, float]) -> None:
        """Writes the losses of a validation, figures, histograms and the goodput."""
        tagged = {self._phase.tag(name): losses[name] for name in losses}
        self._summaries.scalars("validation", step, tagged)
        shares = self._clock.shares()
        self._summaries.scalars("train", step, {f"goodput/{name}": shares[name] for name in shares})
        every = self._config.validate_every_steps
        draws = step in (0, self._phase.end) or has_figures(step // every)
        draws &= self._config.tensorboard
        if self._config.figures and draws:
            for tag, figure in self._figures().items():
                self._summaries.image("validation", step, tag, figure)
        if self._config.histograms and draws:
            weights = values_of(model_variables(self._model))
            self._summaries.histograms("train", step, weights)
        self._log.append({"step": step, "split": "validation"} | self._phase.marks | dict(losses))
        layer = f" of layer {self._phase.layer}" if self._phase.layer else ""
        self._progress.line(f"step {step:,} validation{layer}: {describe_losses(losses)}")

    def save_checkpoint(
        self,
        step: int,
        state: Mapping[str, np.ndarray],
        validation_loss: float | None,
    ) -> None:
        """Flushes TensorBoard's files, then saves a checkpoint in the background."""
        self._summaries.flush()
        self._saver.save(
            step,
            {**state, **self._window.state()},
            validation_loss=validation_loss,
            keep=self._config.keep_checkpoints,
            needed_step=self._spikes.needed_step(step),
        )
        self._clock.write(self._workdir)

    def close(self) -> None:
        """Waits until everything is written."""
        with contextlib.ExitStack() as scope:
            scope.callback(self._clock.write, self._workdir)
            scope.enter_context(self._clock.spent_on("checkpoint"))
            for writer in (self._saver, self._summaries, self._progress):
                scope.enter_context(contextlib.closing(writer))

    def _chart(self, metric: str) -> str:
        """Returns TensorBoard's tag of a training metric; a validation's, if it has the metric."""
        validated = metric.split("/")[0] == "loss" or metric in self._model.logged_terms
        return self._phase.tag(metric) if validated else f"training/{metric}"

    def _figures(self) -> dict[str, np.ndarray]:
        fitting = _MAX_NUMBERS // math.prod(self._dataset.image_shape)
        count = max(figures.COLUMNS, min(_MAX_IMAGES, fitting))
        validation = self._dataset.validation
        shown = spread_over_classes(validation.labels, count, len(validation))
        images = to_unit(validation.images[shown])
        some, noise = images[: figures.COLUMNS], self._noise(figures.COLUMNS)
        rows = self._model.reconstruction_rows(some, noise)
        grids = self._model.validation_images(images, self._noise(count))
        plots = {tag: figures.labelled_grid(tag, **vars(grid)) for tag, grid in grids.items()}
        return {"reconstructions": example_columns.draw(rows), **plots}

    def _noise(self, count: int) -> positions.Noise:
        """Returns the noise of the first validation images."""
        count = min(count, len(self._dataset.validation))
        return positions.Noise(self._config.seed, 0, count, stream="evaluation")


class NullLogger:
    """Writes nothing, on workers that are not the chief."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        pass

    def begin_phase(self, phase: Phase) -> None:
        pass

    def advance(self, step: int, loss: float) -> None:
        pass

    def log_steps(
        self, first_step: int, metrics: Mapping[str, np.ndarray], count: int, seconds: float
    ) -> None:
        pass

    def log_validation(self, step: int, losses: Mapping[str, float]) -> None:
        pass

    def save_checkpoint(
        self,
        step: int,
        state: Mapping[str, np.ndarray],
        validation_loss: float | None,
    ) -> None:
        pass


def has_figures(validation: int) -> bool:
    """Returns whether a validation, counted from 1, gets figures and histograms.

    Each of the first 127 does, every second up to 255, every fourth up to 511 and so on: 64 per
    doubling of a run's length, so that event files stay small.
    """
    doublings = max(0, (validation // _FIGURES_PER_DOUBLING).bit_length() - 1)
    return validation % 2**doublings == 0


def describe_losses(losses: Mapping[str, float]) -> str:
    """Formats losses as one line."""
    shown = {name: value for name, value in losses.items() if name != "loss" or len(losses) > 2}
    return ", ".join(f"{name} {value:.5f}" for name, value in shown.items())
