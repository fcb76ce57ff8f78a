"""Runs jobs of one or more processes on this machine, restarts crashed ones, passes signals on.

A launcher has a single thread: Linux sends PR_SET_PDEATHSIG at the end of each thread of a parent,
and a trainer that gets a second SIGTERM does not wait for its checkpoint.
"""

import codecs
import collections
import contextlib
import ctypes
import io
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple, Protocol

from trainer.errors import Preempted, UserError

_EXIT_SECONDS = 300  # for a process to write a checkpoint and exit, once signalled or left alone
_CRASH_SECONDS = 30  # for the other processes to notice a crash of one of them and to report it
_POLL_SECONDS = 0.1
_READ_BYTES = 2**16  # of a process's output at a time
_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
_LIBC = ctypes.CDLL(None)

_CLEAN = (0, Preempted.exit_status)
_OUTPUT_CLOSED = 128 + signal.SIGPIPE
_NEVER_RESTARTED = (*_CLEAN, UserError.exit_status, _OUTPUT_CLOSED)


class Command(NamedTuple):
    """Describes a process to start, whose lines are printed after `[name] `."""

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]  # added to the launcher's


class Process(Protocol):
    """Controls a started command, as subprocess.Popen does."""

    stdout: Any  # unbuffered binary streams
    stderr: Any

    @property
    def pid(self) -> int | None:
        """Returns the process id; None before the process is there."""

    def poll(self) -> int | None:
        """Returns the exit status, negative for a signal, or None while it runs."""

    def wait(self) -> int:
        """Waits for the end; returns the exit status."""

    def send_signal(self, number: int, /) -> None:
        """Sends a signal, unless the process has ended."""


class Job(NamedTuple):
    """Describes stages that run one after the other; the commands of a stage restart together.

    A stage is called at each start, with the environment of the job, and returns its commands. The
    next stage is taken from the iterator only once the stage before has finished.
    """

    name: str
    stages: Iterator[Callable[[Mapping[str, str]], Sequence[Command]]]


def start_process(command: Command) -> Process:
    """Starts a command as a process in a session of its own."""
    return subprocess.Popen(
        command.argv,
        env=os.environ | command.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,  # otherwise Ctrl-C in a terminal reaches the process twice
        preexec_fn=_terminate_with_launcher,
    )


def supervise(
    jobs: Sequence[Job],
    environments: Sequence[Mapping[str, str]],
    max_restarts: int,
    received: Sequence[int],
    start: Callable[[Command], Process] = start_process,
) -> dict[str, int]:
    """Runs as many jobs at a time as there are environments, each in one of them.

    A stage that crashes is restarted, at most `max_restarts` times per job. A job that fails does
    not end the others. `received` grows by the signals that reach the launcher: each is sent once
    to every process, and no process is started after the first.

    Returns the exit status of each job that was started: 0 where all stages finished, 2 where a
    process was refused, otherwise the status of the first process that crashed, else 75. A signal
    that ended a process counts as 128 plus its number, as in a shell.
    """
    waiting = collections.deque(jobs)
    free = list(environments)
    running: list[_RunningJob] = []
    statuses: dict[str, int] = {}
    sent = 0
    try:
        while running or (waiting and not received):
            while waiting and free and not received:
                running.append(_RunningJob(waiting.popleft(), free.pop(0), max_restarts, start))
            time.sleep(_POLL_SECONDS)
            for number in received[sent:]:
                for job in running:
                    job.group.send(number)
                sent += 1
            for job in list(running):
                status = job.poll(stopping=bool(received))
                if status is not None:
                    statuses[job.name] = status
                    running.remove(job)
                    free.append(job.environment)
    finally:
        for job in running:
            job.group.kill()
    return statuses


