"""No secret of the environment, and no home folder, is in what a run or a launcher writes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import files_in

ROOT = Path(__file__).parent.parent
PLANTED = "hunter2-0f3c9a7d41"
HOME = "home-of-somebody"
VARIABLES = ("WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "PASSWORD", "HTTPS_PROXY", "LD_NOTHING")
TINY = (
    *("--config.data.name=digits", "--config.num_epochs=0.1", "--config.execution=graph"),
    *("--config.model.hidden_units=(4,)", "--config.model.code_size=2", "--config.batch_size=64"),
)


def run(folder, *command):
    """Runs a command in a folder of a home, with a secret in several environment variables."""
    home = folder / HOME
    (home / "work").mkdir(parents=True, exist_ok=True)
    secrets = dict.fromkeys(VARIABLES, f"https://me:{PLANTED}@proxy")
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=home / "work",
        env=os.environ | secrets | {"HOME": str(home), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )


@pytest.mark.slow
def test_no_secret_and_no_home_is_in_what_a_run_writes_or_says(tmp_path):
    config = f"--config={ROOT}/configs/dense.py"
    commands = [
        ("trainer", config, "--workdir=run", *TINY, "--config.histograms=True"),
        ("trainer.evaluate", "--workdir=run"),
        ("trainer.encode", "--workdir=run", "--input=test", "--output=codes.npz"),
        ("trainer.export", "--workdir=run", "--output=export", "--formats=keras"),
    ]
    for command in commands:
        done = run(tmp_path, *command)
        assert done.returncode == 0, done.stderr
        for secret in (PLANTED, HOME):
            assert secret.encode() not in done.stdout + done.stderr, command
    found = files_in(tmp_path)
    assert len(found) > 15
    for path, content in found.items():
        for secret in (PLANTED, HOME, str(ROOT)):
            assert secret.encode() not in content, path


@pytest.mark.parametrize(
    "command",
    [
        ("launch.slurm", "--nodes=2", "--output=job.sh"),
        ("launch.kubernetes", "--image=i", "--volume_claim=c", "--workers=2", "--tensorboard"),
    ],
)
def test_no_secret_of_the_environment_is_in_what_a_launcher_writes(tmp_path, command):
    done = run(tmp_path, *command, "--", "--config=c.py", "--workdir=/runs/w")
    assert done.returncode == 0, done.stderr
    for text in (done.stdout, done.stderr, *files_in(tmp_path).values()):
        assert PLANTED.encode() not in text


@pytest.mark.parametrize(
    "command",
    [
        ("trainer", f"--config={ROOT}/configs/dense.py", "--workdir=w"),
        ("launch.local", "--", "--config=c.py", "--workdir=w"),
    ],
)
def test_the_value_of_a_flag_that_is_not_known_is_not_repeated(tmp_path, command):
    module, *rest = command
    done = run(tmp_path, module, f"--api_token={PLANTED}", *rest)
    assert done.returncode == 2
    assert b"api_token" in done.stderr
    assert PLANTED.encode() not in done.stdout + done.stderr
    assert files_in(tmp_path) == {}
