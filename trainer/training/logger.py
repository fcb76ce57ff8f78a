"""What a training shows and leaves: metrics, charts, pictures, checkpoints, a bar."""

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from ml_collections import ConfigDict

from trainer import data, models, positions
from trainer.data.examples import to_unit
from trainer.distribution.inference import model_graph
from trainer.distribution.variables import model_variables, values_of
from trainer.errors import Preempted
from trainer.monitoring import figures
from trainer.monitoring.goodput import Clock
from trainer.monitoring.progress import Progress
from trainer.monitoring.tensorboard import Summaries
from trainer.run import checkpoints, workdir
from trainer.training.loss_spikes import Spike, Spikes
from trainer.training.steps_per_call import due, log_windows

_MOST_SHOWN = 100  # validation images, that a kind makes its pictures from
_MOST_SHOWN_NUMBERS = 2**20  # in all of these together
_PICTURED = 64  # validations, each time that their number doubles


class MetricsWindow:
    """The steps since the last log or checkpoint; `compiles`: the first call of them does."""

    def __init__(self, compiles: bool = False) -> None:
        self._compiles = compiles
        self._seconds: list[float] = []
        self._metrics: list[dict[str, np.ndarray]] = []

    @property
    def is_empty(self) -> bool:
        """Whether all of the steps were passed over."""
        return not self._metrics

    def add(self, metrics: dict[str, np.ndarray], seconds: float) -> None:
        """Takes what a call of `Steps.train` returned of some steps, and how long they took."""
        self._metrics.append(metrics)
        self._seconds.append(seconds)

    def summarise(self, batch_size: int) -> dict[str, float]:
        """Means over the steps; the last value of what is a setting.

        `gradient_norm` is that of the last step that has a finite one, if there is any, since most
        steps do not compute it; `skipped_steps` counts those that float16 skipped.
        """
        columns = {
            name: np.concatenate([metrics[name] for metrics in self._metrics])
            for name in self._metrics[0]
        }
        norms = columns.pop("gradient_norm")
        row = {name: float(values.mean()) for name, values in columns.items()}
        if np.isfinite(norms).any():
            row["gradient_norm"] = float(norms[np.isfinite(norms)][-1])
        row["skipped_steps"] = float(columns["skipped_steps"].sum())
        for setting in ("learning_rate", "loss_scale"):
            row[setting] = float(columns[setting][-1])
        timed = slice(1 if self._compiles and len(self._seconds) > 1 else 0, None)
        images = batch_size * sum(len(metrics["loss"]) for metrics in self._metrics[timed])
        row["images_per_second"] = images / sum(self._seconds[timed])
        return row


