"""The training loop, read from top to bottom."""

import contextlib
import functools
import math
import time
from pathlib import Path

import keras
import numpy as np
from ml_collections import ConfigDict

from trainer import data, models, settings
from trainer.data.examples import Records
from trainer.distribution import optimizers, rendezvous
from trainer.distribution.devices import check_devices, describe_devices, within_memory
from trainer.distribution.gpus import unusable_gpu_note
from trainer.distribution.step import Steps
from trainer.distribution.strategy import Strategy, build_model, enable_determinism, make_strategy
from trainer.distribution.variables import values_of
from trainer.distribution.watchdog import Watchdog
from trainer.distribution.workers import Workers, watched
from trainer.distribution.xla import EXECUTIONS, candidate_executions
from trainer.errors import NonFiniteError, Preempted, require, require_at_least, require_choice
from trainer.monitoring.goodput import Clock
from trainer.monitoring.profiler import Profile
from trainer.monitoring.tensorboard import SPLITS
from trainer.run import checkpoints, workdir
from trainer.storage import paths
from trainer.training.logger import Logger, NullLogger, words
from trainer.training.loss_spikes import Spike, Spikes, check_spikes
from trainer.training.signals import Stop
from trainer.training.steps_per_call import Pace, cadences, due, step_ranges

_NUMBER_BYTES = 4  # an example's number is an int32
_LARGEST_SEED = 2**32 - 1  # that NumPy takes
_MOST_POSITIONS = 2**62  # which are int64
_MEASURED_IMAGES = 2048  # that each execution trains on when they are measured


