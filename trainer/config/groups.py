"""Declares the keys of every run; each kind and each data source declares its own keys."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from ml_collections import ConfigDict

from trainer.config.optimizer import Averaging, Optimizer
from trainer.config.pretraining import Pretrain, phase_ends
from trainer.config.schema import Group, key
from trainer.errors import require

EXECUTIONS = ("graph", "xla_update", "xla", "xla_products")
_MAX_STEPS = 2**62  # more than a run can count


@dataclasses.dataclass(frozen=True)
class LossSpikes(Group):
    """Declares what a run does when its loss suddenly rises."""

    loss_ratio: float = key(
        0.0,
        "Roll back where the loss exceeds this many times its running mean; 0: never.",
        at_least=0,
        may_change=True,
        is_hyperparameter=True,
    )
    skip_steps: int = key(
        10,
        "Steps to skip after a roll-back, up to and including the step with the spike.",
        at_least=1,
        may_change=True,
        is_hyperparameter=True,
    )
    max_rollbacks: int = key(
        10,
        "Number of roll-backs after which the next spike ends the run.",
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
class Stop(Group):
    """Declares when a run ends before its last step."""

    patience_validations: int = key(
        0,
        "End after this many validations in a row without a lower loss; 0: never.",
        at_least=0,
        may_change=True,
        is_hyperparameter=True,
    )
    min_delta: float = key(
        0.0,
        "Decrease of the validation loss below which it does not count as lower.",
        at_least=0,
        may_change=True,
        is_hyperparameter=True,
    )


@dataclasses.dataclass(frozen=True)
class Augment(Group):
    """Declares how training images are changed at random, each time that a run sees them."""

    flip: bool = key(False, "Mirror an image left to right with probability 1/2.")
    shift_pixels: int = key(
        0,
        "Shift by up to this many pixels in each direction; the nearest pixel fills the border.",
        at_least=0,
    )
    zoom: float = key(
        0.0, "Zoom into the centre: crop up to this share of the sides.", at_least=0, below=1
    )
    brightness: float = key(
        0.0,
        "Add up to plus or minus this to all pixels, which are in [0, 1].",
        at_least=0,
        at_most=1,
    )
    contrast: float = key(
        0.0,
        "Multiply the differences from each channel's mean by 1 plus or minus up to this.",
        at_least=0,
        at_most=1,
    )
    channel_gain: float = key(
        0.0, "Multiply each channel by 1 plus or minus up to this.", at_least=0, at_most=1
    )

    @property
    def is_active(self) -> bool:
        """Returns whether any image is changed."""
        return self != Augment()

    def check_images(self, image_shape: tuple[int, ...]) -> None:
        """Raises UserError unless examples of this shape can be changed so."""
        for name, value in self._changes().items():
            require(
                len(image_shape) > 1,
                f"augment.{name}={value} is not allowed for vectors; only images are augmented. "
                f"--config.augment.{name}={type(value)()} turns it off; "
                "--config=table is for tables",
            )
        smallest = min(image_shape[:2])
        require(
            self.shift_pixels < smallest,
            f"augment.shift_pixels={self.shift_pixels} is not allowed; the images have sides of "
            f"{' and '.join(map(str, image_shape[:2]))} pixels, which allow up to {smallest - 1}",
        )

    def check_with(self, data: "Data") -> None:
        """Raises UserError where a key contradicts a key of the data."""
        for name, value in self._changes().items():
            require(
                not data.binarise or name in ("flip", "shift_pixels"),
                f"augment.{name}={value} is not allowed with data.binarise=True, whose pixels stay "
                "0 or 1; augment.flip and augment.shift_pixels are",
            )

    def _changes(self) -> dict[str, Any]:
        return {name: value for name, value in dataclasses.asdict(self).items() if value}


@dataclasses.dataclass(frozen=True)
class Data(Group):
    """Declares the keys that every data source takes; a source's `Settings` add its own."""

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
        "Where the training images are kept; records: in their files; auto: the first that fits.",
        choices=("auto", "device", "host", "records"),
        may_change=True,
    )
    memory_gib: float = key(
        0.0,
        "Host memory for images, in GiB; 0: 80 % of what is free.",
        at_least=0,
        may_change=True,
    )
    standardise: bool = key(
        False, "Standardise the features of vectors by mean and std of the training split."
    )
    binarise: bool = key(
        False,
        "Draw each pixel once as 0 or 1, with its intensity as probability: static binarisation.",
    )


