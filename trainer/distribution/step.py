"""Training and evaluation steps on one replica or many.

A loss term is per example, [B]; here alone it is reduced: summed over a replica's slice, divided by
the global batch, summed over the replicas together with the gradients. What the optimizer gets is
the global gradient already, so that its clipping and its test for overflow come out alike on every
replica.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from trainer.distribution.collectives import sum_over_replicas
from trainer.distribution.inference import EVALUATION_BATCH_SIZE
from trainer.distribution.strategy import Strategy
from trainer.distribution.update import build_optimizer
from trainer.distribution.variables import model_variables, values_of
from trainer.distribution.xla import EXECUTIONS, cuts, norm_for_xla, one_after_the_other
from trainer.errors import NonFiniteError, require, require_choice
from trainer.models import Moment
from trainer.models.convolutions import as_matrix_products
from trainer.positions import Noise


class Rows(Protocol):
    """An array [N, ...], or what is read from files when it is indexed."""

    def __len__(self) -> int: ...

    def __getitem__(self, chosen: slice, /) -> np.ndarray: ...


class Learner(Protocol):
    """What steps ask of a Keras model beside its variables, as `Autoencoder` describes it."""

    variables: Any
    trainable_variables: Any

    def loss_terms(self, images: tf.Tensor, moment: Moment, /) -> dict[str, tf.Tensor]: ...

    def statistics(self, images: tf.Tensor, /) -> tf.Tensor | None: ...


_SMALL_BATCH = 128  # whose arithmetic does not outweigh a copy of the weights
_TIMED_CALLS = 5  # of each execution; the neighbours disturb some
_ALIGNMENT = 64  # bytes, that TensorFlow asks of memory it shares
_MOST_SKIPPED_STEPS = 40  # halves a float16 loss scale of 2**15 to 2**-25


class Steps:
    """Training and evaluation steps of one model on the replicas of one strategy."""

    def __init__(
        self,
        strategy: Strategy,
        model: Learner,
        create_optimizer: Callable[[], keras.optimizers.Optimizer],
        learning_rate: Callable[[tf.Tensor], tf.Tensor],
        *,
        precision: str,
        batch_size: int,
        seed: int,
        last_step: int,
        execution: str = "graph",
        worker: int = 0,
        loss_scale_growth_steps: int = 2000,
    ):
        """Takes the model's precision (float16 gets dynamic loss scaling) and the global batch.

        `worker` is the number of this one among those of the strategy.
        `last_step` is where the training ends, by which the kinds measure their progress.
        `execution` says how a training step is computed, to the same result up to rounding:
        "graph" by TensorFlow's own kernels; "xla_update" likewise, but the optimizer's update
        compiled where there is one replica; "xla" compiled; "xla_products" compiled, with each
        convolution as matrix products and a large batch cut, so that its maps stay in the caches.

        Raises:
          UserError: the batch cannot be divided among the replicas, or the execution is not known.
        """
        replicas = strategy.num_replicas_in_sync
        require(
            batch_size > 0 and batch_size % replicas == 0,
            f"batch_size={batch_size} cannot be divided among {replicas} replicas; "
            f"it must be a multiple of {replicas}",
        )
        self.optimizer = build_optimizer(
            strategy,
            model,
            create_optimizer,
            loss_scale_growth_steps if precision == "float16" else None,
        )
        self._strategy = strategy
        self._local_replicas = len(strategy.extended.worker_devices)
        self._worker = worker
        self._model = model
        self._learning_rate = learning_rate
        self._batch_size = batch_size
        self._seed = seed
        self._last_step = last_step
        self._skipped_steps = 0
        self._metric_names: tuple[str, ...] = ()
        self._device_cache: Any = None
        self._evaluate_compiled = tf.function(self._evaluate_batch)
        self._statistics_compiled = tf.function(self._statistics_of_batch)
        self.set_execution(execution)

    def set_execution(self, execution: str) -> None:
        """Computes the training steps from here on in another way."""
        require_choice("execution", execution, EXECUTIONS)
        self.execution = execution
        self._as_products = execution == "xla_products"
        # XLA takes the loop of a single replica whole, but cannot compile an all-reduce.
        alone = self._strategy.num_replicas_in_sync == 1
        xla = execution in ("xla", "xla_products")
        self._update_is_compiled = alone and execution != "graph"
        self._copies_matter = alone and execution == "xla" and self._batch_size <= _SMALL_BATCH
        self._train_compiled = tf.function(self._train, jit_compile=xla and alone)
        self._gradients_compiled = _compiled(self._gradients, xla and not alone)
        self._update_compiled = _compiled(self._update, self._update_is_compiled and not xla)

    def cache_on_device(self, images: np.ndarray) -> bool:
        """Copies the training images to every replica's device, or says that they do not fit.

        On the CPU they are shared, not copied, where they begin at a multiple of 64 bytes.
        """
        if images.ctypes.data % _ALIGNMENT == 0 and images.flags.writeable:
            tensor = tf.experimental.dlpack.from_dlpack(images.__dlpack__())
        else:
            with tf.device("CPU:0"):
                tensor = tf.constant(images)
        try:
            self._device_cache = self._strategy.experimental_distribute_values_from_function(
                lambda _: tf.identity(tensor)
            )
        except tf.errors.ResourceExhaustedError:
            return False
        return True

    def local_rows(self, batch_size: int | None = None) -> slice:
        """The rows of a global batch, by default one of training, that this worker computes."""
        size = (batch_size or self._batch_size) // self._strategy.num_replicas_in_sync
        rows = size * self._local_replicas
        return slice(self._worker * rows, (self._worker + 1) * rows)

    def release_device_cache(self) -> None:
        """Gives the devices' memory back that `cache_on_device` took."""
        self._device_cache = None

    @property
    def images_on_device(self) -> bool:
        """Whether the training images lie on the devices."""
        return self._device_cache is not None

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
        `gradient_norm` (global, before clipping), `learning_rate` and `loss_scale`.
        `require_finite` is to be asked of them.
        """
        count = len(batches) if count is None else count
        rows = self._train_compiled(
            tf.constant(first_step, tf.int64),
            tf.constant(count),
            batches,
            self._device_cache,
            labels,
        ).numpy()[:count]
        return dict(zip(self._metric_names, rows.T, strict=True))

    def nonfinite_steps(self, metrics: Mapping[str, np.ndarray]) -> np.ndarray:
        """Which steps of a call of `train`, bool [count], NaN or infinity has broken.

        Where losses are scaled, a gradient alone breaks none: its step is skipped.
        """
        finite = np.isfinite(metrics["loss"])
        if not isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            finite &= np.isfinite(metrics["gradient_norm"])
        return ~finite

    def require_finite(self, first_step: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Takes what each call of `train` returned, in their order.

        Raises:
          NonFiniteError: a loss is not finite, or gradients stay so at every loss scale.
        """
        broken = self.nonfinite_steps(metrics)
        if broken.any():
            steps = first_step + np.flatnonzero(broken)
            raise NonFiniteError(
                f"the loss or its gradient is NaN or infinite in steps {steps[0]} to {steps[-1]}; "
                "a lower optimizer.learning_rate or an optimizer.clip_norm may help"
            )
        finite_gradients = np.isfinite(metrics["gradient_norm"])
        for step, finite in enumerate(finite_gradients, start=first_step):
            self._skipped_steps = 0 if finite else self._skipped_steps + 1
            if self._skipped_steps >= _MOST_SKIPPED_STEPS:
                raise NonFiniteError(
                    f"{_MOST_SKIPPED_STEPS} steps in a row up to step {step} were skipped, since "
                    "their float16 gradients are NaN or infinite at every loss scale; "
                    "try precision=bfloat16"
                )

    def fastest(self, executions: Sequence[str], batches: np.ndarray | tf.Tensor) -> str:
        """Times training calls of each execution, and leaves the run's state as it was."""
        before = values_of(self.variables())
        seconds = {}
        for execution in executions:
            self.set_execution(execution)
            self.train(0, batches)  # compiles
            seconds[execution] = min(self._seconds_of_a_call(batches) for _ in range(_TIMED_CALLS))
        for path, variable in self.variables().items():
            variable.assign(before[path])
        return min(seconds, key=lambda execution: seconds[execution])

    def _seconds_of_a_call(self, batches: np.ndarray | tf.Tensor) -> float:
        began = time.perf_counter()
        self.train(0, batches)
        return time.perf_counter() - began

    def evaluate(self, images: Rows) -> dict[str, float]:
        """The means over images [N, H, W, C] of `loss` and each `loss/<term>`, exact for any N."""
        means = None
        for _, batch, weights in self._evaluation_batches(images):
            sums = self._statistics_compiled(batch, weights)
            if sums is None:
                break
            means = sums if means is None else means + sums
        if means is not None:
            means /= len(images)
        totals: dict[str, float] = {}
        for first, batch, weights in self._evaluation_batches(images):
            batch_sums = self._evaluate_compiled(first, batch, weights, means)
            for name, value in batch_sums.items():
                totals[name] = totals.get(name, 0.0) + float(value)
        return {name: value / len(images) for name, value in totals.items()}

    def _evaluation_batches(self, images: Rows) -> Iterator[tuple[tf.Tensor, ...]]:
        """Number of the first, batch of one size, and a weight for each of its rows, 0 beyond N."""
        replicas = self._strategy.num_replicas_in_sync
        size = -(-EVALUATION_BATCH_SIZE // replicas) * replicas
        for first in range(0, len(images), size):
            batch = images[first : first + size]
            weights = np.zeros(size, np.float32)
            weights[: len(batch)] = 1
            padded = np.zeros((size, *batch.shape[1:]), batch.dtype)
            padded[: len(batch)] = batch
            own = self.local_rows(size)
            yield tf.constant(first, tf.int64), tf.constant(padded[own]), tf.constant(weights[own])

    def variables(self) -> dict[str, keras.Variable]:
        """All that a run's state holds beside the step, by paths that are each one's own."""
        slots = {f"optimizer/{variable.path}": variable for variable in self.optimizer.variables}
        assert len(slots) == len(self.optimizer.variables), "two slots share a path"
        return model_variables(self._model) | slots

    def _train(self, first_step, count, batches, resident, labels):
        rows = tf.TensorArray(tf.float32, batches.shape[0])
        k = tf.constant(0)
        while k < count:
            step = first_step + tf.cast(k, tf.int64)
            its_labels = None if labels is None else labels[k]
            rows = rows.write(k, self._step(step, batches[k], resident, its_labels))
            k += 1
        return rows.stack()

    def _step(self, step, batches, resident, labels):
        self.optimizer.learning_rate.assign(self._learning_rate(step))
        shares = self._strategy.run(self._replica_gradients, args=(step, batches, resident, labels))
        metrics = self._update_compiled(*shares)
        metrics["learning_rate"] = self.optimizer.learning_rate.value
        self._metric_names = tuple(metrics)
        return tf.stack(list(metrics.values()))

    def _replica_gradients(self, step, batches, resident, labels):
        own, start = self._slice(batches)
        images = own if resident is None else tf.gather(resident, own)
        if labels is not None:
            labels, _ = self._slice(labels)
        statistics = self._statistics(images)
        if statistics is not None:
            statistics = sum_over_replicas(tf.reduce_sum(statistics, axis=0) / self._batch_size)
        shares = self._gradients_compiled(
            images, labels, step, step * self._batch_size + start, statistics, self._loss_scale()
        )
        return sum_over_replicas(shares)

    def _update(self, gradients, terms):
        per_replica = self._strategy.run(self._replica_update, args=(gradients, terms))
        return {
            name: self._strategy.experimental_local_results(value)[0]
            for name, value in per_replica.items()
        }

    def _replica_update(self, gradients, terms):
        scale = self._loss_scale()
        if self._copies_matter:
            gradients = one_after_the_other(gradients)
        norm = (norm_for_xla if self._update_is_compiled else tf.linalg.global_norm)(gradients)
        self.optimizer.apply(gradients, self._model.trainable_variables)
        loss = tf.add_n(list(terms.values()))
        return {"loss": loss, **terms, "gradient_norm": norm / scale, "loss_scale": scale}

    def _gradients(self, images, labels, step, first_position, means, scale):
        """One replica's share of the scaled gradients and of the loss terms."""
        size = images.shape[0]
        parts = cuts(size) if self._as_products else 1
        if parts == 1:
            return self._gradients_of_cut(images, labels, step, first_position, means, scale)
        cut = size // parts
        first_labels = None if labels is None else labels[:cut]
        total = self._gradients_of_cut(
            images[:cut], first_labels, step, first_position, means, scale
        )
        k = tf.constant(1)
        while k < parts:
            start = k * cut
            share = self._gradients_of_cut(
                tf.slice(images, [start, *[0] * len(images.shape[1:])], [cut, *images.shape[1:]]),
                None if labels is None else tf.slice(labels, [start], [cut]),
                step,
                first_position + tf.cast(start, tf.int64),
                means,
                scale,
            )
            total = tf.nest.map_structure(tf.add, total, share)
            k += 1
        return total

    def _gradients_of_cut(self, images, labels, step, first_position, means, scale):
        moment = Moment(
            Noise(self._seed, first_position, images.shape[0]),
            progress=tf.cast(step, tf.float32) / self._last_step,
            training=True,
            batch_means=means,
            labels=labels,
        )
        with as_matrix_products(self._as_products), tf.GradientTape() as tape:
            terms = {
                f"loss/{name}": tf.reduce_sum(term) / self._batch_size
                for name, term in self._model.loss_terms(_to_unit(images), moment).items()
            }
            scaled_loss = scale * tf.add_n(list(terms.values()))
        variables = self._model.trainable_variables
        # A loss may pass some weights by, as that of a classifier those its codes do not depend on.
        gradients = [
            tf.zeros(variable.shape) if gradient is None else gradient
            for variable, gradient in zip(
                variables, tape.gradient(scaled_loss, variables), strict=True
            )
        ]
        return gradients, terms

    def _statistics(self, images):
        with as_matrix_products(self._as_products):
            return self._model.statistics(_to_unit(images))

    def _statistics_of_batch(self, images, weights):
        def replica_sums():
            statistics = self._model.statistics(_to_unit(self._slice(images)[0]))
            if statistics is None:
                return None
            return tf.reduce_sum(statistics * self._slice(weights)[0][:, tf.newaxis], axis=0)

        per_replica = self._strategy.run(replica_sums)
        if per_replica is None:
            return None
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, per_replica, axis=None)

    def _evaluate_batch(self, first_position, images, weights, means):
        def replica_sums():
            own, start = self._slice(images)
            moment = Moment(
                Noise(self._seed, first_position + start, own.shape[0], stream="evaluation"),
                progress=tf.constant(1.0),
                training=False,
                batch_means=means,
            )
            terms = self._model.loss_terms(_to_unit(own), moment)
            own_weights, _ = self._slice(weights)
            sums = {
                f"loss/{name}": tf.reduce_sum(term * own_weights) for name, term in terms.items()
            }
            return {"loss": tf.add_n(list(sums.values())), **sums}

        per_replica = self._strategy.run(replica_sums)
        return {
            name: self._strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None)
            for name, value in per_replica.items()
        }

    def _slice(self, batch):
        """One replica's rows of its worker's batch, and the number of the first in the global."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        size = batch.shape[0] // self._local_replicas
        start = (replica - self._worker * self._local_replicas) * size
        return batch[start : start + size], tf.cast(replica * size, tf.int64)

    def _loss_scale(self):
        if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            return tf.convert_to_tensor(self.optimizer.dynamic_scale)
        return tf.constant(1.0)


def _compiled(function, by_xla: bool):
    return tf.function(function, jit_compile=True) if by_xla else function


def _to_unit(images: tf.Tensor) -> tf.Tensor:
    """Images as float32 in [0, 1]; vectors as they are."""
    scale = 255.0 if images.dtype == tf.uint8 else 1.0
    return tf.cast(images, tf.float32) / scale
