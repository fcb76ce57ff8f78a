"""The keys of every run: those of a kind and of a data source are declared beside these."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from ml_collections import ConfigDict

from trainer.config.schema import Group, key
from trainer.errors import require

EXECUTIONS = ("graph", "xla_update", "xla", "xla_products")


@dataclasses.dataclass(frozen=True)
class Optimizer(Group):
    """How the weights are updated."""

    name: str = key(
        "adam", "Optimizer of Keras.", choices=("adam", "adamw", "sgd", "rmsprop", "adadelta")
    )
    learning_rate: float = key(1e-3, "Highest learning rate of the schedule.", at_least=0)
    schedule: str = key(
        "cosine",
        "Course of the learning rate; cosine falls to 0 at the last step.",
        choices=("constant", "cosine"),
    )
    warmup_steps: int = key(
        0, "Steps in which the learning rate rises linearly from 0 before the schedule.", at_least=0
    )
    clip_norm: float = key(
        0.0, "Largest global norm of the gradient, which is scaled down to it; 0: any.", at_least=0
    )
    weight_decay: float = key(
        0.0,
        "Weight decay, decoupled from the gradient and times the learning rate.",
        at_least=0,
    )


@dataclasses.dataclass(frozen=True)
class LossSpikes(Group):
    """What a run does when its loss suddenly rises."""

    loss_ratio: float = key(
        0.0,
        "Roll back where the loss exceeds this many times its running mean; 0: never.",
        at_least=0,
        may_change=True,
        is_hyperparameter=True,
    )
    skip_steps: int = key(
        10,
        "Steps left out after a roll-back, the last of them the one with the spike.",
        at_least=1,
        may_change=True,
        is_hyperparameter=True,
    )
    max_rollbacks: int = key(
        10,
        "Roll-backs after which the next spike ends the run.",
        at_least=1,
        may_change=True,
        is_hyperparameter=True,
    )

    def check(self) -> None:
        require(
            self.loss_ratio == 0 or self.loss_ratio > 1,
            f"spikes.loss_ratio={self.loss_ratio} is not allowed; it must be above 1, or 0: never",
        )


@dataclasses.dataclass(frozen=True)
class Data(Group):
    """The keys that every data source takes; a source's `Settings` add its own."""

    name: str = key(
        "digits",
        "Data source: digits, noise:N, images:DIR, table:FILE, arrays:FILE, or a data set of TFDS. "
        "The path of files may change on a resume.",
    )
    image_size: int = key(
        0,
        "Side in pixels of the square that images are resized to; 0: as they are.",
        at_least=0,
        at_most=16_384,
    )
    validation_fraction: float = key(
        0.05, "Share of the training split held out for validation.", above=0, below=1
    )
    resplit_test: float = key(
        0.0,
        "Use the test split alone, and this share of it for testing; 0: use all splits.",
        at_least=0,
        below=1,
    )
    placement: str = key(
        "auto",
        "Where the training images lie; records stay in their files, auto takes what fits.",
        choices=("auto", "device", "host", "records"),
        may_change=True,
    )
    memory_gib: float = key(
        0.0,
        "Memory of the host for images, in GiB; 0: most of what is free.",
        at_least=0,
        may_change=True,
    )
    standardise: bool = key(
        False, "Standardise the features of vectors by mean and std of the training split."
    )
    binarise: bool = key(
        False, "Draw each pixel once for all as 0 or 1, by its intensity: static binarisation."
    )


@dataclasses.dataclass(frozen=True)
class ModelSettings(Group):
    """The keys of every kind of autoencoder; the `Settings` of a kind add its own."""

    # Values with which the kind takes vectors of any numbers; None: it takes images alone.
    for_vectors: ClassVar[Mapping[str, Any] | None] = {}

    name: str = key("dense", "Kind of autoencoder, a package in trainer/models.")

    def check_with(self, data: Data) -> None:
        """Raises UserError where a key contradicts those of the data."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Group):
    """All keys of a run."""

    model: ModelSettings
    data: Data
    optimizer: Optimizer
    spikes: LossSpikes
    seed: int = key(
        0,
        "Seed of the weights, the order of the examples and the noise.",
        at_least=0,
        at_most=2**32 - 1,  # NumPy's limit
    )
    num_epochs: float = key(
        10.0,
        "Passes over the training examples; a cosine schedule ends with them.",
        above=0,
        may_change=True,
        is_hyperparameter=True,
    )
    batch_size: int = key(128, "Examples in a step, over all replicas together.", at_least=1)
    strategy: str = key(
        "auto",
        "Devices: auto (the GPUs of all workers, or their CPUs), mirrored, multi_worker, or cpu:N "
        "for N logical CPUs.",
        may_change=True,
    )
    startup_timeout_seconds: float = key(
        300.0,
        "How long several workers wait for each other at the start.",
        above=0,
        may_change=True,
    )
    precision: str = key(
        "float32",
        "Precision of the layers; tensorfloat32 needs GPUs, float16 scales the loss.",
        choices=("float32", "tensorfloat32", "bfloat16", "float16"),
    )
    execution: str = key(
        "auto",
        "How steps are compiled; auto chooses by model and devices, measure times each way.",
        choices=("auto", "measure", *EXECUTIONS),
    )
    deterministic: bool = key(
        True, "Compute the same bits each time; on a GPU at some cost of speed."
    )
    profile: str = key(
        "",
        'Trace these steps for TensorBoard\'s profiler, as "100:120"; "": none.',
        may_change=True,
    )
    steps_per_call: int = key(
        0,
        "Steps run without returning to the host; 0: as many as take half a second.",
        at_least=0,
        may_change=True,
    )
    log_every_steps: int = key(
        100, "Log the training losses every N steps.", at_least=1, may_change=True
    )
    validate_every_steps: int = key(
        1000,
        "Validate and write a checkpoint every N steps; 0: only at the end.",
        at_least=0,
        may_change=True,
    )
    checkpoint_every_steps: int = key(
        1000,
        "Write a checkpoint every N steps; 0: only when validated and when stopped.",
        at_least=0,
        may_change=True,
    )
    keep_checkpoints: int = key(
        3,
        "Newest checkpoints to keep, besides the best on validation.",
        at_least=1,
        may_change=True,
    )
    histograms: bool = key(
        False,
        "Log histograms of the weights at validations; less often after the first 127.",
        may_change=True,
    )
    figures: bool = key(
        True,
        "Log images of reconstructions at validations; less often after the first 127.",
        may_change=True,
    )
    quiet: bool = key(False, "Print nothing and show no progress bar.", may_change=True)

    def __str__(self) -> str:
        """Returns all keys and values as YAML."""
        return str(ConfigDict(self.to_dict()))

    def to_dict(self) -> dict[str, Any]:
        """Returns the keys and values as nested dicts, which `parse` reads."""
        return dataclasses.asdict(self)

    def check(self) -> None:
        known = re.fullmatch(r"auto|mirrored|multi_worker|cpu:0*[1-9]\d*", self.strategy)
        require(
            known is not None,
            f"strategy={self.strategy!r} is not known; allowed: auto, mirrored, multi_worker, "
            "cpu:N with N at least 1",
        )
        steps = re.fullmatch(r"(\d+):(\d+)", self.profile)
        require(
            self.profile == "" or (steps is not None and int(steps[1]) < int(steps[2])),
            f"profile={self.profile!r} is not allowed; it takes first:last, as 100:120",
        )
        self.model.check_with(self.data)
