"""Which workers TF_CONFIG names."""

import json
import socket

import pytest

from launch.local import free_ports
from trainer.distribution.cluster import Cluster, from_tf_config
from trainer.errors import UserError, WorkersError


def set_tf_config(monkeypatch, workers, index, kind="worker"):
    task = {"type": kind, "index": index}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": workers, "task": task}))


@pytest.mark.parametrize(
    ("workers", "index", "kind", "expected"),
    [
        ({"worker": ["a:1", "[::1]:2"]}, 1, "worker", Cluster(("a:1", "[::1]:2"), 1)),
        (
            {"chief": ["a:1"], "worker": ["b:2", "c:3"]},
            0,
            "chief",
            Cluster(("a:1", "b:2", "c:3"), 0),
        ),
        (
            {"chief": ["a:1"], "worker": ["b:2", "c:3"]},
            1,
            "worker",
            Cluster(("a:1", "b:2", "c:3"), 2),
        ),
        ({"worker": ["a:1"]}, 0, "worker", None),
        ({}, 0, "worker", None),
    ],
)
def test_the_chief_comes_first_and_one_worker_is_no_cluster(
    monkeypatch, workers, index, kind, expected
):
    set_tf_config(monkeypatch, workers, index, kind)
    assert from_tf_config() == expected


def test_without_tf_config_there_is_no_cluster(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert from_tf_config() is None


@pytest.mark.parametrize(
    ("cluster", "task", "named"),
    [
        ({"worker": ["a:1", "b:2"]}, None, "cannot be read"),
        ({"worker": ["a", "b:2"]}, ("worker", 0), "cannot be read"),
        ({"worker": ["a:1", "b:70000"]}, ("worker", 0), "cannot be read"),
        (["a:1", "b:2"], ("worker", 0), "cannot be read"),
        ({"worker": ["a:1", "b:2"]}, ("worker", 2), "index 2"),
        ({"worker": ["a:1", "b:2"]}, ("worker", -1), "index -1"),
        ({"worker": ["a:1", "a:1"]}, ("worker", 0), "twice"),
        ({"chief": ["a:1", "b:2"]}, ("chief", 0), "2 chiefs"),
        ({"worker": ["a:1", "b:2"]}, (["worker"], 0), "['worker']"),
        ({"ps": ["a:1"], "worker": ["b:2"]}, ("ps", 0), "'ps'"),
        ({"worker": ["a:1", "b:2"]}, ("evaluator", 0), "'evaluator'"),
    ],
)
def test_a_tf_config_that_names_no_workers_gets_one_line(monkeypatch, cluster, task, named):
    config = {"cluster": cluster}
    if task:
        config["task"] = dict(zip(("type", "index"), task, strict=True))
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    with pytest.raises(UserError) as error:
        from_tf_config()
    assert named in str(error.value)


def test_a_tf_config_that_is_no_json_gets_one_line(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{\n")
    with pytest.raises(UserError, match="cannot be read"):
        from_tf_config()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "10.0.0.1", "node7"])
def test_only_this_machine_reaches_a_worker_with_a_loopback_address(host):
    with Cluster((f"{host}:{free_ports(1)[0]}", "b:1"), 0).listen() as listener:
        local = listener.getsockname()[0] == "127.0.0.1"
        assert local == (host in ("127.0.0.1", "localhost"))


def test_a_port_that_another_program_has_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(WorkersError, match=address):
            Cluster((address, "b:1"), 0).listen()
