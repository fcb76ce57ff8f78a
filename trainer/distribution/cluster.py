"""Reads the workers of a training from TF_CONFIG, and reaches them. Needs no TensorFlow."""

import concurrent.futures
import dataclasses
import errno
import json
import os
import socket
import time
from collections.abc import Iterable
from typing import Any

from trainer.errors import UserError, WorkersError, require

_EXIT_SECONDS = 5  # for a worker that fails to close its port
_PAUSE_SECONDS = 0.5
_CONNECT_SECONDS = 5
_MAX_CONNECTS = 32  # at a time
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_FORM = '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Names several workers by address, host:port, the chief's first; knows this worker's index."""

    addresses: tuple[str, ...]
    index: int

    def name(self, index: int) -> str:
        """Returns a worker's name for messages, such as `worker 1 (10.0.0.2:2222)`."""
        return f"worker {index} ({self.addresses[index]})"

    def names(self, indices: Iterable[int]) -> str:
        """Returns the names of several workers."""
        return ", ".join(map(self.name, sorted(indices)))

    @property
    def own_name(self) -> str:
        """Returns the name of this worker."""
        return self.name(self.index)

    def listen(self) -> socket.socket:
        """Listens on this worker's port, on all interfaces unless its address is a loopback one.

        Raises:
          WorkersError: the port cannot be opened.
        """
        host, port = host_and_port(self.addresses[self.index])
        local, dual = host in _LOOPBACK, socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if (":" in host if local else dual) else socket.AF_INET
        address = (host if local else "", port)
        try:
            return socket.create_server(address, family=family, dualstack_ipv6=dual and not local)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            raise WorkersError(
                f"{self.own_name} cannot open its port: {os.strerror(error.errno or 0)}"
                + ("; another program has it, or a worker of another run" if taken else "")
            ) from error

    def connect_without_proxy(self) -> None:
        """Has gRPC, which connects TensorFlow's workers, ignore the proxies of the environment."""
        hosts = {host_and_port(address)[0] for address in self.addresses}
        os.environ["no_grpc_proxy"] = ",".join(sorted(hosts))  # noqa: SIM112  (as gRPC reads it)

    def unreachable_workers(self) -> list[int]:
        """Returns the other workers that refuse a connection now or within five seconds."""
        others = [index for index in range(len(self.addresses)) if index != self.index]
        deadline = time.monotonic() + _EXIT_SECONDS
        with concurrent.futures.ThreadPoolExecutor(_MAX_CONNECTS) as pool:
            while True:
                reachable = pool.map(lambda index: _accepts(self.addresses[index]), others)
                lost = [index for index, here in zip(others, reachable, strict=True) if not here]
                if lost or time.monotonic() > deadline:
                    return lost
                time.sleep(_PAUSE_SECONDS)


def from_tf_config() -> Cluster | None:
    """Returns the workers that TF_CONFIG names; None if it is unset or names this process alone.

    Raises:
      UserError: TF_CONFIG cannot be parsed, or has other tasks than a chief and workers.
    """
    text = os.environ.get("TF_CONFIG", "")
    try:
        config = json.loads(text or "{}")
        tasks = config["cluster"] if text else {}
        if not tasks:
            return None
        kind, number = str(config["task"]["type"]), int(config["task"]["index"])
        chiefs = tasks.get("chief", [])
        addresses = (*chiefs, *tasks.get("worker", []))
        for address in addresses:
            host_and_port(address)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"TF_CONFIG={text!r} cannot be read; it is written {_FORM}") from error
    _check(f"TF_CONFIG={text!r}", tasks, kind, number)
    require(len(set(addresses)) == len(addresses), f"TF_CONFIG={text!r} names an address twice")
    index = number + (len(chiefs) if kind == "worker" else 0)
    return Cluster(addresses, index) if len(addresses) > 1 else None


def host_and_port(address: str) -> tuple[str, int]:
    """Splits an address host:port or [IPv6]:port; raises ValueError for any other text."""
    host, _, port = address.rpartition(":")
    if not host or not 0 < int(port) < 2**16:
        raise ValueError(address)
    return host.strip("[]"), int(port)


def _check(name: str, tasks: dict[str, Any], kind: str, number: int) -> None:
    others = set(tasks) - {"chief", "worker"}
    require(
        not others and kind in tasks,
        f"{name} names {', '.join(sorted(others)) or kind!r}; allowed: worker, and chief",
    )
    chiefs, count = len(tasks.get("chief", [])), len(tasks[kind])
    require(chiefs <= 1, f"{name} has {chiefs} chiefs; there can be one")
    require(
        0 <= number < count,
        f"{name} has index {number} for {count} workers; it must be from 0 to {count - 1}",
    )


def _accepts(address: str) -> bool:
    try:
        socket.create_connection(host_and_port(address), timeout=_CONNECT_SECONDS).close()
    except OSError:
        return False
    return True
