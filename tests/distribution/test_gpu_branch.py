"""What GPUs compute, seen without one: TensorFlow's GPU branch of tf.distribute on CPU devices."""

import collections
import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import kernels

from tests.all_configs import CONFIG_OF, load_config, tiny
from tests.gpu_branch import gpu_branch, gpu_strategy
from trainer import models
from trainer.distribution.strategy import build_model, make_strategy
from trainer.distribution.workers import Workers
from trainer.evaluation.classifier import Classifier
from trainer.train import make_steps

SIDE = 8
BATCH_SIZE = 8
KINDS = sorted(CONFIG_OF)
CONVOLUTIONAL = ("conv", "deep_conv", "denoising")
COMPILED = ("xla_update", "xla", "xla_products")
IMAGES = np.random.default_rng(0).integers(0, 256, (50, SIDE, SIDE, 1), np.uint8)
INDICES = np.random.default_rng(1).integers(0, len(IMAGES), (2, BATCH_SIZE), np.int32)
LABELS = np.random.default_rng(2).integers(0, 3, (2, BATCH_SIZE))
TOLERANCE = {"float32": 1e-5, "bfloat16": 3e-2, "float16": 3e-3}  # of the losses, relative


def cases():
    """Every kind, execution, precision and number of replicas.

    `make test` leaves out cases that differ from another only in their kind: several replicas
    compute what one does, and the sums, the update and the loss scaling do not depend on the kind.
    """
    for kind, precision in itertools.product(KINDS, TOLERANCE):
        for replicas, execution in itertools.product((1, 2), ("graph", *COMPILED)):
            if execution == "xla_products" and kind not in CONVOLUTIONAL:
                continue  # the same as xla
            if execution == "xla_update" and replicas == 2:
                continue  # the same as graph
            needed = kind == "dense" or (
                execution != "xla_update" if replicas == 1 else precision == "float32"
            )
            marks = () if needed else pytest.mark.gpu_compile
            yield pytest.param(kind, execution, precision, replicas, marks=marks)


@pytest.fixture(autouse=True)
def on_gpus():
    with gpu_branch():
        yield


@functools.cache
def strategy_of(replicas):
    """One strategy a process and number of devices, as `make_strategy` has it."""
    return gpu_strategy(replicas)


def steps_of(kind, replicas, execution, precision="float32", *, wrap=lambda model: model):
    """Steps of a tiny model of a kind, whose images are cached on the devices."""
    config = load_config(CONFIG_OF[kind])
    config.model.update(tiny(kind))
    config.batch_size = BATCH_SIZE
    config.precision = precision
    keras.utils.set_random_seed(0)
    strategy = strategy_of(replicas)
    create = lambda: wrap(models.create((SIDE, SIDE, 1), **config.model))  # noqa: E731
    model = build_model(strategy, precision, create)
    steps = make_steps(config, Workers(strategy), model, last_step=10)
    steps.set_execution(execution)
    assert steps.cache_on_device(IMAGES)
    return steps


def classifier_steps(replicas, execution):
    return steps_of("dense", replicas, execution, wrap=lambda model: Classifier(model, 3))


@functools.cache
def reference_losses(kind):
    """The losses of one replica by TensorFlow's own kernels in float32."""
    return steps_of(kind, 1, "graph").train(0, INDICES)["loss"]


@pytest.mark.parametrize(("kind", "execution", "precision", "replicas"), list(cases()))
def test_every_kind_trains_in_every_execution_and_precision(kind, execution, precision, replicas):
    steps = steps_of(kind, replicas, execution, precision)
    losses = steps.train(0, INDICES)["loss"]
    np.testing.assert_allclose(losses, reference_losses(kind), rtol=TOLERANCE[precision])
    for path, variable in steps.variables().items():
        values = strategy_of(replicas).experimental_local_results(variable.value)
        for value in values[1:]:
            np.testing.assert_array_equal(value.numpy(), values[0].numpy(), err_msg=path)


def test_networks_of_different_sizes_train_one_after_the_other_in_a_process():
    for kind in ("dense", "linear", "conv"):
        assert np.isfinite(steps_of(kind, 2, "xla").train(0, INDICES)["loss"]).all()
    assert make_strategy("cpu:2") is make_strategy("cpu:2")