def train(
    config: ConfigDict,
    folder: str,
    vectors: np.ndarray | None = None,
    began_seconds: float | None = None,
) -> dict[str, float]:
    """Trains the config's autoencoder in a workdir, from its newest checkpoint if it has one.

    The data are those that the config names or, of data.name='memory', the `vectors` [N, D]. The
    start-up counts from `began_seconds` of the monotonic clock, or from now.

    Returns the validation losses at the step where it ends: the last, or the validation at which
    the model has settled.

    Raises:
      UserError: the config, the data or the workdir cannot serve.
      NonFiniteError: the numbers ran away; the last checkpoint is intact.
      Preempted: SIGTERM or SIGINT came, to this worker or another; a checkpoint is written.
      WorkersError: another worker has not come, or is gone.
      StorageError: the workdir cannot be written any more; the last checkpoint is intact.
    """
    clock = Clock(began_seconds)
    with contextlib.ExitStack() as scope:
        stop = scope.enter_context(contextlib.closing(Stop()))
        stop.arm()

        # A device that is too small shows itself by the first validation; later, others filled it.
        fitting = scope.enter_context(contextlib.ExitStack())
        fitting.enter_context(within_memory())

        # 1. What needs no TensorFlow; then, before its first operation, the workers' devices.
        run = paths.path_of(folder)
        _check(config)
        others = rendezvous.from_environment()
        scope.enter_context(watched(others))
        workers = _make_workers(config, others, stop)
        scope.enter_context(contextlib.closing(Watchdog(others)))
        # The chief of an earlier start may be dead and its lock not yet given up by a file server.
        patience_seconds = config.startup_timeout_seconds if others else 0
        lock = workdir.locked(run, patience_seconds)
        workers.run_on_chief(lambda: scope.enter_context(lock))

        # 2. The data, which fix the shape of the images and the number of steps.
        dataset = workers.run_everywhere(lambda: data.load(**config.data, vectors=vectors))
        fingerprint = dataset.fingerprint()
        workers.require_alike(f"the data of data.name={config.data.name!r}", fingerprint)
        last_step = math.ceil(config.num_epochs * len(dataset.train) / config.batch_size)
        require(
            last_step * config.batch_size <= _MOST_POSITIONS,
            f"num_epochs={config.num_epochs} is not allowed; of these data and batch_size="
            f"{config.batch_size} it makes {last_step:,} steps, more than can be counted",
        )
        require(
            max(Profile(config.profile, run).borders, default=0) <= last_step,
            f"profile={config.profile!r} is not allowed; the run ends at step {last_step}",
        )

        # 3. Model and optimizer, built on the replicas. The seed is set here, since a download too
        # draws from Python's random numbers, whence Keras takes its own.
        keras.utils.set_random_seed(config.seed)
        model = build_model(
            workers.strategy,
            config.precision,
            lambda: models.create(dataset.image_shape, **config.model),
        )
        model.check_data(*_range(dataset), binarised=config.data.binarise)
        steps = make_steps(config, workers, model, last_step)

        # 4. The workdir: another run's is refused, this run's goes on. The chief's state is all's.
        checkpoint = workers.run_on_chief(lambda: _find_run(run, config, fingerprint, last_step))
        _place(config, workers, steps, dataset)
        devices = describe_devices(workers.strategy)
        executions = workdir.executions(run) if workers.is_chief else {}
        execution = _agreed_execution(config, workers, model, steps, dataset, executions)
        steps.set_execution(execution)
        executions[devices] = execution

        about = (config, fingerprint, executions, dataset.inputs())
        workers.run_on_chief(lambda: workdir.write(run, *about))
        spikes = Spikes(config, run, workers)
        first_step = _resume(config, run, workers, steps, spikes, checkpoint)
        if checkpoint and not config.quiet:
            print(f"resuming from {checkpoint.path}")
        end = first_step if workers.any(_ended(checkpoint, model)) else last_step

        # 5. The walk to the end of the loop; after each loss spike anew, from a checkpoint before.
        if workers.is_chief:
            clock.resume(run)
            if not config.quiet:
                _print_plan(config, model, dataset, steps, devices, first_step, end)
        try:
            while True:
                try:
                    step, losses = _loop(
                        *(config, run, workers, steps, model, dataset, spikes, first_step, end),
                        *(stop, clock, fitting),
                    )
                    break
                except Spike as spike:
                    clock.go_back()
                    with clock.spent_on("checkpoint"):
                        back = functools.partial(spikes.roll_back, spike)
                        checkpoint = workers.run_on_chief(back)
                        first_step = _resume(config, run, workers, steps, spikes, checkpoint)
            workers.wait()  # none is finished before the chief has written everything
        except Preempted:
            workers.wait()  # nor has any left before it has
            raise
        except NonFiniteError as error:
            workers.wait()
            if not workers.is_chief:
                raise
            kept = checkpoints.find(run / workdir.CHECKPOINTS, run_id=workdir.run_id(run))
            raise NonFiniteError(
                f"{error}; the last good checkpoint is {kept and kept.path}"
            ) from error
    if workers.is_chief and not config.quiet:
        print(f"{'finished' if step == last_step else 'settled'} at step {step:,}: {words(losses)}")
        print(clock)
    return losses


