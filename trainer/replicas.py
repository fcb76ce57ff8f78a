"""The step on one replica or many: strategy, precision, loss scaling, tf.function, XLA.

The only file that knows how many replicas there are. A loss term is per example, [B]; here alone
it is reduced: summed over a replica's slice, divided by the global batch, summed over the replicas
together with the gradients. What the optimizer gets is the global gradient already, so that its
clipping and its test for overflow come out alike on every replica.
"""

import contextlib
import dataclasses
import itertools
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.distribute import collective_all_reduce_strategy

from trainer.errors import NonFiniteError, UserError, require, require_choice
from trainer.models import Autoencoder, Moment
from trainer.models.convolutions import as_matrix_products, few_channels_share
from trainer.positions import Noise

Strategy: TypeAlias = tf.distribute.Strategy
_Model = TypeVar("_Model")


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


EXECUTIONS = ("graph", "xla_update", "xla", "xla_products")

_STRATEGIES = ("auto", "mirrored", "multi_worker")
_TOO_NEW = (10, 0)  # compute capability: TensorFlow's builds have no kernels, and XLA crashes
_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
_EVALUATION_BATCH_SIZE = 512
_CUT_SIZE = 128  # images at a time where convolutions are matrix products
_SMALL_BATCH = 128  # whose arithmetic does not outweigh a copy of the weights
_LARGE_PRODUCTS = 4e9  # multiply-adds a step of dense layers
_TIMED_CALLS = 5  # of each execution; the neighbours disturb some
_ALIGNMENT = 64  # bytes, that TensorFlow asks of memory it shares
_MOST_SKIPPED_STEPS = 40  # halves a float16 loss scale of 2**15 to 2**-25


@dataclasses.dataclass(frozen=True)
class Devices:
    """A number of devices of one kind, "CPU" or "GPU"."""

    kind: str
    count: int

    def __str__(self) -> str:
        return f"{self.kind} x {self.count}"


def check_devices(name: str, workers: int) -> Devices:
    """What a strategy of that name would have on this machine; starts nothing.

    Raises:
      UserError: the name is not known or not for so many workers, or TensorFlow cannot drive a GPU.
    """
    kind, colon, count = name.partition(":")
    logical_cpus = kind == "cpu" and count.isdecimal() and int(count) > 0
    require(
        logical_cpus or (kind in _STRATEGIES and not colon),
        f"strategy={name!r} is not known; allowed: {', '.join(_STRATEGIES)}, "
        "cpu:N with N at least 1",
    )
    require(
        kind != "multi_worker" or workers > 1,
        "strategy='multi_worker' needs TF_CONFIG to name several workers; launch/ sets it",
    )
    require(
        kind != "mirrored" or workers == 1,
        f"strategy='mirrored' is of one machine, but TF_CONFIG names {workers} workers; "
        "strategy=auto takes them all",
    )
    if logical_cpus:
        return Devices("CPU", int(count))
    gpus = tf.config.list_physical_devices("GPU")
    for number, gpu in enumerate(gpus):
        details = tf.config.experimental.get_device_details(gpu)
        require(
            details.get("compute_capability", (0, 0)) < _TOO_NEW,
            f"TensorFlow {tf.__version__} cannot drive GPU {number}, "
            f"{details.get('device_name')}, of compute capability "
            f"{'.'.join(map(str, details.get('compute_capability', ())))}; it must be below "
            f"{_TOO_NEW[0]}.{_TOO_NEW[1]}. CUDA_VISIBLE_DEVICES hides it",
        )
    return Devices("GPU", len(gpus)) if gpus else Devices("CPU", 1)


def make_strategy(name: str, workers: int = 1) -> Strategy:
    """The replicas: on every GPU, else the CPU, of this machine or of all workers of TF_CONFIG.

    One worker has a MirroredStrategy, several a MultiWorkerMirroredStrategy, which waits for all of
    them. "auto", "mirrored" and "multi_worker" take what there is, "cpu:N" N logical CPU devices.

    Raises:
      UserError: as `check_devices`, or TensorFlow has begun with fewer CPU devices.
    """
    devices = check_devices(name, workers)
    if devices.kind == "GPU":
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
        if workers == 1:
            return tf.distribute.MirroredStrategy()
        by_nccl = tf.distribute.experimental.CommunicationOptions(
            implementation=tf.distribute.experimental.CommunicationImplementation.NCCL
        )
        return tf.distribute.MultiWorkerMirroredStrategy(communication_options=by_nccl)
    # TensorFlow's collectives allow one number of CPU devices in the life of a process.
    cpus = _logical_cpus(devices.count)
    if workers == 1:
        reduction = tf.distribute.ReductionToOneDevice()
        return tf.distribute.MirroredStrategy(cpus, cross_device_ops=reduction)
    with _of_logical_cpus(cpus):
        return tf.distribute.MultiWorkerMirroredStrategy()


