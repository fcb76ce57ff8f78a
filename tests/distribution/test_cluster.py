"""Which workers TF_CONFIG names."""

import json
import socket

import pytest

from launch.local import free_ports
from trainer.distribution.cluster import Cluster, from_tf_config
from trainer.errors import UserError, WorkersError


def tf_config(cluster, kind="worker", index=0):
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


TWO = {"worker": ["a:1", "b:2"]}
CHIEF_AND_TWO = {"chief": ["a:1"], "worker": ["b:2", "c:3"]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (tf_config({"worker": ["a:1", "[::1]:2"]}, index=1), Cluster(("a:1", "[::1]:2"), 1)),
        (tf_config(CHIEF_AND_TWO, "chief"), Cluster(("a:1", "b:2", "c:3"), 0)),
        (tf_config(CHIEF_AND_TWO, index=1), Cluster(("a:1", "b:2", "c:3"), 2)),
        (tf_config({"worker": ["a:1"]}), None),
        (tf_config({}), None),
        ("", None),
    ],
)
def test_the_chief_comes_first_and_one_worker_is_no_cluster(monkeypatch, text, expected):
    monkeypatch.setenv("TF_CONFIG", text)
    assert from_tf_config() == expected


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{\n", "cannot be read"),
        (json.dumps({"cluster": TWO}), "cannot be read"),
        (tf_config({"worker": ["a", "b:2"]}), "cannot be read"),
        (tf_config({"worker": ["a:1", "b:70000"]}), "cannot be read"),
        (tf_config(["a:1", "b:2"]), "cannot be read"),
        (tf_config(TWO, index=2), "index 2"),
        (tf_config(TWO, index=-1), "index -1"),
        (tf_config({"worker": ["a:1", "a:1"]}), "twice"),
        (tf_config({"chief": ["a:1", "b:2"]}, "chief"), "2 chiefs"),
        (tf_config({"ps": ["a:1"], "worker": ["b:2"]}), "'ps'"),
        (tf_config(TWO, "evaluator"), "'evaluator'"),
    ],
)
def test_a_tf_config_that_names_no_workers_is_refused(monkeypatch, text, named):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError) as error:
        from_tf_config()
    assert named in str(error.value)


def test_only_this_machine_reaches_a_worker_with_a_loopback_address():
    for host, local in (("127.0.0.1", True), ("localhost", True), ("node7", False)):
        with Cluster((f"{host}:{free_ports(1)[0]}", "b:1"), 0).listen() as listener:
            assert (listener.getsockname()[0] == "127.0.0.1") == local


def test_a_port_that_another_program_has_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(WorkersError, match=address):
            Cluster((address, "b:1"), 0).listen()
