"""The script of launch.slurm, run by bash; what Slurm itself does with it: `make test-slurm`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launched import ROOT, run_launcher
from trainer.distribution.cluster import Cluster, from_tf_config

TRAINER = ("--config=configs/conv.py", "--workdir=runs/conv")

# Stand-ins for Slurm: two nodes, whose tasks run one after the other.
SCONTROL = """#!/bin/bash
case "$1 $2" in
"show hostnames") printf '%s\\n' n9 n10 | head -n "$SLURM_JOB_NUM_NODES" ;;
"show job") echo "JobId=$3 JobState=$STATE Reason=None" ;;
*) echo "$*" >> "$RECORD/scontrol" ;;
esac
"""
SRUN = """#!/bin/bash
kill -TERM $PPID
while [[ $1 == --* ]]; do shift; done
highest=0
for ((task = 0; task < SLURM_JOB_NUM_NODES; task++)); do
    SLURM_PROCID=$task "$@"
    status=$?
    highest=$((status > highest ? status : highest))
done
exit $highest
"""
SBATCH = """#!/bin/bash
echo "$*" >> "$RECORD/sbatch"
cat > "$RECORD/submitted"
[ -z "$REFUSAL" ] && echo 42 && exit
echo "sbatch: error: $REFUSAL" >&2
exit 3
"""
PYTHON = f"""#!{sys.executable} -S
import json, os, sys
from pathlib import Path
record = Path(os.environ["RECORD"])
with (record / "trainers").open("a") as log:
    seen = {{"argv": sys.argv[1:], "tf_config": os.environ.get("TF_CONFIG"), "cwd": os.getcwd()}}
    print(json.dumps(seen), file=log)
statuses = json.loads((record / "statuses").read_text())
(record / "statuses").write_text(json.dumps(statuses[1:]))
sys.exit(statuses[0])
"""


@pytest.fixture
def environment(tmp_path):
    """Of a login node, and of the batch script, whose fakes record what they are asked."""
    programs = tmp_path / "bin"
    programs.mkdir()
    fakes = {"scontrol": SCONTROL, "srun": SRUN, "sbatch": SBATCH, "a python": PYTHON}
    for name, text in fakes.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "RECORD": str(tmp_path),
        "REFUSAL": "",
        "STATE": "RUNNING",
        "SLURM_JOB_ID": "1230042",
        "SLURM_JOB_NODELIST": "n[9-10]",
        "SLURM_JOB_NUM_NODES": "1",
        "TF_CONFIG": "left over from something else",
    }


def launch(environment, *arguments, trainer=TRAINER):
    folder = environment["RECORD"]
    return run_launcher("slurm", *arguments, "--", *trainer, cwd=folder, **environment)


def run_job(environment, statuses, *arguments, nodes=1, trainer=TRAINER):
    """The job's exit status, its trainers and what it asks of Slurm; each trainer has a status."""
    record = Path(environment["RECORD"])
    python = f"--python={record / 'bin' / 'a python'}"
    text = launch(environment, f"--nodes={nodes}", python, *arguments, trainer=trainer).stdout
    (record / "statuses").write_text(json.dumps(statuses))
    job = subprocess.run(
        ["bash"],
        input=text,
        cwd="/",
        env=os.environ | environment | {"SLURM_JOB_NUM_NODES": str(nodes)},
        text=True,
        check=False,
    )
    trainers = [json.loads(line) for line in (record / "trainers").read_text().splitlines()]
    asked = record / "scontrol"
    return job.returncode, trainers, asked.read_text().splitlines() if asked.exists() else []


def test_each_task_is_a_worker_in_the_order_of_the_nodes(environment, monkeypatch):
    _, trainers, _ = run_job(environment, [0, 0], nodes=2)
    for index, trainer in enumerate(trainers):
        monkeypatch.setenv("TF_CONFIG", trainer["tf_config"])
        assert from_tf_config() == Cluster(("n9:20042", "n10:20042"), index)
    assert len(trainers) == 2


def test_a_restart_takes_another_port(environment):
    _, trainers, _ = run_job(environment, [1, 1, 0, 0], nodes=2)
    addresses = [json.loads(trainer["tf_config"])["cluster"]["worker"] for trainer in trainers]
    assert addresses == [["n9:20042", "n10:20042"]] * 2 + [["n9:20143", "n10:20143"]] * 2


