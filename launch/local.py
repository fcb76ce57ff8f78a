"""python -m launch.local --workers=2 -- --config=… --workdir=…: several workers on this machine.

Each is a process of its own, found by TF_CONFIG on a free port, with its share of the GPUs. None
can go on without the others: where one dies all end, and all start again from the last checkpoint.
"""

import contextlib
import json
import math
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence

from absl import flags

from launch import arguments
from launch.processes import (
    LEAVING_SECONDS,
    TURN_SECONDS,
    Process,
    as_a_shell_tells,
    received_signals,
    say,
    say_what_ended,
    shares,
    visible_gpus,
)
from trainer.errors import Preempted, UserError

_DYING_SECONDS = 30  # for the others to see that one has died, and to say so

_LEAVING = (0, Preempted.exit_status)
_UNREAD = 128 + signal.SIGPIPE  # nobody reads what it writes
_FINAL = (*_LEAVING, UserError.exit_status, _UNREAD)

_WORKERS = flags.DEFINE_integer("workers", 2, "Processes, of which the first is the chief.", 1)
_MAX_RESTARTS = flags.DEFINE_integer("max_restarts", 3, "Times that all start again.", 0)


def main(trainer_flags: list[str]) -> int:
    """Trains on the workers; returns what they leave with."""
    on_cpu = (arguments.flag_value(trainer_flags, "config.strategy") or "").startswith("cpu:")
    environments = shares([] if on_cpu else visible_gpus(), _WORKERS.value)
    trainer = [sys.executable, "-m", "trainer", *trainer_flags]
    return supervise(trainer, environments, _MAX_RESTARTS.value)


def supervise(
    command_line: Sequence[str], environments: Sequence[Mapping[str, str]], max_restarts: int
) -> int:
    """Runs a command once a worker, and again where one dies; a signal reaches each worker once.

    Returns 0 where all finish, 2 where one is refused, 75 where they are preempted, else the status
    of the first that died, as a shell tells it: 128 and the number of the signal.
    """
    with received_signals() as received:
        for restart in range(max_restarts + 1):
            with _Group(command_line, environments) as group:
                status = group.wait(received)
            if status in _FINAL or received:
                return status
            if restart < max_restarts:
                say(f"all start again, restart {restart + 1} of {max_restarts}")
    say(f"given up after {max_restarts} restarts")
    return status


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody has."""
    with contextlib.ExitStack() as scope:
        listeners = [scope.enter_context(socket.create_server(("", 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in listeners]


class _Group:
    """The processes of all workers, started together; none of them outlives it."""

    def __init__(self, command_line: Sequence[str], environments: Sequence[Mapping[str, str]]):
        self._command_line = command_line
        self._environments = environments
        self._processes: list[Process] = []

    def __enter__(self) -> "_Group":
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._processes:
            process.send(signal.SIGKILL)  # to all at once, before the end of the first is awaited
        for process in self._processes:
            process.end()

    def _start(self) -> None:
        addresses = [f"127.0.0.1:{port}" for port in free_ports(len(self._environments))]
        for index, environment in enumerate(self._environments):
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            place = {"TF_CONFIG": json.dumps(task)}
            process = Process(self._command_line, {**environment, **place}, f"[{index}] ")
            self._processes.append(process)

    def wait(self, received: Sequence[int]) -> int:
        """Hands on the signals that are received, until all have ended or one must be killed."""
        ended: dict[int, int] = {}  # in the order in which they did
        delivered = 0
        deadline = math.inf
        while len(ended) < len(self._processes) and time.monotonic() < deadline:
            time.sleep(TURN_SECONDS)
            for number in received[delivered:]:
                for process in self._processes:
                    process.send(number)
                delivered += 1
            for index, process in enumerate(self._processes):
                status = process.status()
                if index in ended or status is None:
                    continue
                ended[index] = status
                patience = LEAVING_SECONDS if status in _LEAVING else _DYING_SECONDS
                deadline = min(deadline, time.monotonic() + patience)
                say_what_ended(f"worker {index}", status)
        for index in range(len(self._processes)):
            if index not in ended:
                say(f"worker {index} does not end, now that another has; it is killed")
                ended[index] = -signal.SIGKILL
        return _of_all(list(ended.values()))


def _of_all(statuses: Sequence[int]) -> int:
    """What a group's end comes to, from the statuses of its workers in the order they ended."""
    died = [status for status in statuses if status not in _LEAVING]
    if UserError.exit_status in died:
        return UserError.exit_status
    return as_a_shell_tells(died[0] if died else max(statuses))


if __name__ == "__main__":
    arguments.run(main)
