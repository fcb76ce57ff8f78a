import json
import sys

from launch import local

WORKER = """
import os, pathlib, sys
folder = pathlib.Path(sys.argv[1])
with (folder / f"{os.getpid()}").open("x") as file:
    file.write(os.environ["TF_CONFIG"])
"""


def tf_configs(folder):
    found = [json.loads(path.read_text()) for path in folder.iterdir()]
    return sorted(found, key=lambda config: config["task"]["index"])


def test_each_worker_has_its_index_in_one_cluster(tmp_path):
    assert local.run_workers([sys.executable, "-c", WORKER, str(tmp_path)], [{}] * 3, 0) == 0
    configs = tf_configs(tmp_path)
    tasks = [{"type": "worker", "index": index} for index in range(3)]
    assert [config["task"] for config in configs] == tasks
    assert configs[0]["cluster"] == configs[1]["cluster"] == configs[2]["cluster"]
    assert len(set(configs[0]["cluster"]["worker"])) == 3


def test_a_restart_takes_new_ports(tmp_path):
    argv = [sys.executable, "-c", WORKER + "sys.exit(1)", str(tmp_path)]
    assert local.run_workers(argv, [{}], 1) == 1
    first, second = tf_configs(tmp_path)
    assert first["cluster"] != second["cluster"]
