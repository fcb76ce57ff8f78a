"""Trains a run from its newest checkpoint to its end: sets up, resumes, loops."""

import contextlib
import dataclasses
import math
import time

import numpy as np
from ml_collections import ConfigDict

from trainer.config import Config, parse
from trainer.data.batches import training_batches
from trainer.distribution.devices import describe_devices, within_memory
from trainer.errors import NonFiniteError, Preempted
from trainer.monitoring.goodput import Clock
from trainer.monitoring.profiler import Profile
from trainer.run.checkpoints import Checkpoint
from trainer.run.early_stopping import is_exhausted, validation_losses
from trainer.training import resume
from trainer.training.logger import Logger, NullLogger, describe_losses
from trainer.training.loss_spikes import Spike, SpikeGuard
from trainer.training.phases import Phase, phase_at
from trainer.training.plan import describe_end, print_plan
from trainer.training.setup import Setup, agree_on_execution, cache_images, set_up
from trainer.training.steps_per_call import StepsPerCall, cadences, due, step_ranges

_INDEX_BYTES = 4  # an example's index is an int32


def train(
    config: Config | ConfigDict,
    workdir: str,
    vectors: np.ndarray | None = None,
    began_seconds: float | None = None,
) -> dict[str, float]:
    """Trains the autoencoder of a config in a workdir, from the newest checkpoint if there is one.

    The data come from the config or, with data.name='memory', are the `vectors` [N, D]. The
    start-up counts from `began_seconds` of the monotonic clock, or from now.

    Returns the validation losses at the last step, or at the step where the run ended early.

    Raises:
      UserError: the config, the data or the workdir cannot be used.
      NonFiniteError: the loss or the weights are not finite; the last checkpoint is intact.
      Preempted: SIGTERM or SIGINT came to one of the workers; a checkpoint is written.
      WorkersError: another worker has not started, or is lost.
      StorageError: the workdir can no longer be written; the last checkpoint is intact.
    """
    clock = Clock(began_seconds)
    config = parse(config)
    with contextlib.ExitStack() as scope:
        # Out of memory before the first validation: the device is too small; later: it is shared.
        memory_check = scope.enter_context(contextlib.ExitStack())
        memory_check.enter_context(within_memory())
        setup = scope.enter_context(set_up(config, workdir, vectors))
        workers, quiet = setup.workers, config.quiet or not setup.workers.is_chief

        # 1. Find the chief's checkpoint, choose how steps are computed, write config.json.
        checkpoint = resume.find_checkpoint(setup)
        cache_images(setup)
        setup.steps.set_execution(agree_on_execution(setup))
        workers.run_on_chief(lambda: _write_config(setup))

        # 2. Restore the same state on all workers.
        spikes = SpikeGuard(config.spikes, workers)
        first_step = resume.restore(setup, checkpoint)
        spikes.resume(checkpoint)
        if checkpoint and not quiet:
            print(f"resuming from {checkpoint.path}")
        has_ended = workers.any(_has_ended(setup, checkpoint))
        end = first_step if has_ended else setup.last_step
        if workers.is_chief:
            clock.resume(setup.workdir)
        if not quiet:
            print_plan(setup, first_step, end)

        # 3. Run the loop.
        try:
            step, losses = _train_to(
                end, first_step, checkpoint, setup, spikes, clock, memory_check
            )
            workers.barrier()  # waits until the chief has written everything
        except Preempted:
            workers.barrier()
            raise
        except NonFiniteError as error:
            workers.barrier()
            if setup.run is None:
                raise
            kept = setup.run.checkpoints.find()
            where = kept and kept.path
            raise NonFiniteError(f"{error}; the last good checkpoint is {where}") from error
    if not quiet:
        print(f"{describe_end(setup, step)}: {describe_losses(losses)}\n{clock}")
        with setup.steps.average.in_use():
            advice = setup.model.advice()
        if advice:
            print(advice)
    return losses