@contextlib.contextmanager
def received_signals() -> Iterator[list[int]]:
    """Collects SIGTERM, SIGINT and SIGHUP in a list instead of ending this process.

    SIGHUP, which a closed terminal sends, is listed as SIGTERM; under `nohup` it stays ignored.
    """
    received: list[int] = []

    def receive(number, frame):
        del frame
        received.append(signal.SIGTERM if number == signal.SIGHUP else number)

    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    numbers = (signal.SIGTERM, signal.SIGINT, *(() if ignored else (signal.SIGHUP,)))
    before = {number: signal.signal(number, receive) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say(message: str) -> None:
    """Prints a line of the launcher itself to stderr."""
    print(f"launch: {message}", file=sys.stderr, flush=True)


class _RunningJob:
    """Runs a job: its current stage, restarts included."""

    def __init__(
        self,
        job: Job,
        environment: Mapping[str, str],
        max_restarts: int,
        start: Callable[[Command], Process],
    ):
        self.name = job.name
        self.environment = environment
        self._stages = job.stages
        self._restarts, self._max_restarts = 0, max_restarts
        self._start = start
        self._stage = next(job.stages)
        self.group = _Group(self._stage(environment), start)

    def poll(self, stopping: bool) -> int | None:
        """Restarts or advances the stage if its processes have ended; returns the job's status."""
        status = self.group.poll()
        if status is None or stopping:
            return status
        if status == 0:
            following = next(self._stages, None)
            if following is None:
                return 0
            self._stage = following
        elif status in _NEVER_RESTARTED:
            return status
        elif self._restarts == self._max_restarts:
            say(f"giving up on {self.name} after {self._restarts} restarts")
            return status
        else:
            self._restarts += 1
            say(f"restarting {self.name}, restart {self._restarts} of {self._max_restarts}")
        self.group = _Group(self._stage(self.environment), self._start)
        return None


class _Group:
    """Runs processes that start and end together."""

    def __init__(self, commands: Sequence[Command], start: Callable[[Command], Process]):
        self._processes: list[_Process] = []
        self._statuses: dict[_Process, int] = {}  # in the order in which they ended
        self._deadline = math.inf
        try:
            for command in commands:
                self._processes.append(_Process(command.name, start(command)))
        except BaseException:
            self.kill()
            raise

    def send(self, number: int) -> None:
        """Sends a signal to each process that still runs."""
        for process in self._processes:
            process.send(number)
        self._allow(_EXIT_SECONDS)

    def poll(self) -> int | None:
        """Returns the status of the group once all processes have ended or been killed."""
        for process in self._processes:
            status = process.poll()
            if status is not None and process not in self._statuses:
                self._statuses[process] = status
                self._allow(_EXIT_SECONDS if status in _CLEAN else _CRASH_SECONDS)
                _report_signal(process.name, status)
        if time.monotonic() >= self._deadline:
            for process in self._processes:
                if process not in self._statuses:
                    say(f"[{process.name}] does not end and is killed")
                    self._statuses[process] = -signal.SIGKILL
        if len(self._statuses) < len(self._processes):
            return None
        self.kill()
        return _group_status(list(self._statuses.values()))

    def kill(self) -> None:
        """Kills the processes and what they have started; returns after their last line."""
        for process in self._processes:
            process.send(signal.SIGKILL)  # to every process before waiting for the first
        for process in self._processes:
            process.kill()

    def _allow(self, seconds: float) -> None:
        self._deadline = min(self._deadline, time.monotonic() + seconds)


class _Process:
    """Relays the lines of a process to the launcher's own stdout and stderr."""

    def __init__(self, name: str, popen: Process):
        self.name = name
        self._popen = popen
        self._relays = [
            _Relay(popen.stdout, f"[{self.name}] ", sys.stdout),
            _Relay(popen.stderr, f"[{self.name}] ", sys.stderr),
        ]

    def poll(self) -> int | None:
        """Relays output; returns the exit status, negative for a signal, or None while it runs."""
        for relay in self._relays:
            relay.copy()
        return self._popen.poll()

    def send(self, number: int) -> None:
        """Sends a signal, unless the process has ended."""
        self._popen.send_signal(number)

    def kill(self) -> None:
        """Kills the process and what it has started; returns after its last line."""
        if self._popen.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()
        for relay in self._relays:
            relay.close()


class _Relay:
    """Copies the lines of a process to a stream of the launcher, after a prefix."""

    def __init__(self, source: IO[bytes], prefix: str, sink: IO[str]):
        os.set_blocking(source.fileno(), False)
        self._source = source
        self._prefix = prefix
        self._sink = sink
        utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
        self._lines: collections.deque[str] = collections.deque()
        self._rest = ""  # a line whose end is missing

    def copy(self) -> None:
        """Copies what the process has written, as far as the stream takes lines without waiting."""
        if not self._lines:
            self._read()
        while self._lines and select.select([], [self._sink], [], 0)[1]:
            self._write(self._lines.popleft())

    def close(self) -> None:
        """Copies everything else, including a last line without its line break."""
        while self._read():
            pass
        for line in (*self._lines, *([self._rest] if self._rest else [])):
            self._write(line)
        self._source.close()

    def _read(self) -> bool:
        """Returns whether there was anything to read."""
        data = None if self._source.closed else self._source.read(_READ_BYTES)
        if data:
            *lines, self._rest = (self._rest + self._decoder.decode(data)).split("\n")
            self._lines.extend(lines)
        return bool(data)

    def _write(self, line: str) -> None:
        try:
            print(f"{self._prefix}{line.rstrip()}", file=self._sink, flush=True)
        except OSError:  # nobody reads the stream; closing the source sends the process SIGPIPE
            self._source.close()


def _terminate_with_launcher() -> None:
    """Has Linux send this process SIGTERM when the launcher dies, even by SIGKILL."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _report_signal(name: str, status: int) -> None:
    if status < 0:
        names = {known.value: known.name for known in signal.Signals}
        say(f"[{name}] was ended by {names.get(-status, f'signal {-status}')}")


def _group_status(statuses: Sequence[int]) -> int:
    """Returns the status of a group from its processes' statuses, in the order of their ends."""
    crashed = [status for status in statuses if status not in _CLEAN]
    if UserError.exit_status in crashed:
        return UserError.exit_status
    status = crashed[0] if crashed else max(statuses)
    return status if status >= 0 else 128 - status