def _loop(
    config: ConfigDict,
    run: Path,
    workers: Workers,
    steps: Steps,
    model: models.Autoencoder,
    dataset: data.Dataset,
    spikes: Spikes,
    first_step: int,
    last_step: int,
    stop: Stop,
    clock: Clock,
    fitting: contextlib.ExitStack,
) -> tuple[int, dict[str, float]]:
    """Trains, logs, validates and checkpoints, to the last step or until the model has settled.

    Closes `fitting` once it has trained and validated.

    Returns the step, and the validation losses there.

    Raises:
      Spike: the loss has run away, and the run can go back.
      Preempted: it was asked to stop, and has.
      NonFiniteError: the numbers ran away.
    """
    profile = Profile(config.profile, run / "train")
    images = dataset.train.images
    image_bytes = math.prod(images.shape[1:]) * images.dtype.itemsize
    drawn_bytes = _NUMBER_BYTES if steps.images_on_device else image_bytes
    longest = min([last_step, *cadences(config)])
    pace = Pace(config.steps_per_call, config.batch_size * drawn_bytes, longest)
    batches = data.batches(
        images,
        step_ranges(first_step, last_step, config, pace, profile.borders + spikes.borders),
        pace.most_steps,
        config.batch_size,
        config.seed,
        numbers=steps.images_on_device,
        own=steps.local_rows(),
    )
    losses: dict[str, float] = {}

    with contextlib.ExitStack() as scope:
        record: Logger | NullLogger = NullLogger()
        if workers.is_chief:
            record = Logger(config, run, model, dataset, first_step, last_step, clock, spikes)
            scope.enter_context(contextlib.closing(profile))
        scope.enter_context(record)
        for first, count, drawn in clock.waits_for(batches.as_numpy_iterator()):
            step = int(first + count)
            if workers.is_chief:
                profile.at(first)
            if spikes.skips(first):
                pace.plan(int(count))
                record.steps(first, {}, count, 0.0)
            else:
                began = time.monotonic()
                with clock.spent_on_steps(first, count):
                    metrics = steps.train(first, drawn, count)
                seconds = time.monotonic() - began
                nonfinite = steps.nonfinite_steps(metrics)
                spikes.watch(first, metrics["loss"], nonfinite)
                good = int(np.argmax(nonfinite)) if nonfinite.any() else count
                record.steps(first, metrics, good, seconds * good / count)
                steps.require_finite(first, metrics)
                pace.plan(workers.broadcast_int(pace.next_count(count, seconds)))
                record.advance(step, float(metrics["loss"][-1]))
            stopping = workers.any(stop.requested)  # once: a signal may come at any moment

            validated = due(step, config.validate_every_steps, last_step)
            if validated:
                with clock.spent_on("validation"), spikes.non_finite_as_spike(step - 1):
                    losses = steps.evaluate(dataset.validation.images)
                    if not math.isfinite(losses["loss"]):
                        raise NonFiniteError(
                            f"the validation loss at step {step} is {losses['loss']}"
                        )
                    record.validation(step, losses)
                fitting.close()

            if validated or stopping or due(step, config.checkpoint_every_steps, last_step):
                loss = losses["loss"] if validated else None
                spike = min(step, last_step - 1)  # the step that would use the weights
                with clock.spent_on("checkpoint"), spikes.non_finite_as_spike(spike):
                    state = finite_state(steps, step) | spikes.state()
                    record.checkpoint(step, state, loss, spikes.needed_step(step))
            if validated and model.has_converged():
                return step, losses
            if stopping and step < last_step:
                raise Preempted(f"stopped at step {step:,} with a checkpoint; start again to go on")
    return last_step, losses or steps.evaluate(dataset.validation.images)


def _make_workers(config: ConfigDict, others: rendezvous.Cluster | None, stop: Stop) -> Workers:
    """The workers of the cluster, once all have come, or this one alone; their devices."""
    count = len(others.addresses) if others else 1
    devices = check_devices(config.strategy, count)
    if others:
        facts = {key: repr(value) for key, value in workdir.flat(config.to_dict()).items()}
        facts |= workdir.installed_versions()
        facts |= {"the trainer's code": workdir.code_digest(), "what each has": str(devices)}
        rendezvous.rendezvous(others, facts, config.startup_timeout_seconds, lambda: stop.requested)
    if config.deterministic:
        enable_determinism()
    with rendezvous.kill_if_startup_hangs(others, config.startup_timeout_seconds):
        strategy = make_strategy(config.strategy, count)
    stop.arm()  # the strategy of several workers takes SIGTERM away
    return Workers(strategy, others)


def _check(config: ConfigDict) -> None:
    settings.check(config)
    require(
        config.num_epochs > 0,
        f"num_epochs={config.num_epochs} is not allowed; it must be above 0",
    )
    require(
        0 <= config.seed <= _LARGEST_SEED,
        f"seed={config.seed} is not allowed; it must be from 0 to {_LARGEST_SEED}",
    )
    for key in ("batch_size", "log_every_steps", "keep_checkpoints"):
        require_at_least(key, config[key], 1)
    for key in ("steps_per_call", "validate_every_steps", "checkpoint_every_steps"):
        require_at_least(key, config[key], 0)
    require(
        config.startup_timeout_seconds > 0,
        f"startup_timeout_seconds={config.startup_timeout_seconds} is not allowed; "
        "it must be above 0",
    )
    require_choice("execution", config.execution, ("auto", "measure", *EXECUTIONS))
    check_spikes(config.spikes)
    Profile(config.profile, Path())


