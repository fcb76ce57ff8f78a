import json
import socket
import threading
import time

import pytest

from launch.local import free_ports
from trainer.distribution import rendezvous
from trainer.errors import Preempted, UserError, WorkersError
from trainer.train import train


def set_tf_config(monkeypatch, workers, index, kind="worker"):
    task = {"type": kind, "index": index}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": workers, "task": task}))


def of_this_machine(count):
    return tuple(f"127.0.0.1:{port}" for port in free_ports(count))


def meet_all(clusters, facts, timeout_seconds=20.0, stopped=lambda _: False):
    """What became of each worker: None, or what its meeting raised."""
    ends: list[Exception | None] = [None] * len(clusters)

    def worker(number):
        try:
            rendezvous.rendezvous(
                clusters[number], facts[number], timeout_seconds, lambda: stopped(number)
            )
        except Exception as error:
            ends[number] = error

    threads = [threading.Thread(target=worker, args=(number,)) for number in range(len(clusters))]
    for thread in reversed(threads):  # the chief last
        thread.start()
    for thread in threads:
        thread.join()
    return ends


@pytest.mark.parametrize(
    ("workers", "index", "kind", "expected"),
    [
        ({"worker": ["a:1", "b:2"]}, 1, "worker", (("a:1", "b:2"), 1)),
        ({"chief": ["a:1"], "worker": ["b:2", "c:3"]}, 0, "chief", (("a:1", "b:2", "c:3"), 0)),
        ({"chief": ["a:1"], "worker": ["b:2", "c:3"]}, 1, "worker", (("a:1", "b:2", "c:3"), 2)),
        ({"worker": ["[::1]:1", "b:2"]}, 0, "worker", (("[::1]:1", "b:2"), 0)),
    ],
)
def test_the_workers_are_those_of_tf_config(monkeypatch, workers, index, kind, expected):
    set_tf_config(monkeypatch, workers, index, kind)
    assert rendezvous.from_environment() == rendezvous.Cluster(*expected)


def test_one_worker_is_no_cluster(monkeypatch):
    set_tf_config(monkeypatch, {}, 0)
    assert rendezvous.from_environment() is None
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert rendezvous.from_environment() is None
    set_tf_config(monkeypatch, {"worker": ["a:1"]}, 0)
    assert rendezvous.from_environment() is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"cluster": {"worker": ["a:1", "b:2"]}}', "cannot be read"),
        (
            '{"cluster": {"worker": ["a", "b:2"]}, "task": {"type": "worker", "index": 0}}',
            "cannot be read",
        ),
        (
            '{"cluster": {"worker": ["a:1", "b:70000"]}, "task": {"type": "worker", "index": 0}}',
            "cannot be read",
        ),
        (
            '{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 2}}',
            "has index 2 for 2 workers; it must be from 0 to 1",
        ),
        (
            '{"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}',
            "names an address twice",
        ),
        (
            '{"cluster": {"chief": ["a:1", "b:2"]}, "task": {"type": "chief", "index": 0}}',
            "has 2 chiefs; there can be one",
        ),
        (
            '{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": ["worker"], "index": 0}}',
            "names \"['worker']\"; all tasks are workers",
        ),
        (
            '{"cluster": {"ps": ["a:1"], "worker": ["b:2"]}, "task": {"type": "ps", "index": 0}}',
            "names 'ps'; all tasks are workers",
        ),
        (
            '{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "evaluator", "index": 0}}',
            "names 'evaluator'; all tasks are workers",
        ),
    ],
)
def test_a_tf_config_that_says_nothing_useful_is_refused(monkeypatch, text, message):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError) as error:
        rendezvous.from_environment()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("count", [2, 5])
def test_workers_that_are_alike_meet(count):
    addresses = of_this_machine(count)
    clusters = [rendezvous.Cluster(addresses, index) for index in range(count)]
    assert meet_all(clusters, [{"seed": "0"}] * count) == [None] * count


def test_workers_that_differ_all_say_wherein():
    addresses = of_this_machine(3)
    clusters = [rendezvous.Cluster(addresses, index) for index in range(3)]
    ends = meet_all(clusters, [{"seed": "0"}, {"seed": "0"}, {"seed": "1", "keras": "4"}])
    assert [type(end) for end in ends] == [UserError] * 3
    assert {str(end) for end in ends} == {
        "the workers are not alike: keras is None on worker 0, 4 on worker 2; "
        "seed is 0 on worker 0, 1 on worker 2"
    }


def test_workers_of_different_clusters_all_say_so():
    addresses = of_this_machine(2)
    clusters = [rendezvous.Cluster(addresses, 0), rendezvous.Cluster((*addresses, "10.0.0.1:1"), 1)]
    ends = meet_all(clusters, [{}, {}])
    assert [type(end) for end in ends] == [UserError] * 2
    assert len({str(end) for end in ends}) == 1
    assert "worker 1 has a TF_CONFIG of the workers" in str(ends[0])


