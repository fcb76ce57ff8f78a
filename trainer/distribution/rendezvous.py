"""Waits until all workers of a training are present, and refuses workers that differ.

Needs no TensorFlow, whose start waits silently for a missing worker, and whose collectives hang
where the devices or the versions of the workers differ.
"""

import contextlib
import dataclasses
import json
import socket
import socketserver
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from trainer.distribution.cluster import Cluster, host_and_port
from trainer.errors import (
    AbsentWorkersError,
    CommandError,
    Preempted,
    UserError,
    WorkersError,
)

_MESSAGE_SECONDS = 10  # between two lines that name the missing workers
_REPLY_SECONDS = 0.5  # between two replies of the chief
_CONNECT_SECONDS = 10  # for a connection, and for each line on it
_END_SECONDS = 10  # for all workers to hear how the rendezvous has ended
_MAX_LINE_BYTES = 2**20
_MAX_DIFFERENCES = 3  # in a message
_WORKER_ERRORS = (UserError, WorkersError, AbsentWorkersError, Preempted)
_ERRORS = {error.exit_status: error for error in _WORKER_ERRORS}


def rendezvous(
    cluster: Cluster,
    facts: Mapping[str, str],
    timeout_seconds: float,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Returns on every worker once all are present, with equal `facts`.

    The workers connect to the chief's port, which TensorFlow opens later. A waiting worker prints
    the missing ones every ten seconds.

    Raises:
      UserError: the facts or the TF_CONFIG of the workers differ; the same line on each worker.
      AbsentWorkersError: a worker has not come in time.
      WorkersError: this worker's port cannot be opened.
      Preempted: a worker was `stopped` while it waited.
    """
    facts = {**facts, "TF_CONFIG": ",".join(cluster.addresses)}
    wait = _Wait(cluster, timeout_seconds, stopped)
    with cluster.listen() as listener:
        if cluster.index == 0:
            _serve(_Chief(listener, len(cluster.addresses), facts), wait)
        else:
            _join(cluster, facts, wait)


class _Wait:
    """Limits and reports the wait of this worker for others."""

    def __init__(self, cluster: Cluster, timeout_seconds: float, stopped: Callable[[], bool]):
        self._cluster = cluster
        self._stopped = stopped
        self._printed = time.monotonic()
        self._seconds = timeout_seconds
        self._deadline = self._printed + timeout_seconds

    def check(self, missing: set[int], reason: str = "") -> None:
        """Raises CommandError if the wait must end; prints the missing workers if a line is due."""
        if self._stopped():
            raise Preempted("stopped before the first step; start again to resume")
        names, now = self._cluster.names(missing), time.monotonic()
        if now > self._deadline:
            raise AbsentWorkersError(
                f"{self._cluster.own_name} waited in vain for {names}"
                f"{reason and f' ({reason})'}; startup_timeout_seconds={self._seconds:g} limits "
                "the wait"
            )
        if now > self._printed + _MESSAGE_SECONDS:
            self._printed = now
            print(f"{self._cluster.own_name} waits for {names}", flush=True)


@dataclasses.dataclass(frozen=True, eq=False)
class _Connection:
    """Holds the random name of the process at the other end."""

    process: str


class _Chief(socketserver.ThreadingTCPServer):
    """Serves the other workers from the chief, each by one thread and connection."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, count: int, facts: Mapping[str, str]):
        super().__init__(("", 0), socketserver.BaseRequestHandler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.changed = threading.Condition()
        self.others = set(range(1, count))
        self.present: dict[int, _Connection] = {}  # the newest connection of each worker
        self.uninformed = set(self.others)  # workers that do not know the outcome yet
        self.outcome: dict[str, Any] | None = None  # {"status": of the process, "line": its error}
        self._facts = facts

    def end(self, error: CommandError | None = None) -> None:
        """Sets the outcome of the rendezvous on all workers, unless there is one already."""
        with self.changed:
            if self.outcome is None:
                self.outcome = {"status": error.exit_status if error else 0, "line": str(error)}
                if not isinstance(error, UserError):  # which latecomers get too
                    self.uninformed &= self.present.keys()
            self.changed.notify_all()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serves a worker's connection, in a thread of its own."""
        del client_address
        request.settimeout(_CONNECT_SECONDS)
        with request.makefile("rb") as lines:
            hello = json.loads(lines.readline(_MAX_LINE_BYTES))
        for reply in self._replies(hello):
            request.sendall(json.dumps(reply).encode() + b"\n")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores broken connections, and clients that are not workers."""

    def _replies(self, hello: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yields the missing workers every half second, and the outcome in the end."""
        index, connection = hello["index"], _Connection(hello["process"])
        with self.changed:
            # A worker that has lost its connection may be back before the chief notices the loss.
            earlier = self.present.get(index, connection)
            error = _error(hello, self._facts, earlier.process != connection.process)
            self.present[index] = connection
            if error or self.present.keys() >= self.others:
                self.end(error)
        try:
            while self.outcome is None:
                yield {"missing": sorted(self.others - self.present.keys())}
                with self.changed:
                    self.changed.wait_for(lambda: self.outcome, _REPLY_SECONDS)
            yield self.outcome
            self.uninformed.discard(index)
        finally:
            with self.changed:
                if self.present.get(index) is connection:
                    del self.present[index]
                self.changed.notify_all()


def _error(hello: Mapping[str, Any], facts: Mapping[str, str], twice: bool) -> CommandError | None:
    """Returns the error by which a worker that connects ends the rendezvous, or None."""
    index, others = int(hello["index"]), hello["facts"]
    if hello["stopped"]:
        return Preempted(hello["stopped"])
    if twice:
        return UserError(f"two workers have the index {index} in their TF_CONFIG")
    differing = [
        f"{key} is {facts.get(key)} on worker 0, {others.get(key)} on worker {index}"
        for key in sorted(facts.keys() | others.keys())
        if facts.get(key) != others.get(key)
    ]
    more = len(differing) - _MAX_DIFFERENCES
    shown = differing[:_MAX_DIFFERENCES] + ([f"and {more} more"] if more > 0 else [])
    return UserError(f"the workers differ: {'; '.join(shown)}") if shown else None


def _serve(chief: _Chief, wait: _Wait) -> None:
    """Serves the other workers, on the chief, until all know the outcome."""
    threading.Thread(target=chief.serve_forever, args=(0.05,), daemon=True).start()
    with chief.changed:
        while chief.outcome is None:
            try:
                wait.check(chief.others - chief.present.keys())
            except CommandError as error:
                chief.end(error)
            chief.changed.wait_for(lambda: chief.outcome, _REPLY_SECONDS)
        chief.changed.wait_for(lambda: not chief.uninformed, _END_SECONDS)
    chief.shutdown()
    _raise_error(chief.outcome)


def _join(cluster: Cluster, facts: Mapping[str, str], wait: _Wait) -> None:
    """Stays connected to the chief, on another worker, until the chief sends the outcome."""
    process = uuid.uuid4().hex
    hello: dict[str, Any] = {
        "index": cluster.index, "process": process, "facts": facts, "stopped": "",
    }  # fmt: skip
    while True:
        reason = ""
        try:
            for reply in _say(cluster, hello):
                if "status" in reply:
                    _raise_error(reply)
                    return
                wait.check(set(reply["missing"]) - {cluster.index})
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = str(error)
        except Preempted as error:
            with contextlib.suppress(OSError, ValueError):
                next(_say(cluster, {**hello, "stopped": str(error)}), None)
            raise
        wait.check({0}, reason)
        time.sleep(_REPLY_SECONDS)


def _say(cluster: Cluster, hello: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Connects to the chief, sends `hello` and yields the replies."""
    address = host_and_port(cluster.addresses[0])
    with socket.create_connection(address, _CONNECT_SECONDS) as connection:
        connection.sendall(json.dumps(hello).encode() + b"\n")
        with connection.makefile("rb") as lines:
            yield from map(json.loads, lines)


def _raise_error(outcome: Mapping[str, Any]) -> None:
    if outcome["status"]:
        raise _ERRORS[outcome["status"]](outcome["line"])
