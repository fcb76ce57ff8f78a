import contextlib
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from launch.local import free_ports
from trainer.distribution import rendezvous
from trainer.distribution.cluster import Cluster
from trainer.errors import AbsentWorkersError, Preempted, UserError, WorkersError
from trainer.training.train import train

THREADS = ThreadPoolExecutor(16)


def local_clusters(count):
    """The cluster of `count` workers of this machine, as each of them sees it."""
    addresses = tuple(f"127.0.0.1:{port}" for port in free_ports(count))
    return [Cluster(addresses, index) for index in range(count)]


def meet(clusters, facts=None, timeout_seconds=20.0, stopped=lambda _: False):
    """Has workers meet in threads; returns what the rendezvous of each raised, or None."""

    def worker(number):
        own_facts = facts[number] if facts else {}
        try:
            rendezvous.rendezvous(
                clusters[number], own_facts, timeout_seconds, lambda: stopped(number)
            )
        except Exception as error:
            return error

    numbers = reversed(range(len(clusters)))  # the chief last
    return list(THREADS.map(worker, numbers))[::-1]


def assert_all_end_with_one_line(errors, *named):
    assert [type(error) for error in errors] == [UserError] * len(errors)
    (line,) = {str(error) for error in errors}
    for text in named:
        assert text in line


def test_workers_with_equal_facts_meet():
    clusters = local_clusters(5)
    assert meet(clusters, [{"seed": "0"}] * 5) == [None] * 5
    for address in clusters[0].addresses:  # TensorFlow opens the ports next
        socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))).close()


def test_workers_that_differ_all_end_with_the_line_that_names_the_difference():
    errors = meet(local_clusters(3), [{"seed": "0"}, {"seed": "0"}, {"seed": "1", "keras": "4"}])
    named = ("keras is None on worker 0, 4 on worker 2", "seed is 0 on worker 0, 1 on worker 2")
    assert_all_end_with_one_line(errors, *named)


def test_a_worker_that_comes_late_ends_with_the_same_line_too():
    clusters = local_clusters(3)
    first = THREADS.submit(meet, clusters[:2], [{"seed": "0"}, {"seed": "1"}])
    time.sleep(1)
    late = meet(clusters[2:], [{"seed": "0"}])
    assert_all_end_with_one_line([*first.result(), *late], "seed")


def test_workers_with_another_tf_config_all_end_with_one_line():
    chief, worker = local_clusters(2)
    other = Cluster((*worker.addresses, "10.0.0.1:1"), 1)
    assert_all_end_with_one_line(meet([chief, other]), "TF_CONFIG", "10.0.0.1:1")


def test_two_workers_with_one_index_end_with_one_line(monkeypatch):
    monkeypatch.setattr(rendezvous, "_END_SECONDS", 1)
    chief, worker, _ = local_clusters(3)

    class OfAnotherMachine(Cluster):  # where the port is not taken
        def listen(self):
            return socket.create_server(("127.0.0.1", 0))

    other = OfAnotherMachine(worker.addresses, 1)
    assert_all_end_with_one_line(meet([chief, worker, other]), "the index 1")


@pytest.mark.parametrize(("present", "missing"), [((0, 1), 2), ((1, 2), 0)])
def test_a_worker_that_does_not_come_is_named_while_and_after_the_others_wait(
    present, missing, capsys, monkeypatch
):
    monkeypatch.setattr(rendezvous, "_MESSAGE_SECONDS", 0.5)
    clusters = local_clusters(3)
    errors = meet([clusters[index] for index in present], timeout_seconds=2.0)
    printed = capsys.readouterr().out
    absent = clusters[0].name(missing)
    for index, error in zip(present, errors, strict=True):
        assert isinstance(error, AbsentWorkersError)
        assert f"waited in vain for {absent}" in str(error)
        assert f"{clusters[index].own_name} waits for {absent}\n" in printed


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_stop_of_one_worker_ends_the_wait_of_all(stopped):
    clusters = local_clusters(3)  # of which the last does not come
    stop_time = time.monotonic() + 1.5
    errors = meet(
        clusters[:2], stopped=lambda index: index == stopped and time.monotonic() > stop_time
    )
    assert [type(error) for error in errors] == [Preempted, Preempted]