def test_the_trainer_of_one_node_gets_its_flags_as_they_were_typed_where_they_were(environment):
    flags = (*TRAINER, "--config.data.name=arrays:a $HOME/`b`'\"\\ c\n.npz", "--x=*", "--y=", "é")
    _, trainers, _ = run_job(environment, [0], trainer=flags)
    assert trainers[0]["argv"] == ["-m", "trainer", *flags]
    assert trainers[0]["cwd"] == environment["RECORD"]
    assert trainers[0]["tf_config"] is None


@pytest.mark.parametrize(
    ("statuses", "nodes", "state", "status", "requeued"),
    [
        ([1, 0], 1, "RUNNING", 0, False),
        ([137, 2], 1, "RUNNING", 2, False),
        ([1, 137, 75], 1, "RUNNING", 75, True),
        ([1, 137, 1], 1, "RUNNING", 1, False),
        ([137, 1, 75, 75], 2, "RUNNING", 75, True),  # one of the two crashed
        ([75], 1, "COMPLETING", 75, False),  # as a job that is cancelled
        ([143], 1, "COMPLETING", 75, False),
        ([143], 1, "RUNNING", 75, True),  # a preemption, before Python handles signals
    ],
)
def test_a_crash_is_restarted_a_preemption_requeued_and_a_mistake_final(
    environment, statuses, nodes, state, status, requeued
):
    ended, trainers, asked = run_job(
        environment | {"STATE": state}, statuses, "--max_restarts=2", nodes=nodes
    )
    assert (ended, len(trainers)) == (status, len(statuses))
    assert asked == (["requeue 1230042"] if requeued else [])


def directives(text):
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if "#SBATCH" in line]


def test_slurm_is_asked_for_what_the_flags_say(environment):
    text = launch(
        environment,
        *("--nodes=2", "--gpus_per_node=8", "--cpus_per_task=16", "--memory_gib=64"),
        *("--time=1-12:00:00", "--partition=gpu", "--account=lab-1", "--name=vae.7"),
        *("--sbatch=--exclusive", "--sbatch=--output=logs/%j"),
    ).stdout
    assert directives(text) == [
        *("--job-name=vae.7", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=8"),
        *("--cpus-per-task=16", "--mem=64G", "--time=1-12:00:00", "--partition=gpu"),
        *("--account=lab-1", "--signal=TERM@120", "--requeue", "--output=%x-%j.log"),
        *("--open-mode=append", "--exclusive", "--output=logs/%j"),
    ]


def test_what_no_flag_says_is_left_to_the_cluster(environment):
    text = launch(environment, trainer=("--config=c.py", "--workdir=runs/a $b/")).stdout
    assert directives(text) == [
        *("--job-name=a__b", "--nodes=1", "--ntasks-per-node=1"),
        *("--signal=TERM@120", "--requeue", "--output=%x-%j.log", "--open-mode=append"),
    ]


def test_a_job_is_submitted_as_it_is_printed_and_written(environment):
    record = Path(environment["RECORD"])
    printed = launch(environment).stdout
    result = launch(environment, "--submit", "--output=job.sh")
    assert (result.returncode, result.stdout, result.stderr) == (0, "42\n", "")
    assert (record / "sbatch").read_text() == "--parsable\n"
    assert (record / "submitted").read_text() == printed
    assert (record / "job.sh").read_text() == printed


def test_what_sbatch_refuses_is_passed_on(environment):
    result = launch(environment | {"REFUSAL": "invalid account"}, "--submit")
    assert (result.returncode, result.stdout) == (3, "")
    assert result.stderr == "sbatch: error: invalid account\n"


def test_shellcheck_finds_nothing(environment):
    shellcheck = shutil.which("shellcheck", path=Path(sys.executable).parent)
    assert shellcheck, "pip install '.[dev]' brings it"
    script = Path(environment["RECORD"]) / "job.sh"
    launch(environment, "--nodes=2", f"--output={script}", trainer=(*TRAINER, "--x=$y"))
    subprocess.run([shellcheck, script, ROOT / "tests" / "slurm" / "run"], check=True)