def _range(dataset: data.Dataset) -> tuple[float, float]:
    """The least and the largest number of the data: a user's vectors may have any."""
    if len(dataset.image_shape) > 1:
        return 0.0, 1.0
    parts = (dataset.train, dataset.validation, dataset.test)
    arrays = [part.images for part in parts if isinstance(part.images, np.ndarray)]
    rows = [array for array in arrays if len(array)]
    return min(row.min() for row in rows), max(row.max() for row in rows)


def make_steps(
    config: ConfigDict,
    workers: Workers,
    model: models.Autoencoder,
    last_step: int,
) -> Steps:
    """The training steps that a config asks for."""
    chosen = config.optimizer
    return Steps(
        workers.strategy,
        model,
        lambda: optimizers.create(
            chosen.name, clip_norm=chosen.clip_norm, weight_decay=chosen.weight_decay
        ),
        optimizers.learning_rate_schedule(
            chosen.schedule,
            learning_rate=chosen.learning_rate,
            warmup_steps=chosen.warmup_steps,
            last_step=last_step,
        ),
        precision=config.precision,
        batch_size=config.batch_size,
        seed=config.seed,
        last_step=last_step,
        worker=workers.index,
        norm_every_steps=1 if config.spikes.loss_ratio else config.log_every_steps,
    )


def _place(config: ConfigDict, workers: Workers, steps: Steps, dataset: data.Dataset) -> None:
    """Puts the training images on the devices, where they are to lie there and fit on all."""
    images = dataset.train.images
    if config.data.placement in ("host", "records") or not isinstance(images, np.ndarray):
        return
    if not workers.any(not steps.cache_on_device(images)):
        return
    steps.release_device_cache()
    require(
        config.data.placement == "auto",
        f"data.placement='device': the {images.nbytes / 2**30:.1f} GiB of images do not fit there; "
        "data.placement=auto takes what fits",
    )


def _agreed_execution(
    config: ConfigDict,
    workers: Workers,
    model: models.Autoencoder,
    steps: Steps,
    dataset: data.Dataset,
    known: dict[str, str],
) -> str:
    """How all workers compute the steps: as the chief knows of these devices, or chooses."""
    names = EXECUTIONS
    before = known.get(describe_devices(workers.strategy))
    workers.run_everywhere(
        lambda: require_choice(f"execution in {workdir.CONFIG}", before, (None, *names))
    )
    number = workers.broadcast_int(-1 if before is None else names.index(before))
    if number < 0:
        chosen = _choose_execution(config, workers.strategy, model, steps, dataset)
        number = workers.broadcast_int(names.index(chosen))
    return names[number]


