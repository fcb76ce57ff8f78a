"""Sets up what one start of a run works with, in the order that TensorFlow needs."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from trainer import data
from trainer.config import EXECUTIONS, Averaging, Config, flat
from trainer.data.batches import training_batches
from trainer.data.memory import blocks
from trainer.distribution import optimizers
from trainer.distribution.cluster import Cluster, from_tf_config
from trainer.distribution.devices import check_devices, describe_devices
from trainer.distribution.rendezvous import rendezvous
from trainer.distribution.step import Steps, StepSettings
from trainer.distribution.strategy import build_autoencoder, enable_determinism, make_strategy
from trainer.distribution.watchdog import Watchdog, kill_if_startup_hangs
from trainer.distribution.workers import Workers, lost_workers_as_errors
from trainer.distribution.xla import candidate_executions
from trainer.errors import require, require_choice
from trainer.models.base import Autoencoder
from trainer.run import workdir
from trainer.run.workdir import Run
from trainer.storage import paths
from trainer.training import budget
from trainer.training.phases import Phase, phases_of
from trainer.training.signals import StopRequest

_MAX_POSITION = 2**62  # positions are int64
_MEASURED_IMAGES = 2048  # to train on when executions are timed


@dataclasses.dataclass(frozen=True)
class Setup:
    """Holds what one start of a run works with."""

    config: Config
    workdir: Path
    run: Run | None  # on the chief; None on other workers
    workers: Workers
    dataset: data.Dataset
    model: Autoencoder
    steps: Steps
    phases: tuple[Phase, ...]
    stop: StopRequest

    @property
    def last_step(self) -> int:
        """Returns the number of steps of the run."""
        return self.phases[-1].end

    def begin(self, phase: Phase) -> None:
        """Has the steps train the layers of a phase, by a new optimizer."""
        boundaries_steps = self.config.boundaries_steps(len(self.dataset.train))
        schedule = _schedule(self.config, phase, boundaries_steps)
        settings = _step_settings(self.config, phase)
        self.steps.begin(phase.learner(self.model), schedule, settings)

    def has_converged(self) -> bool:
        """Returns whether the model has converged, with the weights that commands will take."""
        with self.steps.average.in_use():
            return self.model.has_converged()


@contextlib.contextmanager
def set_up(config: Config, folder: str, vectors: np.ndarray | None = None) -> Iterator[Setup]:
    """Sets up a start of the run in a workdir; writes nothing but the workdir's lock.

    Raises:
      UserError: the config, the data or the workdir cannot be used.
      Preempted: a signal came while this worker waited for others.
      WorkersError: another worker has not started.
    """
    path = paths.path_of(folder)
    with contextlib.ExitStack() as scope:
        # Set up the workers and their devices before TensorFlow's first operation.
        stop = scope.enter_context(contextlib.closing(StopRequest()))
        stop.arm()
        cluster = from_tf_config()
        scope.enter_context(lost_workers_as_errors(cluster))
        workers = _make_workers(config, cluster, stop)
        scope.enter_context(contextlib.closing(Watchdog(cluster)))
        # A dead chief's lock may not yet be released by a file server.
        patience_seconds = config.startup_timeout_seconds if cluster else 0
        lock = workdir.locked(path, patience_seconds)
        workers.run_on_chief(lambda: scope.enter_context(lock))

        # Read the data, which fix the shape of the model's inputs and the number of steps.
        earlier = workdir.read_if_any(path)
        settings = earlier.locate(config.data) if earlier else config.data
        dataset = workers.run_everywhere(lambda: data.load(settings, vectors=vectors))
        fingerprint = dataset.fingerprint()
        workers.require_equal_on_all(f"the data of data.name={config.data.name!r}", fingerprint)
        config.augment.check_images(dataset.image_shape)
        config = budget.resolved(config, len(dataset.train), earlier.config if earlier else None)
        phases = _phases(config, len(dataset.train))

        # Seeded after a download, which uses the generator that gives Keras its seeds.
        keras.utils.set_random_seed(config.seed)
        model = build_autoencoder(
            workers.strategy,
            config.precision,
            dataset.image_shape,
            config.model,
            numbers_each=2 + kept_copies(config),
        )
        model.check_data(*_range(dataset))
        boundaries_steps = config.boundaries_steps(len(dataset.train))
        steps = make_steps(config, workers, model, phases[-1].end, boundaries_steps)
        run = workers.run_on_chief(
            lambda: workdir.open_run(path, config, fingerprint, dataset.inputs())
        )
        yield Setup(config, path, run, workers, dataset, model, steps, phases, stop)


def kept_copies(config: Config) -> int:
    """Returns how many numbers the optimizer and the average keep for each trained parameter."""
    return optimizers.count_slots(config.optimizer) + config.averaging.is_active


def make_steps(
    config: Config,
    workers: Workers,
    model: Autoencoder,
    last_step: int,
    boundaries_steps: Sequence[int] = (),
) -> Steps:
    """Makes the training steps that a config asks for, of all layers."""
    phase = Phase(0, last_step)
    return Steps(
        workers.strategy,
        model,
        lambda: optimizers.create(config.optimizer),
        _schedule(config, phase, boundaries_steps),
        _step_settings(config, phase),
        worker=workers.index,
    )


def _schedule(
    config: Config, phase: Phase, boundaries_steps: Sequence[int]
) -> Callable[[tf.Tensor], tf.Tensor]:
    optimizer, rate = config.optimizer, config.pretrain.learning_rate if phase.layer else 0.0
    schedule = optimizers.learning_rate_schedule(
        optimizer.schedule,
        learning_rate=rate or optimizer.learning_rate,
        warmup_steps=optimizer.warmup_steps,
        last_step=phase.end - phase.first_step,
        final_share=optimizer.final_share,
        boundaries=list(zip(boundaries_steps, optimizer.boundary_factors, strict=True)),
    )
    return lambda step: schedule(step - phase.first_step)


def _step_settings(config: Config, phase: Phase) -> StepSettings:
    return StepSettings(
        precision=config.precision,
        batch_size=config.batch_size,
        seed=config.seed,
        first_step=phase.first_step,
        last_step=phase.end,
        norm_every_steps=1 if config.spikes.loss_ratio else config.log_every_steps,
        trim_share=config.trim_share,
        augment=config.augment,
        averaging=Averaging() if phase.layer else config.averaging,
    )


def cache_images(setup: Setup) -> None:
    """Copies the training images to the devices if the config asks for it and they fit on all.

    Raises:
      UserError: `data.placement` is "device", and the images do not fit.
    """
    images, steps = setup.dataset.train.images, setup.steps
    placement = setup.config.data.placement
    if placement in ("host", "records") or not isinstance(images, np.ndarray):
        return
    if not setup.workers.any(not steps.cache_on_device(images)):
        return
    steps.release_device_cache()
    require(
        placement == "auto",
        f"data.placement='device' is not allowed: {images.nbytes / 2**30:.1f} GiB of images do not "
        "fit on the device; data.placement=auto uses the host instead",
    )


def agree_on_execution(setup: Setup) -> str:
    """Returns one execution for all workers: the run's on these devices, or the chief's choice."""
    workers = setup.workers
    devices = describe_devices(workers.strategy)
    known = setup.run.executions.get(devices) if setup.run else None
    workers.run_everywhere(
        lambda: require_choice(f"execution in {workdir.CONFIG}", known, (None, *EXECUTIONS))
    )
    number = workers.broadcast_int(-1 if known is None else EXECUTIONS.index(known))
    if number < 0:
        number = workers.broadcast_int(EXECUTIONS.index(_choose_execution(setup)))
    return EXECUTIONS[number]


def _choose_execution(setup: Setup) -> str:
    config, steps = setup.config, setup.steps
    candidates = candidate_executions(setup.workers.strategy, setup.model, config.batch_size)
    if config.execution == "auto":
        return candidates[0]
    if config.execution != "measure":
        return config.execution
    count = max(1, _MEASURED_IMAGES // config.batch_size)
    batches = training_batches(
        setup.dataset.train.images,
        [(0, count)],
        count,
        config.batch_size,
        config.seed,
        as_indices=steps.images_on_device,
        local_rows=steps.local_rows(),
    )
    return steps.fastest(candidates, next(batches.as_numpy_iterator())[2])


def _make_workers(config: Config, cluster: Cluster | None, stop: StopRequest) -> Workers:
    """Waits for the other workers of a cluster; makes the strategy on the devices of all."""
    count = len(cluster.addresses) if cluster else 1
    devices = check_devices(config.strategy, count)
    if cluster:
        facts = {key: repr(value) for key, value in flat(config.to_dict()).items()}
        facts |= workdir.installed_versions()
        facts |= {"the trainer's code": workdir.code_digest(), "the set of devices": str(devices)}
        rendezvous(cluster, facts, config.startup_timeout_seconds, lambda: stop.requested)
        cluster.connect_without_proxy()
    if config.deterministic:
        enable_determinism()
    with kill_if_startup_hangs(cluster, config.startup_timeout_seconds):
        strategy = make_strategy(config.strategy, count)
    stop.arm()  # the strategy of several workers has replaced the handler of SIGTERM
    return Workers(strategy, cluster)


def _phases(config: Config, examples: int) -> tuple[Phase, ...]:
    phases = phases_of(config, examples)
    last_step, epochs_per_layer = phases[-1].end, config.pretrain.epochs_per_layer
    require(
        last_step * config.batch_size <= _MAX_POSITION,
        f"num_epochs={config.num_epochs}"
        + (f" after pretrain.epochs_per_layer={epochs_per_layer}" if epochs_per_layer else "")
        + " is not allowed; with these data and batch_size="
        f"{config.batch_size} it makes {last_step:,} steps, more than can be counted",
    )
    require(
        max(config.profile_steps, default=0) <= last_step,
        f"profile={config.profile!r} is not allowed; the run ends at step {last_step}",
    )
    return phases


def _range(dataset: data.Dataset) -> tuple[float, float]:
    """Returns the least and the largest number of the data."""
    if len(dataset.image_shape) > 1:
        return 0.0, 1.0
    splits = (dataset.train, dataset.validation, dataset.test)
    ranges = [(rows.min(), rows.max()) for split in splits for rows in blocks(split.images)]
    return min(low for low, _ in ranges), max(high for _, high in ranges)
