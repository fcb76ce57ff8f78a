"""End a worker once another one is lost, whatever it is waiting for. Needs no TensorFlow.

A collective operation with a worker that has died may wait for ever: whether and when NCCL and gRPC
notice is up to them, and nothing can interrupt the main thread inside of one.
"""

import concurrent.futures
import contextlib
import errno
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

from trainer.distribution.rendezvous import Cluster
from trainer.errors import WorkersError, printable

LOOKS = 8  # in a row at which a worker is unreachable before it counts as lost
PAUSE_SECONDS = 1.0  # between two looks
CONNECT_SECONDS = 2.0  # for a machine to answer: TCP asks a second time after one
_CONCURRENT_CONNECTS = 64
# Shortages of this machine, which say nothing about another worker.
_OWN_ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL)


class Watchdog:
    """A thread that ends this process, with the status of WorkersError, once a worker is lost.

    A worker is lost when its port has refused connections, or its machine has not answered, at
    eight looks in a row: some 10 seconds after its process has died, or 30 after its machine has
    gone; where over 64 machines are gone at once, 16 seconds later for each 64 more. A worker that
    could not be reached at the first eight looks is not watched: some networks let a worker connect
    to a few of the others only.

    A worker that stands still keeps its port open and is waited for while the system accepts
    connections for it. The others ask for one each second, which fill the queue of gRPC's port
    (net.core.somaxconn, by default 4096): with N workers after 4096 / (N - 1) seconds.

    Start it when all workers have opened their ports; close it before the first of them may leave.
    """

    def __init__(self, cluster: Cluster | None, end: Callable[[int], Any] = os._exit):
        """Watch the other workers of a cluster, if there is one; `end` takes the exit status."""
        self._cluster = cluster
        self._end = end
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        if cluster is not None:
            self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(2 * CONNECT_SECONDS)

    def _watch(self) -> None:
        assert self._cluster is not None
        addresses = self._cluster.addresses
        peers = {i: _Peer(addresses[i]) for i in range(len(addresses)) if i != self._cluster.index}
        with concurrent.futures.ThreadPoolExecutor(_CONCURRENT_CONNECTS) as pool:
            while not self._closed.is_set():
                failed_looks = list(pool.map(_Peer.look, peers.values()))
                gone = [i for i, looks in zip(peers, failed_looks, strict=True) if looks >= LOOKS]
                lost = [index for index in gone if peers[index].was_reached]
                if lost and not self._closed.is_set():
                    _say_lost(self._cluster, lost)
                    self._end(WorkersError.exit_status)
                    return
                for index in gone:
                    del peers[index]
                self._closed.wait(PAUSE_SECONDS)


class _Peer:
    """Another worker's port, and the looks in a row at which it could not be reached."""

    def __init__(self, address: str):
        host, _, port = address.rpartition(":")
        self._name = host.strip("[]"), int(port)
        self._failed_looks = 0
        self.was_reached = False
        # Looked up once: a name server that is away for a while is no reason to end.
        self._places: list[tuple[Any, ...]] = []

    def look(self) -> int:
        """Connect once; return how many times in a row that has failed."""
        self._failed_looks = 0 if self._is_reachable() else self._failed_looks + 1
        return self._failed_looks

    def _is_reachable(self) -> bool:
        if not self._places:
            with contextlib.suppress(OSError):
                self._places = socket.getaddrinfo(*self._name, type=socket.SOCK_STREAM)
            if not self._places:
                return True
        for place in self._places:
            family, kind, protocol, _, address = place
            try:
                with socket.socket(family, kind, protocol) as connection:
                    connection.settimeout(CONNECT_SECONDS)
                    connection.connect(address)
            except OSError as error:
                if error.errno in _OWN_ERRORS:
                    return True
            else:
                self.was_reached = True
                self._places = [place]  # of a host's several, the one that its worker listens on
                return True
        return False


def _say_lost(cluster: Cluster, lost: list[int]) -> None:
    names = " and ".join(cluster.name(index) for index in lost)
    line = (
        f"error: {cluster.name(cluster.index)} ends, since {names} cannot be reached; "
        "start all of them again"
    )
    with contextlib.suppress(OSError):  # not by sys.stderr, which the main thread may hold
        os.write(2, f"{printable(line)}\n".encode(errors="replace"))
