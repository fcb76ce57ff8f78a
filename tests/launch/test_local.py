import json
import subprocess
import sys
from pathlib import Path

import pytest

from launch import local

ROOT = Path(__file__).parents[2]
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
    assert [config["task"] for config in configs] == [
        {"type": "worker", "index": index} for index in range(3)
    ]
    assert configs[0]["cluster"] == configs[1]["cluster"] == configs[2]["cluster"]
    assert len(set(configs[0]["cluster"]["worker"])) == 3


def test_a_restart_takes_new_ports(tmp_path):
    argv = [sys.executable, "-c", WORKER + "sys.exit(1)", str(tmp_path)]
    assert local.run_workers(argv, [{}], 1) == 1
    first, second = tf_configs(tmp_path)
    assert first["cluster"] != second["cluster"]


def test_free_ports_differ():
    assert len(set(local.free_ports(50))) == 50


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--workers=0"], "--workers=0"),
        (["--workers=2"], "--config=... is missing"),
        (["--workers=2", "--", "--workdir=x"], "--config=... is missing"),
        (["--workers=2", "--", "--config=x"], "--workdir=... is missing"),
        (["--workers=2", "--config=x"], "'config'"),
    ],
)
def test_a_wrong_flag_gets_one_line_and_status_2(flags, named):
    argv = [sys.executable, "-m", "launch.local", *flags]
    result = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert named in result.stderr
    assert len(result.stderr.splitlines()) == 1