def test_two_workers_of_one_index_are_one_too_many(monkeypatch):
    monkeypatch.setattr(rendezvous, "_LATE_SECONDS", 1)
    addresses = of_this_machine(3)
    listener, chiefs_port = rendezvous._listener, int(addresses[0].split(":")[1])
    # The two are on two machines: on this one, the second could not open the port.
    monkeypatch.setattr(
        rendezvous,
        "_listener",
        lambda host, port: listener(host, port if port == chiefs_port else 0),
    )
    clusters = [rendezvous.Cluster(addresses, index) for index in (0, 1, 1)]
    ends = meet_all(clusters, [{}] * 3)
    assert {str(end) for end in ends} == {"two workers have the index 1 in their TF_CONFIG"}


@pytest.mark.parametrize(("present", "missing"), [((0, 1), 2), ((1, 2), 0)])
def test_whoever_does_not_come_is_named_by_each_of_the_others(
    present, missing, capsys, monkeypatch
):
    monkeypatch.setattr(rendezvous, "_WAITING_LINE_SECONDS", 0.5)
    addresses = of_this_machine(3)
    clusters = [rendezvous.Cluster(addresses, index) for index in present]
    ends = meet_all(clusters, [{}] * 2, timeout_seconds=2.0)
    waiting = capsys.readouterr().out
    for index, end in zip(present, ends, strict=True):
        own, other = (f"worker {i} ({addresses[i]})" for i in (index, missing))
        assert isinstance(end, WorkersError)
        assert f"{own} waited in vain for {other}" in str(end)
        assert "startup_timeout_seconds says how long" in str(end)
        assert f"{own} waits for {other}" in waiting


def test_a_stop_ends_the_wait():
    with pytest.raises(Preempted):
        rendezvous.rendezvous(
            rendezvous.Cluster(of_this_machine(2), 0), {}, 20.0, stopped=lambda: True
        )


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_stop_of_one_ends_the_wait_of_all(stopped):
    addresses = of_this_machine(3)  # of which the last does not come
    stops = time.monotonic() + 2
    ends = meet_all(
        [rendezvous.Cluster(addresses, index) for index in (0, 1)],
        [{}, {}],
        stopped=lambda index: index == stopped and time.monotonic() > stops,
    )
    assert [type(end) for end in ends] == [Preempted, Preempted]


def test_a_port_that_another_program_has_is_named():
    with socket.create_server(("", 0)) as taken:
        addresses = (f"127.0.0.1:{taken.getsockname()[1]}", "127.0.0.1:1")
        with pytest.raises(WorkersError, match="cannot open its port") as error:
            rendezvous.rendezvous(rendezvous.Cluster(addresses, 0), {}, 20.0)
    assert addresses[0] in str(error.value)


def test_strangers_on_the_chiefs_port_are_ignored():
    addresses = of_this_machine(2)
    host, port = addresses[0].split(":")
    clusters = [rendezvous.Cluster(addresses, index) for index in range(2)]
    ends: list = []
    chief = threading.Thread(target=lambda: ends.append(meet_all(clusters[:1], [{}])))
    chief.start()
    for said in (b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b'{"index": 1}\n', b"\xff\n", b""):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                with socket.create_connection((host, int(port)), timeout=5) as stranger:
                    stranger.sendall(said)
                break
            except ConnectionRefusedError:
                time.sleep(0.01)
    assert meet_all(clusters[1:], [{}]) == [None]
    chief.join()
    assert ends == [[None]]


def test_a_training_whose_workers_do_not_come_ends_in_the_stated_time(
    digits_config, tmp_path, monkeypatch
):
    digits_config.startup_timeout_seconds = 1.0
    set_tf_config(monkeypatch, {"worker": list(of_this_machine(2))}, 0)
    with pytest.raises(WorkersError, match="waited in vain for worker 1"):
        train(digits_config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_training_tells_the_others_its_config_its_versions_and_its_code(
    digits_config, tmp_path, monkeypatch
):
    addresses = of_this_machine(2)
    set_tf_config(monkeypatch, {"worker": list(addresses)}, 0)
    ends: list = []
    other = threading.Thread(
        target=lambda: ends.extend(meet_all([rendezvous.Cluster(addresses, 1)], [{"seed": "1"}]))
    )
    other.start()
    with pytest.raises(UserError, match="the workers are not alike") as error:
        train(digits_config, str(tmp_path / "run"))
    other.join()
    assert str(ends[0]) == str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("strategy", "workers", "message"),
    [
        ("multi_worker", 1, "needs TF_CONFIG to name several workers"),
        ("mirrored", 2, "is of one machine, but TF_CONFIG names 2 workers"),
    ],
)
def test_a_strategy_for_another_number_of_workers_is_refused(
    digits_config, tmp_path, monkeypatch, strategy, workers, message
):
    digits_config.strategy = strategy
    set_tf_config(monkeypatch, {"worker": [f"h:{port + 1}" for port in range(workers)]}, 0)
    with pytest.raises(UserError, match=message):
        train(digits_config, str(tmp_path / "run"))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "10.0.0.1", "node7"])
def test_workers_of_one_machine_meet_where_no_other_reaches_them(host):
    with rendezvous._listener(host, 0) as listener:
        alone = listener.getsockname()[0] == "127.0.0.1"
        assert alone == (host in ("127.0.0.1", "localhost"))
