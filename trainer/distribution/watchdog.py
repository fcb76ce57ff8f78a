"""Ends this worker when another one is lost. Needs no TensorFlow.

A collective with a dead worker may wait for ever: NCCL and gRPC need not notice the death, and
nothing can interrupt the main thread meanwhile. The same holds for TensorFlow's start.
"""

import concurrent.futures
import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from trainer.distribution.cluster import Cluster, from_tf_config, host_and_port
from trainer.errors import WorkersError, printable

ATTEMPTS = 8  # failures in a row after which a worker counts as lost
PAUSE_SECONDS = 1.0  # between two attempts
CONNECT_SECONDS = 2.0  # for a machine to answer: TCP asks a second time after one
_CONCURRENT_CONNECTS = 64
# A shortage of this machine says nothing about another worker.
_LOCAL_ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL)


class Watchdog:
    """Ends this process from a thread, with the status of WorkersError, once a worker is lost.

    A worker is lost when eight attempts in a row to connect to its port have failed: some 10
    seconds after its process has died, or 30 after its machine has gone; with more than 64 machines
    gone at once, 16 seconds later for each 64 more. A worker that could not be reached at the first
    eight attempts is not watched, since some networks connect only some of the workers.

    A suspended worker keeps its port open, and counts as alive until the system refuses
    connections to the port. The other workers connect once a second each, which fills the queue of
    the port (net.core.somaxconn, by default 4096): with N workers after 4096 / (N - 1) seconds.

    Start a watchdog when all workers have opened their ports; close it before any worker may exit.
    """

    def __init__(self, cluster: Cluster | None, end: Callable[[int], Any] = os._exit):
        """Watches the other workers of a cluster, if there is one; `end` takes the exit status."""
        self._cluster = cluster
        self._end = end
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        if cluster is not None:
            self._thread.start()

    def close(self) -> None:
        """Stops watching."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(2 * CONNECT_SECONDS)

    def _watch(self) -> None:
        assert self._cluster is not None
        addresses = self._cluster.addresses
        peers = {i: _Peer(addresses[i]) for i in range(len(addresses)) if i != self._cluster.index}
        with concurrent.futures.ThreadPoolExecutor(_CONCURRENT_CONNECTS) as pool:
            while not self._closed.is_set():
                failures = list(pool.map(_Peer.count_failures, peers.values()))
                gone = [i for i, count in zip(peers, failures, strict=True) if count >= ATTEMPTS]
                lost = [index for index in gone if peers[index].was_reached]
                if lost and not self._closed.is_set():
                    _print_error(
                        f"{self._cluster.own_name} ends, since {self._cluster.names(lost)} cannot "
                        "be reached; start all of them again"
                    )
                    self._end(WorkersError.exit_status)
                    return
                for index in gone:
                    del peers[index]
                self._closed.wait(PAUSE_SECONDS)


class _Peer:
    """Counts the failed attempts in a row to connect to another worker's port."""

    def __init__(self, address: str):
        self._host, self._port = host_and_port(address)
        self._failures = 0
        self.was_reached = False
        # Looked up once: a name server that is away for a while is not a reason to end.
        self._endpoints: list[tuple[Any, ...]] = []

    def count_failures(self) -> int:
        """Tries to connect; returns the number of failures in a row."""
        self._failures = 0 if self._is_reachable() else self._failures + 1
        return self._failures

    def _is_reachable(self) -> bool:
        if not self._endpoints:
            with contextlib.suppress(OSError):
                self._endpoints = socket.getaddrinfo(
                    self._host, self._port, type=socket.SOCK_STREAM
                )
            if not self._endpoints:
                return True
        for endpoint in self._endpoints:
            family, kind, protocol, _, address = endpoint
            try:
                with socket.socket(family, kind, protocol) as connection:
                    connection.settimeout(CONNECT_SECONDS)
                    connection.connect(address)
            except OSError as error:
                if error.errno in _LOCAL_ERRORS:
                    return True
            else:
                self.was_reached = True
                self._endpoints = [endpoint]  # of the host's endpoints, where the worker listens
                return True
        return False


@contextlib.contextmanager
def kill_if_startup_hangs(cluster: Cluster | None, timeout_seconds: float) -> Iterator[None]:
    """Kills this process if TensorFlow's start waits too long for a worker that was lost.

    Another process kills this one, since TensorFlow's start lets no thread and no signal handler
    of Python run.
    """
    if cluster is None:
        yield
        return
    code = f"from {__name__} import kill_later; kill_later({os.getpid()}, {timeout_seconds})"
    with subprocess.Popen([sys.executable, "-c", code]) as killer:
        try:
            yield
        finally:
            killer.kill()


def kill_later(pid: int, timeout_seconds: float) -> None:
    """Kills the parent process `pid` after some time, with a line that names the lost workers."""
    time.sleep(timeout_seconds)
    cluster = from_tf_config()
    assert cluster is not None
    names = cluster.names(cluster.unreachable_workers()) or "the others"
    if os.getppid() == pid:
        _print_error(f"{cluster.own_name} waited in vain for {names} to start")
        os.kill(pid, signal.SIGKILL)


def _print_error(message: str) -> None:
    with contextlib.suppress(OSError):  # sys.stderr may be locked by the main thread
        os.write(2, f"error: {printable(message)}\n".encode(errors="replace"))
