"""Resumes a run from its newest checkpoint, or begins a new run."""

import numpy as np

from trainer.distribution.step import Steps
from trainer.distribution.variables import values_of
from trainer.errors import NonFiniteError, require
from trainer.monitoring.tensorboard import SPLITS
from trainer.run import workdir
from trainer.run.checkpoints import Checkpoint
from trainer.training.setup import Setup


def find_checkpoint(setup: Setup) -> Checkpoint | None:
    """Finds the chief's newest whole checkpoint; None on other workers and for a new run.

    Raises:
      UserError: the run has lost its checkpoints, or is already past the last step.
    """
    return setup.workers.run_on_chief(lambda: _find_checkpoint(setup))


def restore(setup: Setup, checkpoint: Checkpoint | None) -> int:
    """Restores the chief's checkpoint on all workers, and returns its step.

    Deletes what the run has written of later steps. Without a checkpoint, saves one of step 0.

    Raises:
      UserError: the checkpoint does not fit the model.
      StorageError: the workdir cannot be written.
    """
    workers = setup.workers
    workers.run_on_chief(lambda: _restore(setup, checkpoint))
    workers.broadcast_variables(setup.steps.variables())
    return workers.broadcast_int(checkpoint.step if checkpoint else 0)


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
        f"{path} is at step {step} already, but num_epochs ends at step {setup.last_step}",
    )
    return checkpoint


def _restore(setup: Setup, checkpoint: Checkpoint | None) -> None:
    run = setup.run
    assert run is not None
    if checkpoint is None:
        keep = setup.config.keep_checkpoints
        run.checkpoints.save(0, finite_state(setup.steps, 0), validation_loss=None, keep=keep)
        return
    checkpoint.restore(setup.steps.variables())
    run.checkpoints.set_aside_after(checkpoint.step)
    run.log.forget_after(checkpoint.step)
