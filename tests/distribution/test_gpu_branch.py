"""What GPUs compute, seen without one: TensorFlow's GPU branch of tf.distribute on CPU devices."""

import collections
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import kernels

from tests.all_configs import CONFIG_OF, load_config, tiny
from tests.gpu_branch import gpu_branch, gpu_strategy
from tests.marks import slow
from trainer import models
from trainer.config import parse
from trainer.distribution.device_cache import DeviceCache
from trainer.distribution.strategy import build_model
from trainer.distribution.workers import Workers
from trainer.evaluation.classifier import Classifier
from trainer.training.setup import make_steps

SIDE = 8
BATCH_SIZE = 8
KINDS = sorted(CONFIG_OF)
VARIANTS = [*((kind, {}) for kind in KINDS), ("sparse", {"auxiliary_weight": 0.1})]
CONVOLUTIONAL = ("conv", "deep_conv", "denoising")
IMAGES = np.random.default_rng(0).integers(0, 256, (50, SIDE, SIDE, 1), np.uint8)
INDICES = np.random.default_rng(1).integers(0, len(IMAGES), (2, BATCH_SIZE), np.int32)
LABELS = np.random.default_rng(2).integers(0, 3, (2, BATCH_SIZE))
TOLERANCE = {"float32": 1e-5, "bfloat16": 3e-2, "float16": 3e-3}  # of the losses, relative
MAX_OPERATIONS = 40  # that TensorFlow launches in a step for each of several replicas
PRECISIONS = list(TOLERANCE)
# What depends on no kind: each way to execute a step, on several replicas in every precision.
EXECUTIONS = [
    ("sparse", "graph", 2, "float32"),
    slow("denoising", "graph", 2, "bfloat16"),
    ("contractive", "graph", 2, "float16"),
    slow("vae", "xla", 2, "float32"),
    ("dense", "xla", 2, "bfloat16"),
    slow("concrete", "xla", 2, "float16"),
    ("conv", "xla_products", 1, "float32"),
    slow("deep_conv", "xla_products", 1, "bfloat16"),
    ("linear", "xla_update", 1, "float16"),
]


@pytest.fixture(autouse=True)
def on_gpus():
    with gpu_branch():
        yield


@functools.cache
def strategy_of(replicas):
    """One strategy a process and number of devices, as `make_strategy` has it."""
    return gpu_strategy(replicas)


def steps_of(
    kind, replicas, execution, precision="float32", *, changes=(), wrap=lambda model: model
):
    """Steps of a tiny model of a kind by Adam, whose images are cached on the devices."""
    keys = load_config(CONFIG_OF[kind])
    keys.model.update(tiny(kind) | dict(changes))
    keys.optimizer.update({"name": "adam", "momentum": 0.0, "learning_rate": 1e-3})
    keys.optimizer.update({"schedule": "constant", "warmup_steps": 0})
    if kind == "conv":
        keys.model.code_activation = "linear"  # of one channel, which relu may leave at 0
    keys.batch_size = BATCH_SIZE
    keys.precision = precision
    config = parse(keys)
    keras.utils.set_random_seed(0)
    strategy = strategy_of(replicas)
    create = lambda: wrap(models.create((SIDE, SIDE, 1), config.model))  # noqa: E731
    model = build_model(strategy, precision, create)
    steps = make_steps(config, Workers(strategy), model, last_step=10)
    steps.set_execution(execution)
    assert steps.cache_on_device(IMAGES)
    return steps


@functools.cache
def reference_losses(kind):
    """The losses of one replica by TensorFlow's own kernels in float32."""
    return steps_of(kind, 1, "graph").train(0, INDICES)["loss"]


@pytest.mark.parametrize(("kind", "changes"), VARIANTS)
def test_a_kind_has_gradients_and_kernels_that_gpus_have(kind, changes):
    steps = steps_of(kind, 1, "xla", changes=changes)
    hlo = hlo_of(steps)
    assert_no_scatter(hlo)
    assert (" convolution(" in hlo) == (kind in CONVOLUTIONAL)
    steps.set_execution("graph")
    assert not operations_without_gpu_kernel(graph_of(steps))


@pytest.mark.parametrize(("kind", "execution", "replicas", "precision"), EXECUTIONS)
def test_an_execution_trains_on_gpus_as_elsewhere_and_by_kernels_that_gpus_have(
    kind, execution, replicas, precision
):
    steps = steps_of(kind, replicas, execution, precision)
    assert_losses_are_those_of_one_replica_by_graph(steps, kind, precision)
    assert_replicas_are_alike(steps, strategy_of(replicas))
    if execution == "xla_products":
        hlo = hlo_of(steps)
        assert_no_scatter(hlo)
        assert " convolution(" not in hlo
        return
    assert not operations_without_gpu_kernel(graph_of(steps))
    if execution == "xla" and precision != "float16":  # whose update is TensorFlow's
        assert count_operations(graph_of(steps)) <= MAX_OPERATIONS


