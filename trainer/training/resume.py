"""Resumes a run from its newest checkpoint, or begins a new run."""

import numpy as np

from trainer.data.pca import TrainingStatistics
from trainer.distribution.step import Steps
from trainer.distribution.variables import values_of
from trainer.errors import NonFiniteError, require
from trainer.monitoring.tensorboard import SPLITS
from trainer.run import workdir
from trainer.run.checkpoints import Checkpoint
from trainer.training.phases import phase_at
from trainer.training.setup import Setup


def find_checkpoint(setup: Setup) -> Checkpoint | None:
    """Finds the chief's newest whole checkpoint; None on other workers and for a new run.

    Raises:
      UserError: the run has lost its checkpoints, or is already past the last step.
    """
    return setup.workers.run_on_chief(lambda: _find_checkpoint(setup))


def restore(setup: Setup, checkpoint: Checkpoint | None) -> int:
    """Restores the chief's checkpoint on all workers, and returns its step.

    Deletes what the run has written of later steps. Without a checkpoint, initialises the model and
    saves a checkpoint of step 0.

    Raises:
      UserError: the checkpoint does not fit the model.
      StorageError: the workdir cannot be written.
    """
    workers, steps, starts_at_pca = setup.workers, setup.steps, setup.model.starts_at_pca
    is_new = workers.any(workers.is_chief and checkpoint is None)
    step = workers.broadcast_int(checkpoint.step if checkpoint else 0)
    if len(setup.phases) > 1:
        setup.begin(phase_at(setup.phases, step))  # whose optimizer the checkpoint holds
    workers.run_on_chief(lambda: _set_variables(setup, checkpoint))
    workers.broadcast_variables(steps.variables())
    if is_new:
        # At PCA, the first checkpoint may remain the best.
        losses = steps.evaluate(setup.dataset.validation.images) if starts_at_pca else {}
        workers.run_on_chief(lambda: _save_first(setup, losses.get("loss")))
    return step


def finite_state(steps: Steps, step: int) -> dict[str, np.ndarray]:
    """Copies the variables of the run, as checkpoints hold them.

    Raises:
      NonFiniteError: a variable is NaN or infinite.
    """
    state = values_of(steps.variables())
    for path, array in state.items():
        if not np.isfinite(array).all():
            raise NonFiniteError(f"{path} is NaN or infinite at step {step}")
    return state


def _find_checkpoint(setup: Setup) -> Checkpoint | None:
    assert setup.run is not None
    path = setup.run.workdir
    checkpoint = setup.run.checkpoints.find()
    has_begun = any((path / name).exists() for name in (workdir.METRICS_LOG, *SPLITS))
    require(
        checkpoint is not None or not has_begun,
        f"{path} holds a run without its checkpoints; put one back, or take another --workdir",
    )
    step = checkpoint.step if checkpoint else 0
    require(
        step <= setup.last_step,
        f"{path} is at step {step:,} already, but num_epochs ends at step {setup.last_step:,}; "
        f"python -m trainer --workdir={path} resumes the run with its own num_epochs",
    )
    return checkpoint


def _set_variables(setup: Setup, checkpoint: Checkpoint | None) -> None:
    if checkpoint is None:
        setup.model.initialise(TrainingStatistics(setup.dataset.train.images))
        setup.steps.average.restart()
        return
    checkpoint.restore(setup.steps.variables())
    run = setup.run
    assert run is not None
    run.checkpoints.set_aside_after(checkpoint.step)
    run.log.forget_after(checkpoint.step or -1)  # every row, where the run begins again


def _save_first(setup: Setup, validation_loss: float | None) -> None:
    assert setup.run is not None
    state, keep = finite_state(setup.steps, 0), setup.config.keep_checkpoints
    setup.run.checkpoints.save(0, state, validation_loss=validation_loss, keep=keep)
