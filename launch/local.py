"""Trains on several processes of this machine: python -m launch.local --workers=2 -- FLAGS.

The processes are the workers of one MultiWorkerMirroredStrategy, named to each other by TF_CONFIG.
No worker can continue without the others: if one dies, all end and restart from the last
checkpoint.
"""

import contextlib
import json
import socket
import sys
from collections.abc import Mapping, Sequence

from absl import flags

from launch import arguments, gpus
from launch.supervisor import Command, Job, received_signals, supervise
from trainer.errors import Preempted

_WORKERS = flags.DEFINE_integer(
    "workers", 2, "Number of worker processes; worker 0 is the chief.", lower_bound=1
)
_MAX_RESTARTS = flags.DEFINE_integer(
    "max_restarts", 3, "How often all workers are restarted after crashes.", lower_bound=0
)


def main(trainer_flags: list[str]) -> int:
    """Trains on the workers; returns their exit status."""
    trainer = [sys.executable, "-m", "trainer", *trainer_flags]
    environments = gpus.environments(trainer_flags, "workers", _WORKERS.value)
    return run_workers(trainer, environments, _MAX_RESTARTS.value)


def run_workers(
    argv: Sequence[str], environments: Sequence[Mapping[str, str]], max_restarts: int
) -> int:
    """Runs a command once in each environment, as the workers of one cluster; see `supervise`."""

    def start(_: Mapping[str, str]) -> list[Command]:
        addresses = [f"127.0.0.1:{port}" for port in free_ports(len(environments))]
        cluster = {"worker": addresses}
        commands = []
        for index, environment in enumerate(environments):
            tf_config = {"cluster": cluster, "task": {"type": "worker", "index": index}}
            own = {**environment, "TF_CONFIG": json.dumps(tf_config)}
            commands.append(Command(str(index), argv, own))
        return commands

    job = Job("all workers", iter([start]))
    with received_signals() as received:
        statuses = supervise([job], [{}], max_restarts, received)
    return statuses.get(job.name, Preempted.exit_status)


def free_ports(count: int) -> list[int]:
    """Returns TCP ports of this machine that no process listens on."""
    with contextlib.ExitStack() as scope:
        listeners = [scope.enter_context(socket.create_server(("", 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in listeners]


if __name__ == "__main__":
    arguments.run(main)