def describe(config: Config | ConfigDict, workdir: str) -> None:
    """Prints the networks and the plan of a run, and writes nothing.

    Raises:
      UserError: as `train`.
    """
    with set_up(parse(config), workdir) as setup:
        setup.steps.set_execution(agree_on_execution(setup))
        print_plan(setup, 0, setup.last_step)


def _train_to(
    end: int,
    first_step: int,
    checkpoint: Checkpoint | None,
    setup: Setup,
    spikes: SpikeGuard,
    clock: Clock,
    memory_check: contextlib.ExitStack,
) -> tuple[int, dict[str, float]]:
    """Runs the loop from the chief's checkpoint, and again from an earlier one after each spike."""
    while True:
        try:
            return _Loop(setup, spikes, clock, memory_check, end).run(first_step, checkpoint)
        except Spike as spike:
            clock.go_back()
            with clock.spent_on("checkpoint"):
                checkpoints = setup.run.checkpoints if setup.run else None
                checkpoint = spikes.roll_back(spike, checkpoints)
                first_step = resume.restore(setup, checkpoint)


class _Loop:
    """Trains, logs, validates and saves checkpoints."""

    def __init__(
        self,
        setup: Setup,
        spikes: SpikeGuard,
        clock: Clock,
        memory_check: contextlib.ExitStack,
        end: int,
    ):
        self._setup = setup
        self._config = setup.config
        self._spikes = spikes
        self._clock = clock
        self._memory_check = memory_check
        self._end = end
        self._profile = Profile(setup.config.profile_steps, setup.workdir / "train")
        self._losses: dict[str, float] = {}  # of the last validation of all layers
        self._history = validation_losses(setup.run) if setup.run else []
        images = setup.dataset.train.images
        image_bytes = math.prod(images.shape[1:]) * images.dtype.itemsize
        row_bytes = _INDEX_BYTES if setup.steps.images_on_device else image_bytes
        phases_steps = (phase.end - phase.first_step for phase in setup.phases)
        longest = min([end, *cadences(setup.config), max(phases_steps)])
        self._pace = StepsPerCall(
            setup.config.steps_per_call, setup.config.batch_size * row_bytes, longest
        )

    def run(self, first_step: int, checkpoint: Checkpoint | None) -> tuple[int, dict[str, float]]:
        """Trains from a step to the end, or until the run may end early.

        The checkpoint of the step is the chief's, None on other workers and in a new run.
        Returns the step and the validation losses there.

        Raises:
          Spike: the loss has run away, and the run may go back.
          Preempted: a signal came; a checkpoint is written.
          NonFiniteError: the loss or the weights are not finite.
        """
        setup, end = self._setup, self._end
        self._phase = phase_at(setup.phases, first_step)
        with contextlib.ExitStack() as scope:
            self._logger: Logger | NullLogger = NullLogger()
            if setup.workers.is_chief:
                self._logger = Logger(setup, self._spikes, self._clock, checkpoint, end)
                scope.enter_context(contextlib.closing(self._profile))
            scope.enter_context(self._logger)
            if first_step == 0 and setup.model.starts_at_pca:
                self._validate(0)
            for first, count, batches in self._clock.waits_for(self._batches(first_step)):
                step = int(first + count)
                self._take_steps(first, count, batches)
                stopping = setup.workers.any(setup.stop.requested)  # once: signals may follow
                validates = due(step, self._config.validate_every_steps, self._phase.end)
                loss = self._validate(step) if validates else None
                if step == self._phase.end < end:
                    self._begin(phase_at(setup.phases, step))
                if validates or stopping or due(step, self._config.checkpoint_every_steps, end):
                    self._save(step, loss)
                if loss is not None and self._may_end():
                    return step, self._losses
                if stopping and step < end:
                    raise Preempted(
                        f"stopped at step {step:,} with a checkpoint; start again to resume"
                    )
        return end, self._losses or setup.steps.evaluate(setup.dataset.validation.images)

    def _batches(self, first_step: int):
        """Draws the batches of each call of steps: first step, count, and rows [K, B, ...]."""
        setup, borders = self._setup, self._profile.borders + self._spikes.borders
        borders += tuple(phase.end for phase in setup.phases)
        return training_batches(
            setup.dataset.train.images,
            step_ranges(first_step, self._end, self._config, self._pace, borders),
            self._pace.max_steps,
            self._config.batch_size,
            self._config.seed,
            as_indices=setup.steps.images_on_device,
            local_rows=setup.steps.local_rows(),
        ).as_numpy_iterator()

    def _take_steps(self, first: int, count: int, batches: np.ndarray) -> None:
        """Takes the steps of one call, unless they are skipped, and logs them."""
        setup = self._setup
        if setup.workers.is_chief:
            self._profile.at(first)
        if self._spikes.skips(first):
            self._pace.plan(int(count))
            self._logger.log_steps(first, {}, count, 0.0)
            return
        began = time.monotonic()
        with self._clock.spent_on_steps(first, count):
            metrics = setup.steps.train(first, batches, count)
        seconds = time.monotonic() - began
        nonfinite = setup.steps.nonfinite_steps(metrics)
        self._spikes.watch(first, metrics["loss"], nonfinite)
        finite_steps = int(np.argmax(nonfinite)) if nonfinite.any() else count
        self._logger.log_steps(first, metrics, finite_steps, seconds * finite_steps / count)
        setup.steps.require_finite(first, metrics)
        self._pace.plan(setup.workers.broadcast_int(self._pace.next_count(count, seconds)))
        self._logger.advance(int(first + count), float(metrics["loss"][-1]))

    def _begin(self, phase: Phase) -> None:
        """Begins a phase, in the state that the checkpoint of its first step holds."""
        self._setup.begin(phase)
        self._spikes.forget()
        self._clock.expect_compilation()
        self._logger.begin_phase(phase)
        self._phase = phase

    def _validate(self, step: int) -> float | None:
        """Validates; returns the loss of all layers, or None in the pretraining of one."""
        with (
            self._clock.spent_on("validation"),
            self._spikes.nonfinite_as_spike(step - 1),
            self._setup.steps.average.in_use(),
        ):
            losses = self._setup.steps.evaluate(self._setup.dataset.validation.images)
            if not math.isfinite(losses["loss"]):
                raise NonFiniteError(f"the validation loss at step {step} is {losses['loss']}")
            self._logger.log_validation(step, losses)
        if self._phase.layer:
            return None
        self._losses = losses
        self._history.append(losses["loss"])
        self._memory_check.close()
        return losses["loss"]

    def _may_end(self) -> bool:
        setup, stop = self._setup, self._config.stop
        if setup.has_converged():
            return True
        if not stop.patience_validations:
            return False  # without waiting for the other workers
        return setup.workers.any(setup.run is not None and is_exhausted(self._history, stop))

    def _save(self, step: int, validation_loss: float | None) -> None:
        # The step to name if the weights are not finite: the next, or at the end the last.
        next_step = min(step, self._end - 1)
        with self._clock.spent_on("checkpoint"), self._spikes.nonfinite_as_spike(next_step):
            state = resume.finite_state(self._setup.steps, step) | self._spikes.state()
            self._logger.save_checkpoint(step, state, validation_loss)


def _write_config(setup: Setup) -> None:
    run = setup.run
    assert run is not None
    devices = describe_devices(setup.workers.strategy)
    executions = {**run.executions, devices: setup.steps.execution}
    dataclasses.replace(run, executions=executions).write()


def _has_ended(setup: Setup, checkpoint: Checkpoint | None) -> bool:
    """Returns whether an earlier start ended at this checkpoint before the last step."""
    if setup.run is None or checkpoint is None or checkpoint.validation_loss is None:
        return False
    losses = validation_losses(setup.run)
    return setup.has_converged() or is_exhausted(losses, setup.config.stop)