@pytest.mark.gpu_compile
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("execution", ["graph", "xla", "xla_products"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_trains_by_every_execution_in_every_precision(
    kind, execution, replicas, precision
):
    steps = steps_of(kind, replicas, execution, precision)
    assert_losses_are_those_of_one_replica_by_graph(steps, kind, precision)
    assert_replicas_are_alike(steps, strategy_of(replicas))


def assert_losses_are_those_of_one_replica_by_graph(steps, kind, precision):
    losses = steps.train(0, INDICES)["loss"]
    np.testing.assert_allclose(losses, reference_losses(kind), rtol=TOLERANCE[precision])


def call_of(steps, labels=None):
    """The arguments of the training function."""
    counts = tf.constant(0, tf.int64), tf.constant(len(INDICES))
    return (*counts, tf.constant(INDICES), steps._cache.copies, labels)


def graph_of(steps):
    return steps.train_function.get_concrete_function(*call_of(steps)).graph.as_graph_def()


def hlo_of(steps, labels=None):
    compiler = steps.train_function.experimental_get_compiler_ir(*call_of(steps, labels))
    return compiler(stage="hlo")


def assert_replicas_are_alike(steps, strategy):
    for path, variable in steps.variables().items():
        first, *others = strategy.experimental_local_results(variable.value)
        for value in others:
            np.testing.assert_array_equal(value.numpy(), first.numpy(), err_msg=path)


def assert_no_scatter(hlo):
    # XLA on a GPU, where it is deterministic, makes a loop over single updates of a scatter.
    assert " dot(" in hlo or " convolution(" in hlo
    assert " scatter(" not in hlo
    assert " select-and-scatter(" not in hlo


def functions_outside_xla(graph_def):
    """Yields the name and the nodes of a graph and of its functions that XLA does not compile."""
    library = {function.signature.name: function for function in graph_def.library.function}
    waiting, seen = [("", graph_def.node)], set()
    while waiting:
        name, nodes = waiting.pop()
        yield name, nodes
        for node in nodes:
            for attribute in node.attr.values():
                for called in [attribute.func, *attribute.list.func]:
                    function = library.get(called.name)
                    if function is None or called.name in seen:
                        continue
                    seen.add(called.name)
                    if not function.attr["_XlaMustCompile"].b:
                        waiting.append((called.name, function.node_def))


@functools.cache
def registered_kernels(operation):
    return list(kernels.get_registered_kernels_for_op(operation).kernel)


def has_gpu_kernel(node):
    """Whether TensorFlow has a kernel for GPUs of an operation and its types."""
    for kernel in registered_kernels(node.op):
        types = {limit.name: limit.allowed_values.list.type for limit in kernel.constraint}
        if kernel.device_type in ("GPU", "DEFAULT") and all(
            node.attr[name].type in allowed for name, allowed in types.items()
        ):
            return True
    return False


def operations_without_gpu_kernel(graph_def):
    """The operations outside of XLA, and their types, that a GPU would leave to the CPU."""
    return {
        (node.op, node.attr["T"].type, node.attr["Tparams"].type)
        for _, nodes in functions_outside_xla(graph_def)
        for node in nodes
        # Neither an argument nor a call, nor the text of an assertion, which the host keeps.
        if node.attr["dtype"].type != tf.string.as_datatype_enum
        and any(kernel.device_type == "CPU" for kernel in registered_kernels(node.op))
        and not has_gpu_kernel(node)
    }


def count_operations(graph_def):
    """The operations outside of XLA in the loop over the steps, of the device with the most."""
    bodies = [nodes for name, nodes in functions_outside_xla(graph_def) if "while_body" in name]
    by_device = collections.Counter(node.device for node in max(bodies, key=len))
    assert len(by_device) == 3  # two replicas', and those that are placed nowhere
    return max(by_device.values())


def test_a_gather_of_bytes_has_no_gpu_kernel():
    # Else the device cache need not be read as words.
    gathered = tf.function(lambda images: tf.gather(images, [0])).get_concrete_function(
        tf.TensorSpec((3, 4), tf.uint8)
    )
    [node] = [node for node in gathered.graph.as_graph_def().node if node.op == "GatherV2"]
    node.attr["Tparams"].type = tf.uint8.as_datatype_enum
    assert not has_gpu_kernel(node)


def test_a_classifier_does_not_scatter():
    steps = steps_of("dense", 1, "xla", wrap=lambda model: Classifier(model, 3))
    assert_no_scatter(hlo_of(steps, tf.constant(LABELS)))


@pytest.mark.parametrize("shape", [(8, 8, 1), (5, 5, 1)])
def test_cached_images_are_on_each_replicas_device_and_gathered_whole(shape):
    images = np.random.default_rng(0).integers(0, 256, (20, *shape), np.uint8)
    images[0] = 255  # words of these bytes are NaN
    indices = np.array([3, 0, 19, 3])
    cache = DeviceCache(strategy_of(2))
    assert cache.fill(images)
    assert [device[-5:] for device in cache.devices()] == ["CPU:0", "CPU:1"]
    for copy in strategy_of(2).experimental_local_results(cache.copies):
        for by_words in (True, False):
            gather = tf.function(cache.gather, jit_compile=not by_words)
            gathered = gather(copy, indices, by_words=by_words)
            np.testing.assert_array_equal(gathered.numpy(), images[indices])


def test_products_are_in_tensorfloat32_where_the_precision_says_so_alone():
    for precision in ("float32", "tensorfloat32", "bfloat16"):
        build_model(strategy_of(1), precision, lambda: keras.layers.Dense(1))
        enabled = tf.config.experimental.tensor_float_32_execution_enabled()
        assert enabled == (precision == "tensorfloat32")
