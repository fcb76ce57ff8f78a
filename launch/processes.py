"""What starts processes on this machine: their share of its GPUs, their lines, their signals."""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import IO

from trainer.errors import require

LEAVING_SECONDS = 300  # that a process may take to write a checkpoint and end
TURN_SECONDS = 0.1  # between two looks at what has become of the processes


class Process:
    """A command under way, whose lines appear among this process's, each behind a prefix."""

    def __init__(self, command_line: Sequence[str], environment: Mapping[str, str], prefix: str):
        self._process = subprocess.Popen(
            command_line,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # else a terminal's Ctrl-C would reach it besides
        )
        # The system closes the pipe of a launcher that is killed, and so its processes hear of it.
        self._guard = subprocess.Popen(
            ["sh", "-c", 'read -r _; kill -TERM "$0"', str(self._process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._relays = []
        for source, sink in (
            (self._process.stdout, sys.stdout),
            (self._process.stderr, sys.stderr),
        ):
            relay = threading.Thread(target=_relay, args=(source, prefix, sink))
            relay.start()
            self._relays.append(relay)

    def status(self) -> int | None:
        """What it has left with, below 0 if a signal ended it; None while it runs."""
        return self._process.poll()

    def send(self, number: int) -> None:
        """Sends it a signal, unless it has ended."""
        self._process.send_signal(number)

    def end(self) -> None:
        """Kills what still runs of it and of what it started; returns after its last line."""
        self._guard.kill()
        self._guard.communicate()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for relay in self._relays:
            relay.join()


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
        say(f"nvidia-smi fails, so no GPU is used: {' '.join(listed.stdout.split())}")
        return []
    return listed.stdout.split()


def shares(gpus: Sequence[str], count: int, flag: str = "workers") -> list[dict[str, str]]:
    """The environment of each of so many processes: as many of the GPUs as each other has.

    Raises:
      UserError: they cannot be shared out evenly; it names the flag that asks for so many.
    """
    require(
        len(gpus) % count == 0,
        f"{flag}={count} cannot share {len(gpus)} GPUs evenly; allowed: what divides them, or "
        "fewer GPUs by CUDA_VISIBLE_DEVICES",
    )
    each = len(gpus) // count
    return [
        {"CUDA_VISIBLE_DEVICES": ",".join(gpus[index * each : (index + 1) * each])}
        for index in range(count)
    ]


@contextlib.contextmanager
def received_signals() -> Iterator[list[int]]:
    """The signals to stop that have come so far, which then do not end this process.

    A terminal that is closed sends SIGHUP, which is told as SIGTERM; `nohup` has it ignored.
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


def as_a_shell_tells(status: int) -> int:
    """A status, where a signal ended the process 128 and the number of the signal."""
    return status if status >= 0 else 128 - status


def say_what_ended(name: str, status: int) -> None:
    """Names the signal that ended a process, if one did."""
    if status < 0:
        names = {known.value: known.name for known in signal.Signals}
        say(f"{name} was ended by {names.get(-status, f'signal {-status}')}")


def say(message: str) -> None:
    """Writes a line of the launcher's own."""
    print(f"launch: {message}", file=sys.stderr, flush=True)


def _relay(source: IO[str], prefix: str, sink: IO[str]) -> None:
    # Where nobody reads what is written, the closed source tells the process so.
    with source, contextlib.suppress(BrokenPipeError):
        for line in source:  # one that its writer did not end is ended here
            sink.write(f"{prefix}{line.rstrip()}\n")
            sink.flush()
