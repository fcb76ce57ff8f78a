"""The workers of one training, by TF_CONFIG: who they are, and that all have come and are alike.

Needs no TensorFlow, whose own start waits without a word for a worker that does not come.
"""

import concurrent.futures
import contextlib
import dataclasses
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from trainer.errors import Preempted, UserError, WorkersError, require

_WAITING_LINE_SECONDS = 10  # between two lines on whom one waits for
_TURN_SECONDS = 0.5  # of waiting, before a stop is looked for
_UNWINDING_SECONDS = 5  # that a worker which fails may still listen
_LATE_SECONDS = 10  # for the last to come, once a mistake is known
_HELLO_SECONDS = 1  # that whoever calls the chief may take to say who it is
_REPLY_SECONDS = 5  # that a connection or a sentence may take otherwise
_WORD_SECONDS = 60  # that the chief may take: it hears out one after the other
_LONGEST_MESSAGE = 2**20
_DIFFERENCES_TOLD = 3
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_MOST_CALLS = 32  # at a time
_STOPPED = "stopped before the first step; start again to go on"
_ENDS = {end.exit_status: end for end in (UserError, WorkersError, Preempted)}


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Several workers, the chief first, and which of them this process is."""

    addresses: tuple[str, ...]  # each host:port
    index: int

    def name(self, index: int) -> str:
        """A worker as a person is told of it."""
        return f"worker {index} ({self.addresses[index]})"

    def unreachable_workers(self) -> list[int]:
        """The other workers on whose address nobody listens, now or some seconds later."""
        others = [index for index in range(len(self.addresses)) if index != self.index]
        deadline = time.monotonic() + _UNWINDING_SECONDS
        with concurrent.futures.ThreadPoolExecutor(_MOST_CALLS) as calls:
            while True:
                answers = calls.map(lambda index: _answers(self.addresses[index]), others)
                gone = [index for index, here in zip(others, answers, strict=True) if not here]
                if gone or time.monotonic() > deadline:
                    return gone
                time.sleep(_TURN_SECONDS)


def from_environment() -> Cluster | None:
    """The workers that TF_CONFIG names, or None where it is not set or names this one alone.

    Raises:
      UserError: it cannot be read, or names what is no worker.
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        return None
    form = '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
    try:
        config = json.loads(text)
        cluster = config["cluster"]
        if not cluster:
            return None
        kind, number = str(config["task"]["type"]), int(config["task"]["index"])
        chiefs, workers = cluster.get("chief", []), cluster.get("worker", [])
        addresses = (*chiefs, *workers)
        index = number + (len(chiefs) if kind == "worker" else 0)
        for address in addresses:
            _host_and_port(address)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"TF_CONFIG={text!r} cannot be read; it is written {form}") from error
    others = set(cluster) - {"chief", "worker"}
    require(
        not others and kind in cluster,
        f"TF_CONFIG={text!r} names {', '.join(sorted(others)) or kind!r}; "
        "all tasks are workers, of which the first is the chief",
    )
    require(len(chiefs) <= 1, f"TF_CONFIG={text!r} has {len(chiefs)} chiefs; there can be one")
    require(
        0 <= number < len(cluster[kind]),
        f"TF_CONFIG={text!r} has index {number} for {len(cluster[kind])} workers; "
        f"it must be from 0 to {len(cluster[kind]) - 1}",
    )
    require(len(set(addresses)) == len(addresses), f"TF_CONFIG={text!r} names an address twice")
    return Cluster(addresses, index) if len(addresses) > 1 else None


