"""Training and evaluation steps on one replica or many.

Each replica's share of the gradients and of the loss terms (gradients.py) is summed over the
replicas here. What the optimizer gets is the global gradient, so that its clipping and its test for
overflow come out alike on every replica.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.config import EXECUTIONS
from trainer.distribution import devices, private_api
from trainer.distribution.collectives import all_reduce, pack, sum_over_replicas, unpack
from trainer.distribution.device_cache import copy_to_replicas, gather_images
from trainer.distribution.gradients import Gradients, Learner, Slice
from trainer.distribution.mean_losses import MeanLosses, Rows
from trainer.distribution.slices import Slices
from trainer.distribution.strategy import Strategy
from trainer.distribution.update import (
    build_optimizer,
    loss_scale,
    needs_gradient_norm,
    scales_losses,
)
from trainer.distribution.variables import model_variables, values_of
from trainer.distribution.xla import one_after_the_other, sum_of_squares_for_cpu
from trainer.errors import NonFiniteError, require, require_choice

_SMALL_BATCH = 128  # whose arithmetic does not outweigh a copy of the weights
_TIMED_CALLS = 5  # of each execution, since other processes disturb some
_MAX_SKIPPED_STEPS = 40  # halves a float16 loss scale of 2**15 to 2**-25


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
        norm_every_steps: int = 1,
    ):
        """Takes the model's precision (float16 gets dynamic loss scaling) and the global batch.

        `worker` is the index of this worker among those of the strategy.
        `last_step` is where the training ends, by which the kinds measure their progress.
        `norm_every_steps`: a CPU computes the gradient norm only in these steps and the last one,
        unless the optimizer needs it, since the norm reads all gradients from memory once more.
        `execution` says how a training step is computed, to the same result up to rounding:
        "graph" by TensorFlow's own kernels; "xla_update" too, but the optimizer's update is
        compiled where there is one replica; "xla" compiled; "xla_products" compiled, with each
        convolution as matrix products, for which a CPU cuts a large batch to fit its caches.

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
        self._on_gpus = devices.on_gpus(strategy)
        self._slices = Slices(strategy, worker)
        self._mean_losses = MeanLosses(self._slices, model, seed)
        self._model = model
        self._learning_rate = learning_rate
        self._batch_size = batch_size
        self._seed = seed
        self._last_step = last_step
        always = self._on_gpus or needs_gradient_norm(self.optimizer)
        self._norm_every_steps = 1 if always else norm_every_steps
        self._skipped_steps = 0
        self._metric_names: tuple[str, ...] = ()
        self._device_cache: Any = None
        self._image_shape: tuple[int, ...] = ()
        self.set_execution(execution)

    def set_execution(self, execution: str) -> None:
        """Computes the training steps from here on in another way."""
        require_choice("execution", execution, EXECUTIONS)
        self.execution = execution
        self._gradients = Gradients(
            model=self._model,
            batch_size=self._batch_size,
            seed=self._seed,
            last_step=self._last_step,
            execution=execution,
            cut_for_caches=not self._on_gpus,
        )
        # XLA takes the loop of one replica whole. Of several it takes what lies between two sums
        # over the replicas, but for the update by Keras's loss scaling, which calls merge_call.
        one_replica = self._strategy.num_replicas_in_sync == 1
        by_xla = execution in ("xla", "xla_products")
        self._by_xla = by_xla
        self._update_in_parts = by_xla and not one_replica and not scales_losses(self.optimizer)
        self._update_by_xla = one_replica and execution != "graph"
        self._copies_matter = (
            one_replica
            and execution == "xla"
            and not self._on_gpus
            and self._batch_size <= _SMALL_BATCH
        )
        self.train_function = tf.function(self._train, jit_compile=by_xla and one_replica)
        parts = by_xla and not one_replica
        self._share_compiled = _compiled(self._share, parts)
        self._cached_images_compiled = _compiled(self._cached_images, parts)
        self._statistics_share_compiled = _compiled(self._gradients.statistics, parts)
        self._packed_update_compiled = _compiled(self._packed_update, parts)
        self._learning_rate_compiled = _compiled(self._learning_rate, parts)
        self._update_compiled = _compiled(self._update, self._update_by_xla and not by_xla)

    def cache_on_device(self, images: np.ndarray) -> bool:
        """Copies the training images to every replica's device; returns whether they fit."""
        self._device_cache = copy_to_replicas(self._strategy, images)
        self._image_shape = images.shape[1:]
        return self._device_cache is not None

    def local_rows(self) -> slice:
        """The rows of a global batch that this worker computes."""
        return self._slices.of_worker(self._batch_size)

    def release_device_cache(self) -> None:
        """Gives the devices' memory back that `cache_on_device` took."""
        self._device_cache = None

    @property
    def images_on_device(self) -> bool:
        """Whether the training images lie on the devices."""
        return self._device_cache is not None

    def image_devices(self) -> list[str]:
        """Returns the device of each local replica's copy of the training images."""
        copies = self._strategy.experimental_local_results(self._device_cache)
        return [copy.device for copy in copies]

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
        (1 where float16 gradients overflowed), `learning_rate` and `loss_scale`. Each call's are
        for `require_finite` to check.
        """
        count = len(batches) if count is None else count
        rows = self.train_function(
            tf.constant(first_step, tf.int64),
            tf.constant(count),
            batches,
            self._device_cache,
            labels,
        ).numpy()[:count]
        return dict(zip(self._metric_names, rows.T, strict=True))

    def nonfinite_steps(self, metrics: Mapping[str, np.ndarray]) -> np.ndarray:
        """Which steps of a call of `train`, bool [count], have a loss or gradient not finite.

        Where the gradient norm is not computed, it shows in the loss of the next step. Where losses
        are scaled, a step whose gradient overflows is skipped and breaks nothing.
        """
        finite = np.isfinite(metrics["loss"])
        if self._norm_every_steps == 1 and not scales_losses(self.optimizer):
            finite &= np.isfinite(metrics["gradient_norm"])
        return ~finite

    def require_finite(self, first_step: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Checks what each call of `train` returned, in their order.

        Raises:
          NonFiniteError: a loss is not finite, or gradients stay so at every loss scale.
        """
        nonfinite = self.nonfinite_steps(metrics)
        if nonfinite.any():
            steps = first_step + np.flatnonzero(nonfinite)
            raise NonFiniteError(
                f"the loss or its gradient is NaN or infinite in steps {steps[0]} to {steps[-1]}; "
                "a lower optimizer.learning_rate or an optimizer.clip_norm may help"
            )
        for step, skipped in enumerate(metrics["skipped_steps"], start=first_step):
            self._skipped_steps = self._skipped_steps + 1 if skipped else 0
            if self._skipped_steps >= _MAX_SKIPPED_STEPS:
                raise NonFiniteError(
                    f"{_MAX_SKIPPED_STEPS} steps in a row up to step {step} were skipped, since "
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
        """Computes the means of `loss` and each `loss/<term>` over images [N, H, W, C]."""
        return self._mean_losses(images)

    def variables(self) -> dict[str, keras.Variable]:
        """Returns the variables of a run's state by their paths; the step is not one of them."""
        slots = {f"optimizer/{variable.path}": variable for variable in self.optimizer.variables}
        assert len(slots) == len(self.optimizer.variables), "two slots share a path"
        return model_variables(self._model) | slots

    def _train(self, first_step, count, batches, cache, labels):
        rows = tf.TensorArray(tf.float32, batches.shape[0])
        k = tf.constant(0)
        while k < count:
            step = first_step + tf.cast(k, tf.int64)
            step_labels = None if labels is None else labels[k]
            rows = rows.write(k, self._step(step, batches[k], cache, step_labels))
            k += 1
        return rows.stack()

    def _step(self, step, batch, cache, labels):
        self.optimizer.learning_rate.assign(self._learning_rate_compiled(step))
        shares = self._strategy.run(self._summed_gradients, args=(step, batch, cache, labels))
        if self._update_in_parts:
            # Not run itself: tf.distribute would compile all replicas' updates as one on CPUs.
            update = lambda share: self._packed_update_compiled(share, step)  # noqa: E731
            rows = self._strategy.run(update, args=(shares,))
            self.optimizer.iterations.assign_add(1)
            return self._strategy.experimental_local_results(rows)[0]
        return self._update_compiled(*shares, step)

    def _summed_gradients(self, step, batch, cache, labels):
        """The gradients and terms of the whole batch, in a replica's context."""
        images, start = self._slices.of_replica(batch)
        if cache is not None:
            images = self._cached_images_compiled(images, cache)
        own_labels = None if labels is None else self._slices.of_replica(labels)[0]
        means = self._statistics_share_compiled(images)
        if means is not None:
            means = sum_over_replicas(means)
        share = self._share_compiled(images, own_labels, step, start, means)
        return all_reduce(share) if self._update_in_parts else sum_over_replicas(share)

    def _cached_images(self, indices, cache):
        """Gathers the images by themselves, so that a step has the same bits without the cache."""
        by_words = self._on_gpus and not self._by_xla
        return gather_images(cache, indices, self._image_shape, by_words=by_words)

    def _share(self, images, labels, step, start, means):
        rows = Slice(images, labels, step, step * self._batch_size + start)
        gradients, terms = self._gradients(rows, means, loss_scale(self.optimizer))
        self._term_names = tuple(terms)  # which `_packed_update`, traced after this, unpacks
        return pack((gradients, terms)) if self._update_in_parts else (gradients, terms)

    def _update(self, gradients, terms, step):
        per_replica = self._strategy.run(self._replica_update, args=(gradients, terms, step))
        return self._strategy.experimental_local_results(per_replica)[0]

    def _replica_update(self, gradients, terms, step):
        scale = loss_scale(self.optimizer)
        if self._copies_matter:
            gradients = one_after_the_other(gradients)
        norm = self._norm(gradients, step) / scale
        self.optimizer.apply(gradients, self._model.trainable_variables)
        return self._metrics(terms, norm, scale)

    def _packed_update(self, packed, step):
        """Updates one replica's variables, but for the optimizer's `iterations`."""
        variables = self._model.trainable_variables
        terms = dict.fromkeys(self._term_names, tf.zeros(()))
        gradients, terms = unpack(packed, ([tf.TensorSpec(v.shape) for v in variables], terms))
        norm = self._norm(gradients, step)
        private_api.update_replica(self.optimizer, gradients, variables)
        return self._metrics(terms, norm, tf.ones(()))

    def _norm(self, gradients, step):
        """The global norm of the gradients, or NaN in a step that does without."""
        if self._on_gpus:
            return tf.linalg.global_norm(gradients)
        square = sum_of_squares_for_cpu if self._update_by_xla else _sum_of_squares
        if self._norm_every_steps == 1:
            return tf.sqrt(tf.add_n([square(gradient) for gradient in gradients]))
        end = step + 1
        wanted = (end % self._norm_every_steps == 0) | (end == self._last_step)
        # A branch for each, so that no gradient is kept for the last one's sake.
        squares = [tf.cond(wanted, lambda g=g: square(g), lambda: math.nan) for g in gradients]
        return tf.sqrt(tf.add_n(squares))

    def _metrics(self, terms, norm, scale):
        """The row of a step in the result of `train`, whose names are kept."""
        skipped = tf.zeros(())
        if scales_losses(self.optimizer):
            skipped = 1 - tf.cast(tf.math.is_finite(norm), tf.float32)
        metrics = {
            "loss": tf.add_n(list(terms.values())),
            **terms,
            "gradient_norm": norm,
            "skipped_steps": skipped,
            "learning_rate": tf.convert_to_tensor(self.optimizer.learning_rate),
            "loss_scale": scale,
        }
        self._metric_names = tuple(metrics)
        return tf.stack(list(metrics.values()))


def _sum_of_squares(gradient):
    return tf.reduce_sum(tf.square(gradient))


def _compiled(function, by_xla: bool):
    return tf.function(function, jit_compile=True) if by_xla else function