@contextlib.contextmanager
def connected(cluster):
    """Connects to the chief as a worker does, always as the same process."""
    facts = {"TF_CONFIG": ",".join(cluster.addresses)}
    hello = {"index": cluster.index, "process": "p", "facts": facts, "stopped": ""}
    host, port = cluster.addresses[0].split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(json.dumps(hello).encode() + b"\n")
        assert connection.recv(100)
        yield connection


def test_a_worker_that_dies_while_it_waits_is_missing_until_it_is_started_again():
    clusters = local_clusters(3)
    chief = THREADS.submit(meet, clusters[:1])
    time.sleep(0.5)
    with connected(clusters[1]):
        pass
    time.sleep(2)
    (error,) = meet(clusters[2:], timeout_seconds=1.0)
    assert clusters[0].name(1) in str(error)
    time.sleep(2)
    assert meet(clusters[1:]) == [None, None]
    assert chief.result() == [None]


def test_a_worker_that_connects_again_is_not_taken_for_two():
    clusters = local_clusters(3)
    chief = THREADS.submit(meet, clusters[:1])
    time.sleep(0.5)
    with connected(clusters[1]) as lost, connected(clusters[1]) as again:
        lost.close()
        time.sleep(2)  # until the chief has noticed
        assert meet(clusters[2:]) == chief.result() == [None]
        assert json.loads(again.makefile().readlines()[-1])["status"] == 0


def test_strangers_on_the_chiefs_port_are_ignored(capfd):
    clusters = local_clusters(2)
    host, port = clusters[0].addresses[0].split(":")
    chief = THREADS.submit(meet, clusters[:1])
    for sent in (
        *(b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b'{"index": 1}\n', b"\xff\n", b""),
        b'{"index": 9, "facts": {"TF_CONFIG": "' + ",".join(clusters[0].addresses).encode(),
    ):
        while True:
            try:
                with socket.create_connection((host, int(port)), timeout=5) as stranger:
                    stranger.sendall(sent)
                break
            except ConnectionRefusedError:
                time.sleep(0.01)
    assert meet(clusters[1:]) == chief.result() == [None]
    assert not capfd.readouterr().err


@pytest.fixture
def train_as(digits_config, tmp_path, monkeypatch):
    """Trains as a worker of a cluster, which must fail; returns the message."""

    def fail(cluster, error, **settings):
        digits_config.update(settings)
        task = {"type": "worker", "index": cluster.index}
        workers = {"cluster": {"worker": list(cluster.addresses)}, "task": task}
        monkeypatch.setenv("TF_CONFIG", json.dumps(workers))
        with pytest.raises(error) as raised:
            train(digits_config, str(tmp_path / "run"))
        assert not (tmp_path / "run").exists()
        return str(raised.value)

    return fail


def test_a_training_whose_workers_do_not_come_ends_in_the_stated_time(train_as):
    line = train_as(local_clusters(2)[0], WorkersError, startup_timeout_seconds=1.0)
    assert "waited in vain for worker 1" in line


def test_a_training_compares_its_config_with_the_other_workers(train_as):
    chief, worker = local_clusters(2)
    other = THREADS.submit(meet, [worker], [{"seed": "1"}])
    line = train_as(chief, UserError)
    assert "the workers differ" in line
    assert [str(error) for error in other.result()] == [line]


@pytest.mark.parametrize(("strategy", "workers"), [("multi_worker", 1), ("mirrored", 2)])
def test_a_strategy_for_another_number_of_workers_is_refused(train_as, strategy, workers):
    line = train_as(local_clusters(workers)[0], UserError, strategy=strategy)
    assert f"strategy='{strategy}'" in line
    assert "TF_CONFIG" in line