def rendezvous(
    cluster: Cluster,
    facts: Mapping[str, str],
    timeout_seconds: float,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Returns on every worker when all have come, with the same facts.

    They meet on the chief's port, before TensorFlow opens it. Whoever waits says for whom.

    Raises:
      UserError: their facts or their TF_CONFIG differ; the same line on each.
      WorkersError: one has not come in that time, or this one's port cannot be opened.
      Preempted: one of them was stopped while it waited.
    """
    host, port = _host_and_port(cluster.addresses[cluster.index])
    try:
        listener = _listener(host, port)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        raise WorkersError(
            f"{cluster.name(cluster.index)} cannot open its port: {os.strerror(error.errno or 0)}"
            + ("; another program has it, or a worker of another run" if taken else "")
        ) from error
    wait = _Wait(cluster, time.monotonic() + timeout_seconds, stopped)
    with listener:
        if cluster.index == 0:
            _receive(cluster, facts, listener, wait)
            return
    _report(cluster, facts, wait)


@contextlib.contextmanager
def kill_if_startup_hangs(cluster: Cluster | None, timeout_seconds: float) -> Iterator[None]:
    """Kills this process where TensorFlow's own start waits so long for a worker that is lost.

    Another process does so: that start lets no thread of Python's run, nor any signal be handled.
    """
    if cluster is None:
        yield
        return
    watch = f"from {__name__} import watch; watch({os.getpid()}, {timeout_seconds})"
    with subprocess.Popen([sys.executable, "-c", watch]) as watcher:
        try:
            yield
        finally:
            watcher.kill()


def watch(pid: int, timeout_seconds: float) -> None:
    """Kills the process that has started this one, and says so, if both are there for so long."""
    time.sleep(timeout_seconds)
    cluster = from_environment()
    assert cluster is not None
    names = (
        ", ".join(cluster.name(index) for index in cluster.unreachable_workers()) or "the others"
    )
    if os.getppid() == pid:
        own = cluster.name(cluster.index)
        print(f"error: {own} waited in vain for {names} to start", file=sys.stderr, flush=True)
        os.kill(pid, signal.SIGKILL)


class _Wait:
    """A wait for other workers, up to a deadline."""

    def __init__(self, cluster: Cluster, deadline: float, stopped: Callable[[], bool]):
        self._cluster = cluster
        self._deadline = deadline
        self._stopped = stopped
        self._said = time.monotonic()
        self.reason = ""  # why the last call failed

    def shorten(self, seconds: float) -> None:
        """Has it end after so long, if it would not before."""
        self._deadline = min(self._deadline, time.monotonic() + seconds)

    def turn(self, missing: list[int]) -> None:
        """To be called every half second: says whom the wait is for, and ends it in time."""
        if self._stopped():
            raise Preempted(_STOPPED)
        names = ", ".join(self._cluster.name(index) for index in missing)
        own = self._cluster.name(self._cluster.index)
        now = time.monotonic()
        if now > self._deadline:
            why = f" ({self.reason})" if self.reason else ""
            raise WorkersError(
                f"{own} waited in vain for {names}{why}; startup_timeout_seconds says how long"
            )
        if now > self._said + _WAITING_LINE_SECONDS:
            self._said = now
            print(f"{own} waits for {names}", flush=True)


def _receive(
    cluster: Cluster, facts: Mapping[str, str], listener: socket.socket, wait: _Wait
) -> None:
    """The chief's part: takes in the others, tells them who is missing, then how it ends."""
    listener.settimeout(_TURN_SECONDS)
    others = range(1, len(cluster.addresses))
    own = {"addresses": list(cluster.addresses), "facts": dict(facts)}
    present: dict[int, socket.socket] = {}
    connections: list[socket.socket] = []
    mistake = None
    with contextlib.ExitStack() as scope:
        try:
            while len(present) < len(others):
                with contextlib.suppress(TimeoutError):
                    connections.append(scope.enter_context(listener.accept()[0]))
                    its = _read(connections[-1], _HELLO_SECONDS)
                    present = {i: known for i, known in present.items() if _is_open(known)}
                    if its and its.keys() > own.keys() and its.get("index") in others:
                        if its.get("stopped"):
                            raise Preempted(_STOPPED)
                        mistake = mistake or _mistake(own, its, present)
                        present[its["index"]] = connections[-1]
                missing = [index for index in others if index not in present]
                present = {i: c for i, c in present.items() if _send(c, {"missing": missing})}
                if mistake:
                    wait.shorten(_LATE_SECONDS)  # for who is on the way, and is to hear of it
                wait.turn(missing)
            require(not mistake, mistake or "")
        except (UserError, WorkersError, Preempted) as error:
            told = UserError(mistake) if mistake else error
            for connection in connections:
                _send(connection, {"end": str(told), "status": told.exit_status})
            raise told from error
        for connection in present.values():
            _send(connection, {"all_here": True})
        for connection in present.values():  # whoever closes first keeps the port for a while
            _read(connection, _REPLY_SECONDS)


def _report(cluster: Cluster, facts: Mapping[str, str], wait: _Wait) -> None:
    """Another worker's part: tells the chief of itself, and waits for its word."""
    own = {"index": cluster.index, "addresses": list(cluster.addresses), "facts": dict(facts)}
    address = _host_and_port(cluster.addresses[0])
    while True:
        try:
            with socket.create_connection(address, timeout=_REPLY_SECONDS) as connection:
                wait.reason = ""
                _send(connection, own)
                connection.settimeout(_WORD_SECONDS)
                for told in _messages(connection):
                    if "all_here" in told:
                        return
                    if "end" in told:
                        raise _ENDS[told["status"]](told["end"])
                    wait.turn([index for index in told["missing"] if index != cluster.index])
        except OSError as error:
            wait.reason = str(error)
        except Preempted:
            with contextlib.suppress(OSError), socket.create_connection(address, timeout=1) as call:
                _send(call, own | {"stopped": True})
            raise
        wait.turn([0])
        time.sleep(_TURN_SECONDS)


def _mistake(
    own: Mapping[str, Any], its: Mapping[str, Any], present: Mapping[int, Any]
) -> str | None:
    """What is wrong with a worker that came, if it is not one of the others, and like the chief."""
    name = f"worker {its['index']}"
    if its["addresses"] != own["addresses"]:
        return (
            f"{name} has a TF_CONFIG of the workers {', '.join(its['addresses'])}, "
            f"worker 0 one of {', '.join(own['addresses'])}; they must be the same"
        )
    if its["index"] in present:
        return f"two workers have the index {its['index']} in their TF_CONFIG"
    facts = own["facts"]
    differing = [
        f"{key} is {facts.get(key)} on worker 0, {its['facts'].get(key)} on {name}"
        for key in sorted(facts.keys() | its["facts"].keys())
        if facts.get(key) != its["facts"].get(key)
    ]
    if not differing:
        return None
    more = len(differing) - _DIFFERENCES_TOLD
    told = "; ".join(differing[:_DIFFERENCES_TOLD]) + (f"; and {more} more" if more > 0 else "")
    return f"the workers are not alike: {told}"


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not 0 < int(port) < 2**16:
        raise ValueError(address)
    return host.strip("[]"), int(port)


def _listener(host: str, port: int) -> socket.socket:
    """Hears this machine alone where the workers are all on it, else whoever reaches it."""
    if host in _LOOPBACK:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        connection.settimeout(_REPLY_SECONDS)


def _answers(address: str) -> bool:
    try:
        socket.create_connection(_host_and_port(address), timeout=_REPLY_SECONDS).close()
    except OSError:
        return False
    return True


def _send(connection: socket.socket, message: Mapping[str, Any]) -> bool:
    """Whether somebody is still there to be told."""
    try:
        connection.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        return False
    return True


def _read(connection: socket.socket, seconds: float) -> dict[str, Any] | None:
    """A message, or None from whoever has none to give in time."""
    connection.settimeout(seconds)
    return next(_messages(connection), None)


def _messages(connection: socket.socket) -> Iterator[dict[str, Any]]:
    """The messages of a connection, until it is closed or silent or says what is none."""
    with connection.makefile("rb") as lines, contextlib.suppress(OSError, ValueError):
        while line := lines.readline(_LONGEST_MESSAGE):
            message = json.loads(line)
            if not isinstance(message, dict):
                return
            yield message