@dataclasses.dataclass(frozen=True)
class ModelSettings(Group):
    """Declares the key that all kinds of autoencoder share; the `Settings` of a kind add others."""

    # Settings with which the kind takes vectors of any values; None: the kind takes only images.
    for_vectors: ClassVar[Mapping[str, Any] | None] = {}

    name: str = key(
        "dense",
        "Kind of autoencoder: a package in trainer/models, or my_package.my_kind.",
    )
    output_bias: str = key(
        "zeros",
        "Initial bias of the last layer; data: the mean training example through the inverse of "
        "the output activation.",
        choices=("zeros", "data"),
    )

    def check_with(self, data: Data) -> None:
        """Raises UserError where a key contradicts a key of the data."""

    def check_training(self, *, averages: bool, trims: bool) -> None:
        """Raises UserError where the kind excludes averaged weights or a trimmed loss."""

    def notes(self, steps: int) -> Iterator[str]:
        """Yields remarks on a training of this many steps with these keys."""
        del steps
        yield from ()

    def stacked_layers(self) -> int:
        """Returns the number of layers to pretrain, or raises UserError; 0: not of this kind."""
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Group):
    """Holds all keys of a run."""

    model: ModelSettings
    data: Data
    optimizer: Optimizer
    spikes: LossSpikes
    stop: Stop
    augment: Augment
    averaging: Averaging
    pretrain: Pretrain
    seed: int = key(
        0,
        "Seed of the weights, the order of the examples and the noise.",
        at_least=0,
        at_most=2**32 - 1,  # NumPy's limit
    )
    budget: str = key(
        "fixed",
        "auto: num_epochs, batch_size, optimizer.warmup_steps and validate_every_steps follow from "
        "the number of training examples where they are 0.",
        choices=("fixed", "auto"),
    )
    num_epochs: float = key(
        10.0,
        "Passes over the training examples; falling schedules span all of them.",
        at_least=0,
        may_change=True,
        is_hyperparameter=True,
    )
    batch_size: int = key(128, "Examples in a step, over all replicas together.", at_least=0)
    trim_share: float = key(
        0.0,
        "Share of each batch, of the largest losses, left out of the gradient so that anomalies in "
        "the training data are not learnt; 0: none.",
        at_least=0,
        below=1,
    )
    strategy: str = key(
        "auto",
        "Devices: auto (the GPUs of all workers, or their CPUs), mirrored, multi_worker, or cpu:N "
        "for N logical CPUs.",
        may_change=True,
    )
    startup_timeout_seconds: float = key(
        300.0,
        "Seconds that several workers wait for each other at the start.",
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
        "How steps are compiled; auto chooses by model and devices, measure by timing.",
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
        "Steps per call, which does not return to the host; 0: as many as take half a second.",
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
        "Number of newest checkpoints to keep, besides the best on validation.",
        at_least=1,
        may_change=True,
    )
    checkpoint: str = key(
        "last",
        "Checkpoint that other commands use by default; best: of the lowest validation loss.",
        choices=("last", "best"),
        may_change=True,
    )
    histograms: bool = key(
        False,
        "Log histograms of the weights at validations; less often after the first 127.",
        may_change=True,
    )
    tensorboard: bool = key(
        True,
        "Write TensorBoard's event files of the training, with its histograms and figures.",
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

    def last_step(self, examples: int) -> int:
        """Returns the number of steps of a run on this many examples, including pretraining."""
        return phase_ends(self, examples)[-1]

    def boundaries_steps(self, examples: int) -> tuple[int, ...]:
        """Returns the first step at or after each boundary of a step schedule."""
        epochs = self.optimizer.boundaries_epochs
        return tuple(self.steps_in(boundary, examples) for boundary in epochs)

    def steps_in(self, epochs: float, examples: int) -> int:
        """Returns the number of steps in this many passes over the training examples."""
        return math.ceil(min(epochs * examples / self.batch_size, _MAX_STEPS))

    @property
    def profile_steps(self) -> tuple[int, ...]:
        """Returns the first step of the trace and the step after its last; () without a trace."""
        match = re.fullmatch(r"(\d+):(\d+)", self.profile)
        return (int(match[1]), int(match[2])) if match else ()

    def check(self) -> None:
        known = re.fullmatch(r"auto|mirrored|multi_worker|cpu:0*[1-9]\d*", self.strategy)
        require(
            known is not None,
            f"strategy={self.strategy!r} is not known; allowed: auto, mirrored, multi_worker, "
            "cpu:N with N at least 1",
        )
        for name, value in (("num_epochs", self.num_epochs), ("batch_size", self.batch_size)):
            require(
                value > 0 or self.budget == "auto",
                f"{name}={value} is not allowed; it must be above 0, or budget='auto'",
            )
        window = self.profile_steps
        require(
            self.profile == "" or (len(window) == 2 and window[0] < window[1]),
            f"profile={self.profile!r} is not allowed; it takes first:last, as 100:120",
        )
        self.model.check_with(self.data)
        self.model.check_training(averages=self.averaging.is_active, trims=self.trim_share > 0)
        self.augment.check_with(self.data)
        self.pretrain.check_with(self.model)

    @property
    def keys_set_by_budget(self) -> frozenset[str]:
        """Returns the dotted names of the keys that are 0 for budget=auto to set."""
        values = {
            "batch_size": self.batch_size,
            "num_epochs": self.num_epochs,
            "optimizer.warmup_steps": self.optimizer.warmup_steps,
            "validate_every_steps": self.validate_every_steps,
        }
        auto = self.budget == "auto"
        return frozenset(name for name, value in values.items() if auto and value == 0)
