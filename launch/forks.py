"""Starts commands as forks of one process that has imported TensorFlow, which takes seconds."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from types import TracebackType
from typing import Self

from launch.supervisor import Command

_SERVER = (sys.executable, "-m", "trainer.cli.fork_server")


class ForkServer:
    """Starts Python commands, at the first command with a server of its own.

    A server that has died is replaced at the next command.
    """

    def __init__(self) -> None:
        self._control: socket.socket | None = None
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the server; its forks must have ended."""
        if self._server is not None and self._control is not None:
            self._control.close()
            self._server.wait()

    def start(self, command: Command) -> "Fork":
        """Starts a command, whose first word is this interpreter."""
        if self._server is None or self._server.poll() is not None:
            self._start_server()
        assert self._control is not None
        pipes = [os.pipe() for _ in range(3)]
        request = {"words": command.argv[1:], "environment": dict(command.environment)}
        sent = [write for _, write in pipes]
        with contextlib.suppress(BrokenPipeError):  # a server that has just died; see Fork.poll
            socket.send_fds(self._control, [json.dumps(request).encode()], sent)
        for write in sent:
            os.close(write)
        return Fork(*(read for read, _ in pipes))

    def _start_server(self) -> None:
        self._control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self._server = subprocess.Popen(
                [*_SERVER, str(other.fileno())],
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )


class Fork:
    """Controls a fork of the server as a subprocess.Popen controls a process."""

    def __init__(self, stdout: int, stderr: int, report: int):
        self.stdout, self.stderr = open(stdout, "rb", 0), open(stderr, "rb", 0)  # noqa: SIM115
        self._report = report
        self._reported = b""
        self._status: int | None = None
        self._waiting: list[int] = []  # signals for a fork that is not there yet

    @property
    def pid(self) -> int | None:
        """Returns the process id, None while the server prepares the fork."""
        first, line_end, _ = self._reported.partition(b"\n")
        return int(first) if line_end else None

    def poll(self) -> int | None:
        """Returns the exit status, negative for a signal, or None while the fork runs."""
        os.set_blocking(self._report, False)
        with contextlib.suppress(BlockingIOError):
            self._read()
        return self._status

    def wait(self) -> int:
        """Waits for the end of the fork; returns its exit status."""
        os.set_blocking(self._report, True)
        while self._status is None:
            self._read()
        return self._status

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless the fork has ended."""
        if self.poll() is None:
            self._waiting.append(number)
            self._deliver()

    def _read(self) -> None:
        while self._status is None:
            content = os.read(self._report, 64)
            self._reported += content
            _, *statuses = self._reported.split(b"\n")[:-1] or [b""]
            if statuses:
                self._status = int(statuses[0])
            elif not content:  # the server has died; the supervisor kills the group of the fork
                self._status = -signal.SIGKILL
            self._deliver()

    def _deliver(self) -> None:
        if self.pid is not None and self._status is None:
            for number in self._waiting:
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.kill(self.pid, number)
            self._waiting.clear()