class Logger:
    """The chief's record of the steps from the first to the last."""

    def __init__(
        self,
        config: ConfigDict,
        run: Path,
        model: models.Autoencoder,
        dataset: data.Dataset,
        first_step: int,
        last_step: int,
        clock: Clock,
        spikes: Spikes,
    ):
        self._config = config
        self._run = run
        self._run_id = workdir.run_id(run)
        self._model = model
        self._dataset = dataset
        self._summaries = Summaries(run, start_step=first_step)
        self._progress = Progress(first_step, last_step, config.batch_size, quiet=config.quiet)
        self._saver = checkpoints.Background()
        self._clock = clock
        self._spikes = spikes
        self._window = MetricsWindow(compiles=True)
        self._last_step = last_step
        if first_step == 0:
            self._summaries.text("train", 0, "config", f"```\n{config}```")
            self._summaries.layout()
            self._summaries.graph(model_graph(model))
        self._summaries.begin(workdir.hyperparameters(config))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes; a training that is preempted, or goes back, has not come to its end."""
        with contextlib.closing(self):
            if not isinstance(error, Preempted | Spike):
                self._summaries.end(succeeded=error is None)

    def advance(self, step: int, loss: float) -> None:
        """Shows how far the training is."""
        self._progress.advance(step, loss)

    def steps(
        self, first_step: int, metrics: Mapping[str, np.ndarray], count: int, seconds: float
    ) -> None:
        """Logs the steps of a training call wherever a line is due; `metrics` is {} if skipped.

        A row holds the means over the steps since the last row, checkpoint or start.
        """
        ends = log_windows(first_step, first_step + count, self._config, self._last_step)
        for first, step in ends:
            if metrics:
                part = slice(first - first_step, step - first_step)
                some = {name: values[part] for name, values in metrics.items()}
                self._window.add(some, seconds * (step - first) / count)
            due_now = due(step, self._config.log_every_steps, self._last_step)
            if due_now and not self._window.is_empty:
                row = self._window.summarise(self._config.batch_size) | self._spikes.row(step)
                self._training(step, row | {"goodput": self._clock.shares()["steps"]})
                self._window = MetricsWindow()

    def _training(self, step: int, row: Mapping[str, float]) -> None:
        self._summaries.scalars("train", step, {_chart(name): row[name] for name in row})
        workdir.append_metrics(self._run, {"step": step, "part": "train"} | dict(row))
        self._progress.training(step, row["loss"], row["images_per_second"])
        self._clock.write_if_due(self._run)

    def validation(self, step: int, losses: Mapping[str, float]) -> None:
        """Writes down the losses of a validation, with pictures, and where the time has gone."""
        self._summaries.scalars("validation", step, losses)
        shares = self._clock.shares()
        self._summaries.scalars("train", step, {f"goodput/{name}": shares[name] for name in shares})
        pictured = step == self._last_step or is_pictured(step // self._config.validate_every_steps)
        if self._config.pictures and pictured:
            for tag, picture in self._pictures().items():
                self._summaries.image("validation", step, tag, picture)
        if self._config.histograms and pictured:
            weights = values_of(model_variables(self._model))
            self._summaries.histograms("train", step, weights)
        workdir.append_metrics(self._run, {"step": step, "part": "validation"} | dict(losses))
        self._progress.line(f"step {step:,} validation: {words(losses)}")

    def checkpoint(
        self,
        step: int,
        state: Mapping[str, np.ndarray],
        validation_loss: float | None,
        needed_step: int | None,
    ) -> None:
        """Has a checkpoint written while the training goes on; the charts are on disk before it.

        The training may go back to `needed_step`.
        """
        self._window = MetricsWindow()  # a run that resumes here begins a window too
        self._summaries.flush()
        self._saver.save(
            self._run / workdir.CHECKPOINTS,
            step,
            state,
            validation_loss=validation_loss,
            keep=self._config.keep_checkpoints,
            run_id=self._run_id,
            needed_step=needed_step,
        )
        self._clock.write(self._run)

    def close(self) -> None:
        """Waits until everything is written."""
        with contextlib.ExitStack() as scope:
            scope.callback(self._clock.write, self._run)
            scope.enter_context(self._clock.spent_on("checkpoint"))
            for part in (self._saver, self._summaries, self._progress):
                scope.enter_context(contextlib.closing(part))

    def _pictures(self) -> dict[str, np.ndarray]:
        fitting = _MOST_SHOWN_NUMBERS // math.prod(self._dataset.image_shape)
        count = max(figures.COLUMNS, min(_MOST_SHOWN, fitting))
        images = to_unit(self._dataset.validation.images[:count])
        rows = self._model.rows(images[: figures.COLUMNS], self._noise(figures.COLUMNS))
        own = self._model.validation_pictures(images, self._noise(count))
        return {"reconstructions": figures.reconstructions(rows), **own}

    def _noise(self, count: int) -> positions.Noise:
        """That of the first validation images."""
        count = min(count, len(self._dataset.validation))
        return positions.Noise(self._config.seed, 0, count, stream="evaluation")


class NullLogger:
    """That of the workers who are not the chief: nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        pass

    def advance(self, step: int, loss: float) -> None:
        pass

    def steps(
        self, first_step: int, metrics: Mapping[str, np.ndarray], count: int, seconds: float
    ) -> None:
        pass

    def validation(self, step: int, losses: Mapping[str, float]) -> None:
        pass

    def checkpoint(
        self,
        step: int,
        state: Mapping[str, np.ndarray],
        validation_loss: float | None,
        needed_step: int | None,
    ) -> None:
        pass


def is_pictured(validation: int) -> bool:
    """Whether a validation, counted from 1, leaves pictures and histograms in the event files.

    Each of the first 127 does, every second up to 255, every fourth up to 511 and so on: 64 each
    time that a run doubles, so that the files of a run of any length stay readable.
    """
    doublings = max(0, (validation // _PICTURED).bit_length() - 1)
    return validation % 2**doublings == 0


def words(losses: Mapping[str, float]) -> str:
    """Losses in a line."""
    shown = {name: value for name, value in losses.items() if name != "loss" or len(losses) > 2}
    return ", ".join(f"{name} {value:.5f}" for name, value in shown.items())


def _chart(metric: str) -> str:
    """The tag under which TensorBoard shows a metric of training: the losses first."""
    return metric if metric.split("/")[0] == "loss" else f"training/{metric}"
