"""Plans what a check covers, everything on GPUs, a small form on a CPU; runs its cases."""

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.gpu_check.children import Budget, Case, Outcome, run

TRAININGS = "benchmarks.gpu_check.trainings"
UNINTERRUPTED = {"validate_every_steps": 0, "checkpoint_every_steps": 0, "figures": False}
_SMALL_KIND = "dense"  # the kind that a small check trains in every precision, and twice


@dataclasses.dataclass(frozen=True)
class Plan:
    """Holds the devices, the extent and the time of a check, and the folder of its workdirs."""

    gpus: int  # that TensorFlow finds; 0: a rehearsal on the CPU
    small: bool
    folder: Path
    budget: Budget
    processes: int = 1  # child processes at a time, where they measure no speed
    torch_python: str | None = None

    @property
    def devices(self) -> int:
        """Returns the devices of the largest training: all GPUs, or two logical CPUs."""
        return self.gpus or 2

    @property
    def steps(self) -> int:
        """Returns the steps of a training."""
        return 20 if self.small else 100

    @property
    def seconds(self) -> float:
        """Returns the seconds for which a rate is measured."""
        return 0.1 if self.small else 1.5

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Returns the batch sizes at which rates are measured."""
        return (128,) if self.small else (128, 1024, 8192)

    def covered(self, kinds: Sequence[str]) -> list[str]:
        """Returns the kinds that are trained in every precision, and twice in float32."""
        return [kind for kind in kinds if not self.small or kind == _SMALL_KIND]

    def gpus_visible(self, count: int) -> dict[str, str]:
        """Returns the environment of a child process that sees the first `count` GPUs."""
        numbers = ",".join(map(str, range(count)))
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", numbers).split(",")
        return {"CUDA_VISIBLE_DEVICES": ",".join(visible[:count])} if self.gpus else {}

    def run(
        self,
        cases: Sequence[Case],
        environment: Mapping[str, str] | None = None,
        python: str = sys.executable,
    ) -> list[Outcome]:
        """Runs cases in a child process that sees one GPU, or has another environment."""
        variables = self.gpus_visible(1) if environment is None else environment
        return run(cases, self.budget, environment=variables, python=python)

    def train_case(self, net: str, precision: str, label: str, **changes: object) -> Case:
        """Returns the training of a net, in a workdir named by net, precision and label.

        `steps` and `workdir` replace the defaults; other keyword arguments change the config.
        """
        steps = changes.pop("steps", self.steps)
        workdir = changes.pop("workdir", self.folder / f"{net}-{precision}-{label}")
        strategy = {} if self.gpus else {"strategy": "cpu:1"}
        arguments = {
            "net": net,
            "workdir": str(workdir),
            "steps": steps,
            "changes": strategy | {"precision": precision} | changes,
        }
        return Case(f"{net} in {precision}, {label}", f"{TRAININGS}:train", arguments)

    def rate_case(self, net: str, batch_size: int, **settings: object) -> Case:
        """Returns the measurement of a net's images per second."""
        arguments = {"net": net, "batch_size": batch_size, "seconds": self.seconds} | settings
        shown = ", ".join(f"{name} {value}" for name, value in settings.items())
        return Case(
            f"rate of {net} at {batch_size}{shown and f', {shown}'}", f"{TRAININGS}:rate", arguments
        )