def _choose_execution(
    config: ConfigDict,
    strategy: Strategy,
    model: models.Autoencoder,
    steps: Steps,
    dataset: data.Dataset,
) -> str:
    """How the steps are computed on these devices from now on."""
    candidates = candidate_executions(strategy, model, config.batch_size)
    if config.execution == "auto":
        return candidates[0]
    if config.execution != "measure":
        return config.execution
    count = max(1, _MEASURED_IMAGES // config.batch_size)
    batches = data.batches(
        dataset.train.images,
        [(0, count)],
        count,
        config.batch_size,
        config.seed,
        numbers=steps.images_on_device,
        own=steps.local_rows(),
    )
    return steps.fastest(candidates, next(batches.as_numpy_iterator())[2])


def _find_run(
    run: Path, config: ConfigDict, fingerprint: str, last_step: int
) -> checkpoints.Checkpoint | None:
    """The checkpoint to go on from; a run that is new has none, since each begins with one."""
    workdir.check(run, config, fingerprint)
    checkpoint = checkpoints.find(run / workdir.CHECKPOINTS, run_id=workdir.run_id(run))
    begun = any((run / name).exists() for name in (workdir.METRICS_LOG, *SPLITS))
    require(
        checkpoint is not None or not begun,
        f"{run} holds a run without its checkpoints; put one back, or take another --workdir",
    )
    step = checkpoint.step if checkpoint else 0
    require(
        step <= last_step,
        f"{run} is at step {step} already, but num_epochs ends at step {last_step}",
    )
    return checkpoint


def _ended(checkpoint: checkpoints.Checkpoint | None, model: models.Autoencoder) -> bool:
    """Whether a run that goes on from there had ended there, before its last step."""
    validated = checkpoint is not None and checkpoint.validation_loss is not None
    return validated and model.has_converged()


def _resume(
    config: ConfigDict,
    run: Path,
    workers: Workers,
    steps: Steps,
    spikes: Spikes,
    checkpoint: checkpoints.Checkpoint | None,
) -> int:
    """Has all workers go on from the chief's checkpoint, if it has one; returns its step."""
    workers.run_on_chief(lambda: _begin(run, steps, checkpoint, config.keep_checkpoints))
    workers.broadcast_variables(steps.variables())
    spikes.resume(checkpoint)
    return workers.broadcast_int(checkpoint.step if checkpoint else 0)


def _begin(run: Path, steps: Steps, checkpoint: checkpoints.Checkpoint | None, keep: int) -> None:
    """Takes up a checkpoint's state and forgets what was written of later steps; or writes one."""
    run_id = workdir.run_id(run)
    if checkpoint is None:
        state = finite_state(steps, 0)
        folder = run / workdir.CHECKPOINTS
        checkpoints.save(folder, 0, state, validation_loss=None, keep=keep, run_id=run_id)
        return
    checkpoints.restore(checkpoint, steps.variables())
    checkpoints.set_aside_after(checkpoint.path.parent, checkpoint.step, run_id=run_id)
    workdir.forget_metrics_after(run, checkpoint.step)


def finite_state(steps: Steps, step: int) -> dict[str, np.ndarray]:
    """A copy of a run's state, as checkpoints keep it.

    Raises:
      NonFiniteError: a variable is NaN or infinite.
    """
    state = values_of(steps.variables())
    broken = [path for path, array in state.items() if not np.isfinite(array).all()]
    if broken:
        raise NonFiniteError(f"{broken[0]} is NaN or infinite at step {step}")
    return state


def _print_plan(
    config, model, dataset, steps, devices: str, first_step: int, last_step: int
) -> None:
    for network in (model.encoder, model.decoder):
        network.summary(line_length=80)
    placed = "on the device" if steps.images_on_device else "on the host"
    if isinstance(dataset.train.images, Records):
        placed = "in their files"
    examples = "images" if len(dataset.image_shape) > 1 else "vectors"
    print(
        f"{model.count_params():,} parameters, a code of {model.code_size} numbers\n"
        f"{config.data.name}: {len(dataset.train):,} {examples} to train on, "
        f"{len(dataset.validation):,} to validate, {len(dataset.test):,} to test, each "
        f"{'x'.join(map(str, dataset.image_shape))}, {placed}\n"
        f"steps {first_step:,} to {last_step:,} of {config.batch_size} images in "
        f"{config.precision} on {devices}, execution {steps.execution}",
        flush=True,
    )
    if devices.startswith("CPU") and not config.strategy.startswith("cpu:"):
        note = unusable_gpu_note()
        if note:
            print(note, flush=True)
    warmup_steps = config.optimizer.warmup_steps
    if 0 < last_step <= warmup_steps:
        print(
            f"only {last_step:,} steps, but optimizer.warmup_steps={warmup_steps}: the learning "
            "rate never reaches its height; train for longer, or warm up for less",
            flush=True,
        )
