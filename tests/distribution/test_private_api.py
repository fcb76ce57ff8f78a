"""The private names that the trainer uses are still there, after every update of a package."""

import ast
import inspect
from pathlib import Path

import keras
import tensorflow as tf
from keras.src.optimizers import base_optimizer
from tensorflow.python.distribute import collective_all_reduce_strategy, mirrored_strategy
from tensorflow.python.eager import context

from trainer.distribution import private_api

OWNERS = {
    "_all_reduce_sum_gradients": keras.optimizers.Optimizer,
    "_clip_gradients": keras.optimizers.Optimizer,
    "_apply_weight_decay": base_optimizer.BaseOptimizer,
    "_use_merge_call": mirrored_strategy.MirroredExtended,
    "_initialize_local_devices": collective_all_reduce_strategy.CollectiveAllReduceExtended,
    "_context_handle": context.context(),
}


def test_the_installed_releases_have_the_private_names_that_the_trainer_uses():
    tree = ast.parse(Path(inspect.getfile(private_api)).read_text())
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert {name for name in names if name.startswith("_")} == OWNERS.keys()
    for name, owner in OWNERS.items():
        package = keras if owner.__module__.startswith("keras") else tf
        assert hasattr(owner, name), (
            f"{package.__name__} {package.__version__} has no {name} of {owner} any more: "
            f"see what {private_api.__name__} uses it for"
        )
