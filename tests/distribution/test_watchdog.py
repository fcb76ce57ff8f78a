"""A lost worker ends the others; one that is suspended, or exits at the end, does not."""

import contextlib
import errno
import socket
import threading
import time

import pytest

from trainer.distribution import watchdog
from trainer.distribution.cluster import Cluster
from trainer.distribution.watchdog import Watchdog

SAFE_SECONDS = 0.05 * 4 * watchdog.ATTEMPTS  # within which a lost worker would be noticed


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(watchdog, "PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(watchdog, "CONNECT_SECONDS", 0.2)


class Ended(threading.Event):
    """Records the exit status with which a watchdog would end its process."""

    statuses: tuple[int, ...] = ()

    def __call__(self, status):
        self.statuses += (status,)
        self.set()


def listening(count):
    return [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]


def address(listener):
    return f"127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def watch(addresses, index=0):
    ended = Ended()
    with contextlib.closing(Watchdog(Cluster(tuple(addresses), index), ended)):
        yield ended


def test_a_worker_whose_port_is_closed_is_named_and_ends_the_process(capfd):
    workers = listening(3)
    names = [address(worker) for worker in workers]
    with watch(names, index=1) as ended:
        # None accepts a connection, but the system does, as for a process that is suspended.
        assert not ended.wait(SAFE_SECONDS)
        workers[2].close()
        assert ended.wait(10)
    assert ended.statuses == (1,)
    (line,) = capfd.readouterr().err.splitlines()
    own, _, lost = line.partition("since")
    assert names[1] in own
    assert names[2] in lost
    assert names[0] not in line


def test_a_port_that_is_closed_for_fewer_attempts_is_no_lost_worker():
    workers = listening(2)
    names = [address(worker) for worker in workers]
    port = workers[1].getsockname()
    with watch(names) as ended:
        for _ in range(4):
            workers[1].close()
            time.sleep(0.05 * (watchdog.ATTEMPTS - 4))
            workers[1] = socket.create_server(port, backlog=128)
            time.sleep(0.2)
        assert not ended.statuses


def test_no_worker_is_lost_once_the_watchdog_is_closed(capfd):
    workers = listening(2)
    with watch(map(address, workers)) as ended:
        time.sleep(0.2)
    workers[1].close()
    assert not ended.wait(SAFE_SECONDS)
    assert not capfd.readouterr().err


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (TimeoutError(), True),  # of a machine that answers no more
        (OSError(errno.EMFILE, "short"), False),  # of this machine, which is short of something
        (OSError(errno.EADDRNOTAVAIL, "short"), False),
    ],
)
def test_a_machine_that_answers_no_more_is_lost_after_the_stated_attempts(
    monkeypatch, error, is_lost
):
    connects = []

    class Failing(socket.socket):  # but the first
        def connect(self, address):
            connects.append(address)
            if len(connects) > 1:
                raise error

    monkeypatch.setattr(watchdog.socket, "socket", Failing)
    with watch(["127.0.0.1:1", "127.0.0.1:2"]) as ended:
        assert ended.wait(10 if is_lost else SAFE_SECONDS) == is_lost
    assert not is_lost or len(connects) == 1 + watchdog.ATTEMPTS


def test_a_worker_that_could_never_be_reached_is_not_lost_and_the_others_are_watched():
    workers = listening(3)
    names = list(map(address, workers))
    workers[1].close()
    with watch(names) as ended:
        assert not ended.wait(SAFE_SECONDS)
        workers[2].close()
        assert ended.wait(10)


def test_names_are_looked_up_once(monkeypatch):
    (worker,) = listening(1)
    port = worker.getsockname()[1]
    asked = []

    def look_up(host, port, **_):
        asked.append(host)
        if len(asked) != 2:
            raise socket.gaierror("no name server")
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))]

    monkeypatch.setattr(watchdog.socket, "getaddrinfo", look_up)
    with watch(["here:1", f"there:{port}"]) as ended:
        assert not ended.wait(SAFE_SECONDS)
        worker.close()
        assert ended.wait(10)
    assert asked == ["there", "there"]


def test_a_single_worker_is_not_watched():
    before = threading.active_count()
    with contextlib.closing(Watchdog(None)):
        assert threading.active_count() == before
