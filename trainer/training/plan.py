"""Describes a training to its user: the plan at the start, and the end."""

import math
import shutil
from collections.abc import Iterator

import numpy as np

from trainer.data.dataset import Records
from trainer.distribution.devices import describe_devices
from trainer.distribution.gpus import unusable_gpu_note
from trainer.run.checkpoints import Checkpoints
from trainer.training import budget
from trainer.training.setup import Setup, kept_copies
from trainer.training.steps_per_call import cadences

_STEPS_PER_WARMUP_STEP = 20  # of a warm-up that is advised


def describe_end(setup: Setup, step: int) -> str:
    """Says where a run has ended, why if early, and which checkpoint other commands take."""
    ended = f"{'finished' if step == setup.last_step else 'ended early'} at step {step:,}"
    patience = setup.config.stop.patience_validations
    if step < setup.last_step and not setup.has_converged():
        ended += (
            f", after {patience} validations without a lower loss "
            "(config.stop.patience_validations)"
        )
    if setup.run is not None and setup.config.checkpoint == "best":
        best = setup.run.checkpoints.find("best")
        if best is not None:
            ended += (
                f"; best at step {best.step:,}, validation loss {best.validation_loss:.5f}; last"
            )
    return ended


def print_plan(setup: Setup, first_step: int, end: int) -> None:
    """Prints the networks, the data and the steps of a start, or that the run has ended."""
    if first_step == end:
        print("nothing to train: the run has ended", flush=True)
        return
    config, dataset, model, steps = setup.config, setup.dataset, setup.model, setup.steps
    for network in (model.encoder, model.decoder):
        network.summary(line_length=80)
    for note in dataset.notes:
        print(note)
    placed = "on the device" if steps.images_on_device else "on the host"
    if isinstance(dataset.train.images, Records):
        placed = "in their files"
    devices = describe_devices(setup.workers.strategy)
    print(
        f"{model.count_params():,} parameters, a code of {model.code_size} numbers\n"
        f"{config.data.name}: {len(dataset.train):,} {dataset.unit} to train on, "
        f"{len(dataset.validation):,} to validate, {len(dataset.test):,} to test, each "
        f"{'x'.join(map(str, dataset.image_shape))}, {placed}\n"
        f"steps {first_step:,} to {end:,}, {config.batch_size} {dataset.unit} each, "
        f"{config.precision} on {devices}, execution {steps.execution}",
        flush=True,
    )
    for note in filter(None, _notes(setup, first_step, end)):
        print(note, flush=True)


def _notes(setup: Setup, first_step: int, end: int) -> Iterator[str | None]:
    """Yields the phases of pretraining, what the budget chose, and warnings; "" or None: none."""
    config, devices = setup.config, describe_devices(setup.workers.strategy)
    *pretraining, last = setup.phases
    if pretraining:
        ends = ", ".join(f"layer {phase.layer} up to step {phase.end:,}" for phase in pretraining)
        yield f"pretraining: {ends}; then all layers up to step {last.end:,}"
    if config.budget == "auto":
        yield budget.describe(config)
    if config.averaging.is_active:
        yield "validations and other commands take the averaged weights (config.averaging)"
    yield _copying_note(setup)
    yield _capacity_note(setup)
    if devices.startswith("CPU") and not config.strategy.startswith("cpu:"):
        yield unusable_gpu_note()
    if setup.run:
        lack = _lack_of_space(setup.run.checkpoints, *_checkpoints_at_once(setup, end - first_step))
        yield lack
    yield from config.model.notes(last.end - last.first_step)
    yield from _schedule_notes(setup, end)


def _schedule_notes(setup: Setup, end: int) -> Iterator[str]:
    """Warns of a warm-up, or of boundaries, that the steps do not reach."""
    config, last = setup.config, setup.phases[-1]
    boundaries_steps = config.boundaries_steps(len(setup.dataset.train))
    late = [
        boundary
        for boundary, step in zip(config.optimizer.boundaries_epochs, boundaries_steps, strict=True)
        if step >= last.end - last.first_step
    ]
    if late:
        yield (
            f"the {config.num_epochs:g} epochs end before these of optimizer.boundaries_epochs: "
            f"{', '.join(f'{boundary:g}' for boundary in late)}; the learning rate does not change "
            "there"
        )
    warmup_steps = config.optimizer.warmup_steps
    shortest = min([end, *(phase.end - phase.first_step for phase in setup.phases)])
    if shortest <= warmup_steps:
        steps = f"{shortest:,} steps{' in a phase' if len(setup.phases) > 1 else ''}"
        yield (
            f"only {steps}, but optimizer.warmup_steps={warmup_steps}: the learning rate never "
            "reaches its peak; train for longer, or warm up for less, as with "
            f"--config.optimizer.warmup_steps={shortest // _STEPS_PER_WARMUP_STEP}"
        )


def _copying_note(setup: Setup) -> str:
    """Warns of a start at PCA with a code as large as an example; returns "" for other runs."""
    model, numbers = setup.model, math.prod(setup.dataset.image_shape)
    if not model.starts_at_pca or model.code_size < numbers:
        return ""
    return (
        f"model.code_size={model.code_size} is not smaller than the {numbers} values of an "
        "example: the network can copy its input, and errors then show no anomalies; take a "
        "smaller one"
    )


def _capacity_note(setup: Setup) -> str:
    """Warns that a network may overfit, unless the best checkpoint is taken.

    Returns "" where the training data hold as many numbers as the model has parameters to train.
    """
    dataset, model = setup.dataset, setup.model
    numbers = len(dataset.train) * math.prod(dataset.image_shape)
    parameters = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    if parameters <= numbers or setup.config.checkpoint == "best":
        return ""
    return (
        f"{parameters / numbers:.2g} parameters for each of the {numbers:,} numbers to train on: "
        "the last weights may overfit; checkpoint=best takes those of the lowest validation loss"
    )


def _lack_of_space(checkpoints: Checkpoints, checkpoint_bytes: int, count: int) -> str:
    """Returns a line if the disk has too little space for `count` checkpoints at once, else "".

    The checkpoints that are there already count among them.
    """
    folder = checkpoints.folder.parent
    needed_bytes = checkpoint_bytes * max(0, count - checkpoints.count())
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes <= free_bytes:
        return ""
    return (
        f"the disk of {folder} has {free_bytes / 2**20:,.1f} MiB free, but up to {count} "
        f"checkpoints of {checkpoint_bytes / 2**20:,.1f} MiB are kept at once; a smaller "
        "keep_checkpoints or another --workdir avoids a full disk"
    )


def _checkpoints_at_once(setup: Setup, steps: int) -> tuple[int, int]:
    """Returns the bytes of a checkpoint, and how many of them the next steps may leave at once.

    These are the newest, the best, and one that is being written. The bytes are those in the last
    phase, which trains all layers.
    """
    config, model = setup.config, setup.model
    counters = [v for v in setup.steps.optimizer.variables if len(v.shape) == 0]
    variables = [*model.variables, *model.trainable_variables * kept_copies(config), *counters]
    sizes = (math.prod(v.shape) * np.dtype(v.dtype).itemsize for v in variables)
    saves = len(setup.phases) + math.ceil(steps / min([*cadences(config), steps]))
    return sum(sizes), min(config.keep_checkpoints + 2, saves)