@contextlib.contextmanager
def within_memory() -> Iterator[None]:
    """Raises UserError, which says what did not fit, where a device has too little memory."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        wanted = re.search(r"tensor with shape\[[\d,]*\] and type \w+", str(error))
        raise UserError(
            f"the memory is too small{f' for a {wanted[0]}' if wanted else ''}; a smaller "
            "model or batch_size takes less"
        ) from error


def build_model(strategy: Strategy, precision: str, create: Callable[[], _Model]) -> _Model:
    """Creates a model on the replicas, its arithmetic in the precision, its weights in float32.

    Raises:
      UserError: the precision is not known, the memory too small, or what `create` raises.
    """
    require_choice("precision", precision, tuple(_POLICIES))
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(_POLICIES[precision])
    try:
        with within_memory(), strategy.scope():
            return create()
    finally:
        keras.config.set_dtype_policy(before)


def devices(strategy: Strategy) -> str:
    """The kind and number of the devices of all workers, as "CPU x 2"."""
    first = strategy.extended.worker_devices[0]
    kind = tf.DeviceSpec.from_string(first).device_type
    return str(Devices(kind, strategy.num_replicas_in_sync))


class SumOverWorkers:
    """Sums what each worker of a strategy brings, int64 [n], as every one of them gets it."""

    def __init__(self, strategy: Strategy):
        self._strategy = strategy
        self._own_replicas = len(strategy.extended.worker_devices)
        self._compiled = tf.function(lambda own: strategy.run(self._of_first_replica, args=(own,)))

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        if self._strategy.num_replicas_in_sync == self._own_replicas:
            return numbers
        total = self._compiled(tf.constant(numbers, tf.int64))
        return self._strategy.experimental_local_results(total)[0].numpy()

    def _of_first_replica(self, own):
        context = tf.distribute.get_replica_context()
        is_first = context.replica_id_in_sync_group % self._own_replicas == 0
        share = own * tf.cast(is_first, tf.int64)
        return context.all_reduce(tf.distribute.ReduceOp.SUM, share)


def executions(strategy: Strategy, model: Autoencoder, batch_size: int) -> tuple[str, ...]:
    """The executions worth a try on these devices, the usually fastest first.

    Convolutions with few channels go by matrix products on a CPU, others by its library, and so do
    the products of large layers on large batches (measured in docs/performance.md); other nets are
    compiled, where that takes them whole.
    """
    alone = strategy.num_replicas_in_sync == 1
    on_cpu = devices(strategy).startswith("CPU")
    few_channels = few_channels_share([model.encoder, model.decoder])
    library = "xla_update" if alone else "graph"
    if not on_cpu:
        return ("xla", library)
    if few_channels is None:
        small = batch_size * model.count_params() < _LARGE_PRODUCTS
        return ("xla", library) if alone and small else (library, "xla")
    return ("xla_products", library) if few_channels > 0.5 else (library, "xla_products")


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
        self.optimizer = _on_replicas(
            strategy,
            model,
            create_optimizer,
            loss_scale_growth_steps if precision == "float16" else None,
        )
        self._strategy = strategy
        self._own_replicas = len(strategy.extended.worker_devices)
        self._worker = worker
        self._model = model
        self._learning_rate = learning_rate
        self._batch_size = batch_size
        self._seed = seed
        self._last_step = last_step
        self._skipped_steps = 0
        self._metric_names: tuple[str, ...] = ()
        self._resident: Any = None
        self._evaluate_compiled = tf.function(self._evaluate_batch)
        self._statistics_compiled = tf.function(self._statistics_of_batch)
        self.execute(execution)

    def execute(self, execution: str) -> None:
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

    def place(self, images: np.ndarray) -> bool:
        """Copies the training images to every replica's device, or says that they do not fit.

        On the CPU they are shared, not copied, where they begin at a multiple of 64 bytes.
        """
        if images.ctypes.data % _ALIGNMENT == 0 and images.flags.writeable:
            tensor = tf.experimental.dlpack.from_dlpack(images.__dlpack__())
        else:
            with tf.device("CPU:0"):
                tensor = tf.constant(images)
        try:
            self._resident = self._strategy.experimental_distribute_values_from_function(
                lambda _: tf.identity(tensor)
            )
        except tf.errors.ResourceExhaustedError:
            return False
        return True

    def own_rows(self, batch_size: int | None = None) -> slice:
        """The rows of a global batch, by default one of training, that this worker computes."""
        size = (batch_size or self._batch_size) // self._strategy.num_replicas_in_sync
        rows = size * self._own_replicas
        return slice(self._worker * rows, (self._worker + 1) * rows)

    def displace(self) -> None:
        """Gives the devices' memory back that `place` took."""
        self._resident = None

    @property
    def holds_images(self) -> bool:
        """Whether the training images lie on the devices."""
        return self._resident is not None

    def train(
        self,
        first_step: int,
        drawn: np.ndarray | tf.Tensor,
        count: int | None = None,
        labels: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """Takes `count` steps, or one for each row drawn, without the host in between.

        A row is the step's images [B, H, W, C], or their numbers [B] among those in `place`; a
        model that learns labels is handed them too, a row [B] for each. Of several workers each is
        handed its `own_rows`. Rows beyond the count are not used: calls that draw equally many
        share one compilation.

        Returns, each float32 [count]: `loss` and `loss/<term>` (means over the batch),
        `gradient_norm` (global, before clipping), `learning_rate` and `loss_scale`.
        `require_finite` is to be asked of them.
        """
        count = len(drawn) if count is None else count
        rows = self._train_compiled(
            tf.constant(first_step, tf.int64), tf.constant(count), drawn, self._resident, labels
        ).numpy()[:count]
        return dict(zip(self._metric_names, rows.T, strict=True))

    def broken(self, metrics: Mapping[str, np.ndarray]) -> np.ndarray:
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
        broken = self.broken(metrics)
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

    def fastest(self, executions: Sequence[str], drawn: np.ndarray | tf.Tensor) -> str:
        """Times training calls of each execution, and leaves the run's state as it was."""
        before = arrays(self.variables())
        seconds = {}
        for execution in executions:
            self.execute(execution)
            self.train(0, drawn)  # compiles
            seconds[execution] = min(self._seconds_of_a_call(drawn) for _ in range(_TIMED_CALLS))
        for path, variable in self.variables().items():
            variable.assign(before[path])
        return min(seconds, key=lambda execution: seconds[execution])

    def _seconds_of_a_call(self, drawn: np.ndarray | tf.Tensor) -> float:
        began = time.perf_counter()
        self.train(0, drawn)
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
        size = -(-_EVALUATION_BATCH_SIZE // replicas) * replicas
        for first in range(0, len(images), size):
            batch = images[first : first + size]
            weights = np.zeros(size, np.float32)
            weights[: len(batch)] = 1
            padded = np.zeros((size, *batch.shape[1:]), batch.dtype)
            padded[: len(batch)] = batch
            own = self.own_rows(size)
            yield tf.constant(first, tf.int64), tf.constant(padded[own]), tf.constant(weights[own])

    def variables(self) -> dict[str, keras.Variable]:
        """All that a run's state holds beside the step, by paths that are each one's own."""
        slots = {f"optimizer/{variable.path}": variable for variable in self.optimizer.variables}
        assert len(slots) == len(self.optimizer.variables), "two slots share a path"
        return model_variables(self._model) | slots

    def _train(self, first_step, count, drawn, resident, labels):
        rows = tf.TensorArray(tf.float32, drawn.shape[0])
        k = tf.constant(0)
        while k < count:
            step = first_step + tf.cast(k, tf.int64)
            its_labels = None if labels is None else labels[k]
            rows = rows.write(k, self._step(step, drawn[k], resident, its_labels))
            k += 1
        return rows.stack()

    def _step(self, step, drawn, resident, labels):
        self.optimizer.learning_rate.assign(self._learning_rate(step))
        shares = self._strategy.run(self._replica_gradients, args=(step, drawn, resident, labels))
        metrics = self._update_compiled(*shares)
        metrics["learning_rate"] = self.optimizer.learning_rate.value
        self._metric_names = tuple(metrics)
        return tf.stack(list(metrics.values()))

    def _replica_gradients(self, step, drawn, resident, labels):
        own, start = self._slice(drawn)
        images = own if resident is None else tf.gather(resident, own)
        if labels is not None:
            labels, _ = self._slice(labels)
        statistics = self._statistics(images)
        if statistics is not None:
            statistics = _sum_over_replicas(tf.reduce_sum(statistics, axis=0) / self._batch_size)
        shares = self._gradients_compiled(
            images, labels, step, step * self._batch_size + start, statistics, self._loss_scale()
        )
        return _sum_over_replicas(shares)

    def _update(self, gradients, terms):
        per_replica = self._strategy.run(self._replica_update, args=(gradients, terms))
        return {
            name: self._strategy.experimental_local_results(value)[0]
            for name, value in per_replica.items()
        }

    def _replica_update(self, gradients, terms):
        scale = self._loss_scale()
        if self._copies_matter:
            gradients = _one_after_the_other(gradients)
        norm = (_norm_for_xla if self._update_is_compiled else tf.linalg.global_norm)(gradients)
        self.optimizer.apply(gradients, self._model.trainable_variables)
        loss = tf.add_n(list(terms.values()))
        return {"loss": loss, **terms, "gradient_norm": norm / scale, "loss_scale": scale}

    def _gradients(self, images, labels, step, first_position, means, scale):
        """One replica's share of the scaled gradients and of the loss terms."""
        size = images.shape[0]
        cuts = _cuts(size) if self._as_products else 1
        if cuts == 1:
            return self._gradients_of_cut(images, labels, step, first_position, means, scale)
        cut = size // cuts
        first_labels = None if labels is None else labels[:cut]
        total = self._gradients_of_cut(
            images[:cut], first_labels, step, first_position, means, scale
        )
        k = tf.constant(1)
        while k < cuts:
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
        size = batch.shape[0] // self._own_replicas
        start = (replica - self._worker * self._own_replicas) * size
        return batch[start : start + size], tf.cast(replica * size, tf.int64)

    def _loss_scale(self):
        if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            return tf.convert_to_tensor(self.optimizer.dynamic_scale)
        return tf.constant(1.0)


def model_variables(model: Learner) -> dict[str, keras.Variable]:
    """A model's weights by their paths, under "model/"."""
    return {f"model/{variable.path}": variable for variable in model.variables}


def arrays(variables: Mapping[str, keras.Variable]) -> dict[str, np.ndarray]:
    """Their values, under the same names."""
    return {path: variable.numpy() for path, variable in variables.items()}


def graph(model: Autoencoder) -> tf.Graph:
    """What the model computes of images [B, H, W, C], to be looked at."""
    images = tf.TensorSpec((None, *model.image_shape), tf.float32)
    return tf.function(model).get_concrete_function(images).graph


def map_batches(
    function: Callable[..., tf.Tensor], rows: np.ndarray, *, noise_seed: int | None = None
) -> np.ndarray:
    """A model's function of rows [B, ...] over all of them [N, ...], a batch at a time.

    With a seed, it is a function of rows and of their `Noise` in evaluation.
    """

    def call(batch, first):
        if noise_seed is None:
            return function(batch)
        return function(batch, Noise(noise_seed, first, tf.shape(batch)[0], stream="evaluation"))

    some_rows = tf.TensorSpec((None, *rows.shape[1:]), rows.dtype)
    number = tf.TensorSpec((), tf.int64)
    compiled = tf.function(call).get_concrete_function(some_rows, number)
    return np.concatenate([
        compiled(
            tf.constant(rows[first : first + _EVALUATION_BATCH_SIZE]), tf.constant(first, tf.int64)
        ).numpy()
        for first in range(0, len(rows), _EVALUATION_BATCH_SIZE)
    ])  # fmt: skip


def in_batches(
    function: Callable[[tf.Tensor], tf.Tensor], row_shape: tuple[int, ...], size: int
) -> Callable[[np.ndarray], np.ndarray]:
    """A model's function of rows [size, ...], for a stream of blocks of so many rows at most.

    A smaller block is filled up: what becomes of a row is the same bits however many come along.
    """
    some_rows = tf.TensorSpec((size, *row_shape), tf.float32)
    compiled = tf.function(function).get_concrete_function(some_rows)

    def call(rows: np.ndarray) -> np.ndarray:
        filled = np.zeros((size, *row_shape), np.float32)
        filled[: len(rows)] = rows
        return compiled(tf.constant(filled)).numpy()[: len(rows)]

    return call


def _compiled(function, by_xla: bool):
    return tf.function(function, jit_compile=True) if by_xla else function


def _sum_over_replicas(tensors):
    """Sums a structure of float32 tensors over the replicas, as one tensor."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return tensors
    parts = tf.nest.flatten(tensors)
    packed = tf.concat([tf.reshape(part, [-1]) for part in parts], axis=0)
    total = context.all_reduce(tf.distribute.ReduceOp.SUM, packed)
    split = tf.split(total, [part.shape.num_elements() for part in parts])
    sums = [tf.reshape(piece, part.shape) for piece, part in zip(split, parts, strict=True)]
    return tf.nest.pack_sequence_as(tensors, sums)


def _norm_for_xla(gradients: list[tf.Tensor]) -> tf.Tensor:
    """Their norm together, in a form that XLA reads once on a CPU, not thrice.

    It writes a sum of more than 32 terms as a tree, which keeps it from squaring on the way.
    """

    def eighths(gradient: tf.Tensor) -> tf.Tensor:
        size = gradient.shape.num_elements()
        parts = next(parts for parts in range(8, 0, -1) if size % parts == 0)
        return tf.add_n([tf.square(p) for p in tf.split(tf.reshape(gradient, [-1]), parts)])

    return tf.sqrt(tf.add_n([tf.reduce_sum(eighths(gradient)) for gradient in gradients]))


def _one_after_the_other(gradients: list[tf.Tensor]) -> list[tf.Tensor]:
    """The same numbers, each gradient to be had only after the one before it in the model.

    So no layer's weights change before the gradient has passed through them: XLA, which orders by
    need alone, would copy them first.
    """

    def unknown_zero(gradient: tf.Tensor) -> tf.Tensor:
        return tf.minimum(tf.abs(tf.reshape(gradient, [-1])[0]), 0.0)

    following = [
        gradient + unknown_zero(before) for before, gradient in itertools.pairwise(gradients)
    ]
    return [gradients[0], *following]


def _cuts(size: int) -> int:
    """The fewest equal parts of a batch that suit the caches; 1 if none is of such a size."""
    if size <= _CUT_SIZE:
        return 1
    fitting = range(_CUT_SIZE // 2, _CUT_SIZE + 1)
    return next((c for c in range(2, size) if size % c == 0 and size // c in fitting), 1)


def _on_replicas(strategy, model, create_optimizer, loss_scale_growth_steps):
    """The optimizer, built on the replicas, for gradients that are summed over them already."""
    with strategy.scope():
        optimizer = create_optimizer()
        # Keras would sum after clipping, and test each replica's own share for overflow.
        assert hasattr(optimizer, "_all_reduce_sum_gradients"), "Keras has renamed its all-reduce"
        optimizer._all_reduce_sum_gradients = lambda grads_and_vars: grads_and_vars
        if loss_scale_growth_steps is not None:
            optimizer = keras.optimizers.LossScaleOptimizer(
                optimizer, dynamic_growth_steps=loss_scale_growth_steps, name="loss_scale"
            )
        optimizer.build(model.trainable_variables)
    return optimizer


def _logical_cpus(count: int) -> list[str]:
    """The names of `count` logical CPU devices, which must be made before TensorFlow's first op."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    configured = tf.config.get_logical_device_configuration(cpu) or []
    if len(configured) < count and count > 1:
        try:
            tf.config.set_logical_device_configuration(
                cpu, [tf.config.LogicalDeviceConfiguration()] * count
            )
        except RuntimeError as error:
            raise UserError(f"strategy='cpu:{count}' comes too late in this process") from error
    return [f"CPU:{number}" for number in range(count)]


@contextlib.contextmanager
def _of_logical_cpus(names: list[str]) -> Iterator[None]:
    """Has a MultiWorkerMirroredStrategy take all of these, where it would take one CPU a worker."""
    extended = collective_all_reduce_strategy.CollectiveAllReduceExtended
    original = extended._initialize_local_devices

    def local_devices(self, cluster_resolver, worker_device):
        del self, cluster_resolver
        return tuple(f"{worker_device}/device:{name}" for name in names), "CPU"

    extended._initialize_local_devices = local_devices
    try:
        yield
    finally:
        extended._initialize_local_devices = original


def _to_unit(images: tf.Tensor) -> tf.Tensor:
    """Images as float32 in [0, 1]; vectors as they are."""
    scale = 255.0 if images.dtype == tf.uint8 else 1.0
    return tf.cast(images, tf.float32) / scale
