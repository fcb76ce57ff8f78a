"""python -m launch.local --workers=2 -- --config=… --workdir=…: several workers on this machine.

Each is a process of its own, found by TF_CONFIG on a free port, with its share of the GPUs. None
can go on without the others: where one dies all end, and all start again from the last checkpoint.
"""

import contextlib
import itertools
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO

from absl import flags

from launch import command
from trainer.errors import Preempted, UserError, require

_LEAVING_SECONDS = 300  # for the others, once one has finished or has been preempted
_DYING_SECONDS = 15  # for the others to see that one has died, and to say so
_TURN_SECONDS = 0.1

_LEAVING = (0, Preempted.exit_status)
_UNREAD = 128 + signal.SIGPIPE  # nobody reads what it writes
_FINAL = (*_LEAVING, UserError.exit_status, _UNREAD)

_WORKERS = flags.DEFINE_integer("workers", 2, "Processes, of which the first is the chief.", 1)
_MAX_RESTARTS = flags.DEFINE_integer("max_restarts", 3, "Times that all start again.", 0)


def main(trainer_flags: list[str]) -> int:
    """Trains on the workers; returns what they leave with."""
    on_cpu = (command.value_of(trainer_flags, "config.strategy") or "").startswith("cpu:")
    environments = shares([] if on_cpu else visible_gpus(), _WORKERS.value)
    trainer = [sys.executable, "-m", "trainer", *trainer_flags]
    return supervise(trainer, environments, _MAX_RESTARTS.value)


def visible_gpus() -> list[str]:
    """The machine's GPUs as CUDA_VISIBLE_DEVICES names them, or those that it allows."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        names = [name.strip() for name in allowed.split(",")]
        return list(itertools.takewhile(lambda name: name not in ("", "-1"), names))  # as CUDA does
    if not shutil.which("nvidia-smi"):
        return []
    listing = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    listed = subprocess.run(listing, capture_output=True, text=True, check=False)
    if listed.returncode:
        _say(f"nvidia-smi fails, so no GPU is used: {' '.join(listed.stdout.split())}")
        return []
    return listed.stdout.split()


def shares(gpus: Sequence[str], workers: int) -> list[dict[str, str]]:
    """Each worker's environment: as many of the GPUs as each other has.

    Raises:
      UserError: they cannot be shared out evenly.
    """
    require(
        len(gpus) % workers == 0,
        f"workers={workers} cannot share {len(gpus)} GPUs evenly; allowed: what divides them, or "
        "fewer GPUs by CUDA_VISIBLE_DEVICES",
    )
    each = len(gpus) // workers
    return [
        {"CUDA_VISIBLE_DEVICES": ",".join(gpus[index * each : (index + 1) * each])}
        for index in range(workers)
    ]


def supervise(
    command_line: Sequence[str], environments: Sequence[Mapping[str, str]], max_restarts: int
) -> int:
    """Runs a command once a worker, and again where one dies; a signal reaches each worker once.

    Returns 0 where all finish, 2 where one is refused, 75 where they are preempted, else the status
    of the first that died, as a shell tells it: 128 and the number of the signal.
    """
    with _received_signals() as received:
        for restart in range(max_restarts + 1):
            with _Group(command_line, environments) as group:
                status = group.wait(received)
            if status in _FINAL or received:
                return status
            if restart < max_restarts:
                _say(f"all start again, restart {restart + 1} of {max_restarts}")
    _say(f"given up after {max_restarts} restarts")
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
        self._processes: list[subprocess.Popen[str]] = []
        self._relays: list[threading.Thread] = []

    def __enter__(self) -> "_Group":
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it has started too
            process.wait()
        for relay in self._relays:
            relay.join()

    def _start(self) -> None:
        addresses = [f"127.0.0.1:{port}" for port in free_ports(len(self._environments))]
        for index, environment in enumerate(self._environments):
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            process = subprocess.Popen(
                self._command_line,
                env=os.environ | environment | {"TF_CONFIG": json.dumps(task)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,  # else a terminal's Ctrl-C would reach it besides
            )
            self._processes.append(process)
            for source, sink in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
                relay = threading.Thread(target=_relay, args=(source, f"[{index}] ", sink))
                relay.start()
                self._relays.append(relay)

    def wait(self, received: Sequence[int]) -> int:
        """Hands on the signals that are received, until all have ended or one must be killed."""
        ended: dict[int, int] = {}  # in the order in which they did
        delivered = 0
        deadline = math.inf
        while len(ended) < len(self._processes) and time.monotonic() < deadline:
            time.sleep(_TURN_SECONDS)
            for number in received[delivered:]:
                self._signal(number)
                delivered += 1
            for index, process in enumerate(self._processes):
                if index in ended or process.poll() is None:
                    continue
                status = process.returncode
                ended[index] = status
                patience = _LEAVING_SECONDS if status in _LEAVING else _DYING_SECONDS
                deadline = min(deadline, time.monotonic() + patience)
                if status < 0:
                    _say(f"worker {index} was ended by {_name_of(-status)}")
        for index in range(len(self._processes)):
            if index not in ended:
                _say(f"worker {index} does not end, now that another has; it is killed")
                ended[index] = -signal.SIGKILL
        return _of_all(list(ended.values()))

    def _signal(self, number: int) -> None:
        for process in self._processes:
            process.send_signal(number)


def _of_all(statuses: Sequence[int]) -> int:
    """What a group's end comes to, from the statuses of its workers in the order they ended."""
    died = [status for status in statuses if status not in _LEAVING]
    if UserError.exit_status in died:
        return UserError.exit_status
    first = died[0] if died else max(statuses)
    return first if first >= 0 else 128 - first


def _relay(source: IO[str], prefix: str, sink: IO[str]) -> None:
    # Where nobody reads what is written, the closed source tells the worker so.
    with source, contextlib.suppress(BrokenPipeError):
        for line in source:  # one that its writer did not end is ended here
            sink.write(f"{prefix}{line.rstrip()}\n")
            sink.flush()


def _name_of(number: int) -> str:
    """A signal's name, or its number where it has none."""
    return next((known.name for known in signal.Signals if known == number), f"signal {number}")


def _say(message: str) -> None:
    print(f"launch: {message}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _received_signals() -> Iterator[list[int]]:
    """The signals to stop that have come so far, which then do not end this process.

    A terminal that is closed sends SIGHUP, which the workers are told as SIGTERM; `nohup` has it
    ignored.
    """
    received: list[int] = []

    def receive(number, frame):
        del frame
        received.append(signal.SIGTERM if number == signal.SIGHUP else number)

    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    heeded = (signal.SIGTERM, signal.SIGINT, *(() if ignored else (signal.SIGHUP,)))
    before = {number: signal.signal(number, receive) for number in heeded}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    command.run(main)
