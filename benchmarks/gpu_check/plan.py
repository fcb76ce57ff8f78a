"""What a check covers: in full on GPUs, in small on a CPU, with the processes it runs."""

import dataclasses
import os
from pathlib import Path

from benchmarks.gpu_check.children import Budget, Case

TRAININGS = "benchmarks.gpu_check.trainings"


@dataclasses.dataclass(frozen=True)
class Plan:
    """The devices, the extent, the time, and where trainings leave their workdirs."""

    gpus: int  # that TensorFlow finds; 0: a rehearsal on the CPU
    small: bool
    folder: Path
    budget: Budget
    processes: int = 1  # child processes at a time, where they measure no speed
    torch_python: str | None = None

    @property
    def devices(self) -> int:
        """Return the devices of the largest training: all GPUs, or two logical CPUs."""
        return self.gpus or 2

    @property
    def steps(self) -> int:
        """Return the steps of a training that is checked."""
        return 20 if self.small else 100

    @property
    def seconds(self) -> float:
        """Return how long a rate is measured."""
        return 0.1 if self.small else 1.5

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Return the batch sizes at which rates are measured."""
        return (128,) if self.small else (128, 1024, 8192)

    def one_gpu(self) -> dict[str, str]:
        """Return the environment of a child process that sees only the first GPU."""
        return self.first_gpus(1)

    def first_gpus(self, count: int) -> dict[str, str]:
        """Return the environment of a child process that sees `count` GPUs."""
        numbers = ",".join(map(str, range(count)))
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", numbers).split(",")
        return {"CUDA_VISIBLE_DEVICES": ",".join(visible[:count])} if self.gpus else {}

    def train_case(self, net: str, precision: str, label: str, **changes: object) -> Case:
        """Return the training of a net, in a workdir named by it, the precision and the label.

        `steps` and `workdir` among the changes say how far and where, if not as usual.
        """
        steps = changes.pop("steps", self.steps)
        folder = changes.pop("workdir", self.folder / f"{net}-{precision}-{label}")
        strategy = {} if self.gpus else {"strategy": "cpu:1"}
        arguments = {
            "net": net,
            "folder": str(folder),
            "steps": steps,
            "changes": strategy | {"precision": precision} | changes,
        }
        return Case(f"train {net} {precision} {label}", f"{TRAININGS}:train", arguments)
