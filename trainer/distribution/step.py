"""Computes training and evaluation steps on one replica or many.

In a training step each replica takes its rows of the batch and computes its share of the gradients
(gradients.py). The shares are summed over the replicas, and each replica updates its weights by the
sum (update.py). So the optimizer gets the global gradient, and clips it and tests it for overflow
alike on every replica.
"""

import dataclasses
import functools
import timeit
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.config import Augment, Averaging
from trainer.distribution import devices, optimizers
from trainer.distribution.averaging import WeightAverage
from trainer.distribution.collectives import all_reduce, pack, sum_over_replicas, unpack
from trainer.distribution.device_cache import DeviceCache
from trainer.distribution.finite import FiniteCheck
from trainer.distribution.gradients import Gradients, ReplicaBatch, Share, trimming_weights
from trainer.distribution.graphs import graph_function
from trainer.distribution.mean_losses import MeanLosses, Rows
from trainer.distribution.slices import Slices
from trainer.distribution.strategy import Strategy
from trainer.distribution.update import Update
from trainer.distribution.variables import assign_values, model_variables, values_of
from trainer.distribution.xla import make_execution
from trainer.errors import require
from trainer.models.learner import Learner

_TIMED_CALLS = 5  # of each execution, since other processes disturb some


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """Holds the settings that all training steps of a run share."""

    precision: str  # the model's; float16 gets dynamic loss scaling
    batch_size: int  # of all replicas together
    seed: int  # of the noise
    last_step: int  # the end of the training, at which `StepContext.progress` is 1
    first_step: int = 0  # at which it is 0
    # A CPU computes the gradient norm every so many steps and in the last one, since the norm reads
    # all gradients from memory once more; in every step if the optimizer needs the norm.
    norm_every_steps: int = 1
    loss_scale_growth_steps: int = 2000  # without an overflow; then the loss scale doubles
    # Of each batch the share of examples of the largest losses is left out of the gradient.
    trim_share: float = 0.0
    augment: Augment = dataclasses.field(default_factory=Augment)  # of training images
    averaging: Averaging = dataclasses.field(default_factory=Averaging)  # of the weights

    def progress(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the share of the training's steps that are done, float32 []."""
        return tf.cast(step - self.first_step, tf.float32) / (self.last_step - self.first_step)


class Steps:
    """Trains and evaluates one model on the replicas of one strategy."""

    def __init__(
        self,
        strategy: Strategy,
        model: Learner,
        create_optimizer: Callable[[], keras.optimizers.Optimizer],
        learning_rate: Callable[[tf.Tensor], tf.Tensor],
        settings: StepSettings,
        *,
        execution: str = "graph",
        worker: int = 0,
    ):
        """Builds the optimizer on the replicas.

        `learning_rate` maps the step, int64 [], to a rate, float32 []. `worker` is the index of
        this worker in the strategy. `set_execution` explains `execution`.

        Raises:
          UserError: the batch cannot be divided among the replicas, or the execution is not known.
        """
        replicas, batch_size = strategy.num_replicas_in_sync, settings.batch_size
        require(
            batch_size > 0 and batch_size % replicas == 0,
            f"batch_size={batch_size} cannot be divided among {replicas} replicas; "
            f"it must be a multiple of {replicas}",
        )
        self._strategy = strategy
        self._create_optimizer = create_optimizer
        self._slices = Slices(strategy, worker)
        self._cache = DeviceCache(strategy)
        self._mode = execution
        self.begin(model, learning_rate, settings)

    def begin(
        self,
        model: Learner,
        learning_rate: Callable[[tf.Tensor], tf.Tensor],
        settings: StepSettings,
    ) -> None:
        """Trains another model of the same batch size from here on, by a new optimizer.

        The arguments are the constructor's; the execution and the images on the devices stay.
        """
        self.optimizer = optimizers.build(
            self._create_optimizer,
            self._strategy,
            model.trainable_variables,
            settings.loss_scale_growth_steps if settings.precision == "float16" else None,
        )
        self.average = WeightAverage(
            settings.averaging, model, self._strategy, settings.last_step, settings.first_step
        )
        self._model = model
        self._learning_rate = learning_rate
        self._settings = settings
        self._mean_losses = MeanLosses(self._slices, model, settings.seed)
        self._metric_names: tuple[str, ...] = ()  # of the columns of `train_function`'s result
        self._share_like: Any = None  # the structure of what a replica packs
        on_gpus = devices.on_gpus(self._strategy)
        needs_norm = on_gpus or optimizers.needs_gradient_norm(self.optimizer)
        self._norm_every_steps = 1 if needs_norm else settings.norm_every_steps
        self._finite = FiniteCheck(
            scales_losses=optimizers.scales_losses(self.optimizer),
            norm_every_step=self._norm_every_steps == 1,
        )
        self.set_execution(self._mode)

    def set_execution(self, mode: str) -> None:
        """Computes the training steps from here on in a mode of `xla.make_execution`.

        Raises:
          UserError: the mode is not known.
        """
        settings, strategy = self._settings, self._strategy
        self._execution = make_execution(mode, strategy, settings.batch_size)
        self._mode = mode
        self._gradients = Gradients(
            self._model,
            settings.batch_size,
            settings.seed,
            settings.progress,
            settings.augment,
            self._execution,
        )
        self._update = Update(
            self._model,
            self.optimizer,
            self._execution,
            self._norm_every_steps,
            settings.last_step,
            self.average,
        )
        # Keras's loss scaling updates all replicas at once, which XLA cannot compile.
        scales_losses = optimizers.scales_losses(self.optimizer)
        self._updates_inside_replicas = self._execution.parts_by_xla and not scales_losses
        self.train_function = graph_function(self._train, jit_compile=self._execution.loop_by_xla)

    @property
    def execution(self) -> str:
        """Returns the mode in which training steps are computed."""
        return self._mode

    def local_rows(self) -> slice:
        """Returns the rows of a global batch that this worker computes."""
        return self._slices.of_worker(self._settings.batch_size)

    def cache_on_device(self, images: np.ndarray) -> bool:
        """Copies the training images to every replica's device; returns whether they fit."""
        return self._cache.fill(images)

    def release_device_cache(self) -> None:
        """Frees the memory of the devices that `cache_on_device` took."""
        self._cache.release()

    @property
    def images_on_device(self) -> bool:
        """Returns whether the training images are on the devices."""
        return self._cache.copies is not None

    def image_devices(self) -> list[str]:
        """Returns the device of each local replica's copy of the training images."""
        return self._cache.devices()

    def train(
        self,
        first_step: int,
        batches: np.ndarray | tf.Tensor,
        count: int | None = None,
        labels: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """Takes `count` steps, or one for each row of `batches`, without the host in between.

        A row is a step's images [B, H, W, C], or their indices [B] among the images that
        `cache_on_device` took; a model that learns labels also takes `labels`, a row [B] for each.
        Each of several workers passes its `local_rows`. Rows beyond the count are not used: calls
        with as many rows share one compilation.

        Returns, each float32 [count]: `loss` and `loss/<term>` (means over the batch),
        `gradient_norm` (global, before clipping; NaN where it was not computed), `skipped_steps`
        (1 where float16 gradients overflowed), `learning_rate` and `loss_scale`. The caller passes
        these metrics of each call to `require_finite`.
        """
        count = len(batches) if count is None else count
        rows = self.train_function(
            tf.constant(first_step, tf.int64),
            tf.constant(count),
            batches,
            self._cache.copies,
            labels,
        ).numpy()[:count]
        return dict(zip(self._metric_names, rows.T, strict=True))

    def nonfinite_steps(self, metrics: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns which steps of a call of `train`, bool [count], are not finite."""
        return self._finite.nonfinite_steps(metrics)

    def require_finite(self, first_step: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Raises NonFiniteError, naming the steps, if steps of a call of `train` are not finite."""
        self._finite.require_finite(first_step, metrics)

    def fastest(self, executions: Sequence[str], batches: np.ndarray | tf.Tensor) -> str:
        """Times training calls of some executions; returns the fastest and restores the state."""
        before = values_of(self.variables())
        seconds = {}
        for execution in executions:
            self.set_execution(execution)
            call = functools.partial(self.train, 0, batches)
            call()  # compiles
            seconds[execution] = min(timeit.repeat(call, number=1, repeat=_TIMED_CALLS))
        assign_values(self.variables(), before)
        return min(seconds, key=lambda execution: seconds[execution])

    def evaluate(self, images: Rows) -> dict[str, float]:
        """Computes the means of `loss` and each `loss/<term>` over images [N, H, W, C].

        The weights are the averaged ones, if the settings ask for an average.
        """
        with self.average.in_use():
            return self._mean_losses(images)

    def variables(self) -> dict[str, keras.Variable]:
        """Returns the variables of a run's state by their paths; the step is not one of them."""
        slots = {f"optimizer/{variable.path}": variable for variable in self.optimizer.variables}
        assert len(slots) == len(self.optimizer.variables), "two slots share a path"
        return model_variables(self._model) | slots | self.average.variables()

    def _train(self, first_step, count, batches, cache, labels):
        def take_step(k, rows):
            step = first_step + tf.cast(k, tf.int64)
            step_labels = None if labels is None else labels[k]
            if self._model.resample_every_steps:
                self._resample_if_due(step, batches[k], cache)
            row = self._step(step, batches[k], cache, step_labels)
            return k + 1, rows.write(k, row)

        rows = tf.TensorArray(tf.float32, batches.shape[0])
        _, rows = tf.while_loop(lambda k, _: k < count, take_step, (tf.constant(0), rows))
        return rows.stack()

    def _step(self, step, batch, cache, labels):
        """Takes a step on all replicas; returns its metrics, alike on each, as one row."""
        run, part = self._strategy.run, self._execution.part
        self.optimizer.learning_rate.assign(part(self._learning_rate)(step))
        total = run(self._sum_of_shares, args=(step, batch, cache, labels))
        if self._updates_inside_replicas:
            # A lambda: Strategy.run would trace a tf.function once, for all logical CPUs together.
            update = lambda total: part(self._update_inside)(total, step)  # noqa: E731
            rows = run(update, args=(total,))
            self.optimizer.iterations.assign_add(1)
            return self._strategy.experimental_local_results(rows)[0]
        row = self._execution.update(self._update_from_outside)(total, step)
        optimizers.limit_loss_scale(self.optimizer)
        return row

    def _sum_of_shares(self, step, batch, cache, labels):
        """Computes this replica's `Share`, and sums the shares of all."""
        part = self._execution.part
        images, start = self._images(batch, cache)
        labels = None if labels is None else self._slices.of_replica(labels)[0]
        shared = part(self._gradients.shared)(images, step, start)
        if shared:
            shared = sum_over_replicas(shared)
        losses = None
        if self._settings.trim_share:
            losses = sum_over_replicas(part(self._losses)(images, labels, step, start, shared))
        share = part(self._share)(images, labels, step, start, shared, losses)
        return all_reduce(share) if self._updates_inside_replicas else sum_over_replicas(share)

    def _images(self, batch, cache):
        """Returns this replica's images of a batch, and their first row in the global batch."""
        images, start = self._slices.of_replica(batch)
        if cache is not None:
            # Compiled separately, so that a step has the same bits without the cache.
            by_words = self._execution.gathers_words
            images = self._execution.part(self._cache.gather)(cache, images, by_words=by_words)
        return images, start

    def _resample_if_due(self, step, batch, cache):
        """Resamples on all replicas before a step that trains the units, but not before step 0.

        So the weights of validations and checkpoints have been trained since, unless float16 has
        skipped the step. At least `resample_every_steps` steps follow, in which the units learn.
        """

        def resample():
            self._strategy.run(self._resample, args=(step, batch, cache))
            return True

        every = self._model.resample_every_steps
        due = (step % every == 0) & (step > 0) & (step <= self._settings.last_step - every)
        tf.cond(due, resample, lambda: False)

    def _resample(self, step, batch, cache):
        """Replaces weights as the model asks before a step, alike on every replica."""
        images, start = self._images(batch, cache)
        values = self._gradients.resampling_values(images, step, start)
        for variable, replaced, value in self._model.resampled(sum_over_replicas(values)):
            variable.assign(tf.where(replaced, value, tf.convert_to_tensor(variable)))
            for slot in optimizers.slots_of(self.optimizer, variable):
                slot.assign(tf.where(replaced, 0.0, tf.convert_to_tensor(slot)))

    def _losses(self, images, labels, step, start, shared):
        """Computes the losses of this replica's rows, at their places in the global batch."""
        batch = ReplicaBatch(images, labels, step, start)
        return self._gradients.losses(batch, shared)

    def _share(self, images, labels, step, start, shared, losses):
        """Computes a replica's `Share`; packed, if replicas update."""
        weights = None
        if losses is not None:
            weights = trimming_weights(losses, self._settings.trim_share)
            weights = weights[start : start + images.shape[0]]
        batch = ReplicaBatch(images, labels, step, start, weights)
        share = self._gradients(batch, shared, optimizers.loss_scale(self.optimizer))
        if not self._updates_inside_replicas:
            return share
        self._share_like = tf.nest.map_structure(lambda one: tf.TensorSpec(one.shape), share)
        return pack(share)

    def _update_from_outside(self, total, step):
        update = lambda *total: self._row(self._update(Share(*total), step))  # noqa: E731
        rows = self._strategy.run(update, args=tuple(total))
        return self._strategy.experimental_local_results(rows)[0]

    def _update_inside(self, packed, step):
        total = unpack(packed, self._share_like)
        return self._row(self._update.of_one_replica(total, step))

    def _row(self, metrics):
        self._metric_names = tuple(metrics)
        return tf.stack(list(metrics.values()))