@pytest.mark.parametrize("shape", [(8, 8, 1), (5, 5, 1), (7,)])
@pytest.mark.parametrize("by", ["graph", "xla"])
def test_cached_images_are_on_each_replicas_device_and_gathered_whole(shape, by):
    from trainer.distribution.device_cache import copy_to_replicas, gather_images

    images = np.random.default_rng(0).integers(0, 256, (20, *shape), np.uint8)
    images[0] = 255  # words of these bytes are NaN
    indices = np.array([3, 0, 19, 3])
    caches = strategy_of(2).experimental_local_results(copy_to_replicas(strategy_of(2), images))
    assert [cache.device[-5:] for cache in caches] == ["CPU:0", "CPU:1"]
    for cache in caches:
        gather = tf.function(
            lambda cache: gather_images(cache, indices, shape, by_words=by == "graph"),
            jit_compile=by == "xla",
        )
        np.testing.assert_array_equal(gather(cache).numpy(), images[indices])


@pytest.mark.parametrize("precision", ["float32", "tensorfloat32", "bfloat16"])
def test_products_are_in_tensorfloat32_where_the_precision_says_so_alone(precision):
    steps_of("linear", 1, "graph", precision)
    enabled = tf.config.experimental.tensor_float_32_execution_enabled()
    assert enabled == (precision == "tensorfloat32")


def training_function(steps, labels=None):
    """Returns the concrete function of a training call."""
    cache = steps._device_cache
    step = tf.constant(0, tf.int64)
    return steps.train_function.get_concrete_function(
        step, tf.constant(2), tf.constant(INDICES), cache, labels
    )


def functions_outside_xla(graph_def):
    """Yields the nodes of a graph and of its functions that XLA does not compile."""
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


def has_gpu_kernel(node):
    """Returns whether TensorFlow has a kernel for GPUs of an operation and its types."""
    for kernel in kernels.get_registered_kernels_for_op(node.op).kernel:
        types = {limit.name: limit.allowed_values.list.type for limit in kernel.constraint}
        if kernel.device_type in ("GPU", "DEFAULT") and all(
            node.attr[name].type in allowed for name, allowed in types.items()
        ):
            return True
    return False


def is_computed(node):
    """Returns whether a node is an operation with kernels, not an argument or a call."""
    registered = kernels.get_registered_kernels_for_op(node.op).kernel
    return any(kernel.device_type == "CPU" for kernel in registered)


@pytest.mark.parametrize("execution", ["graph", "xla_update", "xla"])
@pytest.mark.parametrize("kind", KINDS)
def test_all_operations_outside_xla_have_gpu_kernels(kind, execution):
    replicas = 1 if execution == "xla_update" else 2
    steps = steps_of(kind, replicas, execution)
    without = {
        (node.op, node.attr["T"].type, node.attr["Tparams"].type)
        for _, nodes in functions_outside_xla(training_function(steps).graph.as_graph_def())
        for node in nodes
        if is_computed(node) and not has_gpu_kernel(node)
    }
    assert not without


def test_a_gather_of_bytes_has_no_gpu_kernel():
    # Else the device cache need not be read as words.
    gathered = tf.function(lambda images: tf.gather(images, [0])).get_concrete_function(
        tf.TensorSpec((3, 4), tf.uint8)
    )
    [node] = [node for node in gathered.graph.as_graph_def().node if node.op == "GatherV2"]
    node.attr["Tparams"].type = tf.uint8.as_datatype_enum
    assert not has_gpu_kernel(node)


@pytest.mark.parametrize("kind", ["dense", "conv", "sparse", "vae"])
def test_several_replicas_leave_few_operations_to_tensorflow(kind):
    steps = steps_of(kind, 2, "xla")
    graph_def = training_function(steps).graph.as_graph_def()
    loop = max(
        (nodes for name, nodes in functions_outside_xla(graph_def) if "while_body" in name),
        key=len,
    )
    count_by_device = collections.Counter(node.device for node in loop)
    assert len(count_by_device) == 3  # two replicas', and those that are placed nowhere
    assert max(count_by_device.values()) <= 40


@pytest.mark.parametrize("kind", [*KINDS, "classifier"])
def test_no_kind_scatters(kind):
    # XLA on a GPU, where it is deterministic, makes a loop over single updates of a scatter.
    if kind == "classifier":
        steps, labels = classifier_steps(1, "xla"), tf.constant(LABELS)
    else:
        steps, labels = steps_of(kind, 1, "xla"), None
    hlo = steps.train_function.experimental_get_compiler_ir(
        tf.constant(0, tf.int64), tf.constant(2), tf.constant(INDICES), steps._device_cache, labels
    )(stage="hlo")
    assert "dot(" in hlo or "convolution(" in hlo
    assert " scatter(" not in hlo
    assert " select-and-scatter(" not in hlo
