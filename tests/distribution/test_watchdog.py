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


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(watchdog, "PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(watchdog, "CONNECT_SECONDS", 0.2)


class Ended:
    """Records the exit status with which a watchdog would end its process."""

    def __init__(self):
        self.statuses = []
        self._event = threading.Event()

    def __call__(self, status):
        self.statuses.append(status)
        self._event.set()

    def within(self, seconds):
        return self._event.wait(seconds)


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
        assert not ended.within(1)
        workers[2].close()
        assert ended.within(10)
    assert ended.statuses == [1]
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    own, _, lost = lines[0].partition("since")
    assert names[1] in own
    assert names[2] in lost
    assert names[0] not in lines[0]


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


def test_a_worker_that_accepts_no_connection_is_waited_for():
    # The system accepts them for a process that is suspended.
    workers = listening(2)
    with watch(map(address, workers)) as ended:
        assert not ended.within(0.05 * 4 * watchdog.ATTEMPTS)


def test_no_worker_is_lost_once_the_watchdog_is_closed(capfd):
    workers = listening(2)
    with watch(map(address, workers)) as ended:
        time.sleep(0.2)
    workers[1].close()
    assert not ended.within(0.05 * 4 * watchdog.ATTEMPTS)
    assert not capfd.readouterr().err


class Silent(socket.socket):
    """A socket of a machine that answers the first connection and then no more."""

    connects = 0

    def connect(self, _):
        Silent.connects += 1
        if Silent.connects > 1:
            raise TimeoutError


def test_a_machine_that_answers_no_more_is_lost_after_the_stated_attempts(monkeypatch):
    monkeypatch.setattr(watchdog.socket, "socket", Silent)
    monkeypatch.setattr(Silent, "connects", 0)
    with watch(["127.0.0.1:1", "127.0.0.1:2"]) as ended:
        assert ended.within(10)
    assert Silent.connects == 1 + watchdog.ATTEMPTS


def test_a_worker_that_could_never_be_reached_is_not_lost_and_the_others_are_watched():
    workers = listening(3)
    names = list(map(address, workers))
    workers[1].close()
    with watch(names) as ended:
        assert not ended.within(0.05 * 4 * watchdog.ATTEMPTS)
        workers[2].close()
        assert ended.within(10)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EADDRNOTAVAIL])
def test_a_shortage_of_this_machine_is_no_lost_worker(monkeypatch, number):
    class Short(socket.socket):
        def connect(self, _):
            raise OSError(number, "short")

    monkeypatch.setattr(watchdog.socket, "socket", Short)
    with watch(["127.0.0.1:1", "127.0.0.1:2"]) as ended:
        assert not ended.within(0.05 * 4 * watchdog.ATTEMPTS)


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
        assert not ended.within(0.05 * 4 * watchdog.ATTEMPTS)
        worker.close()
        assert ended.within(10)
    assert asked == ["there", "there"]


def test_a_single_worker_is_not_watched():
    before = threading.active_count()
    with contextlib.closing(Watchdog(None)):
        assert threading.active_count() == before
