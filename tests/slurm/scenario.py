"""The jobs that `tests/slurm/run` starts on its two nodes, by launch.slurm.

A training is preempted and requeued, and ends with the weights of an undisturbed one on a single
process. A job that is cancelled is not requeued.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.runs import final_state

LAST_STEP = 600
BATCH_SIZE = 64
TRAINING_IMAGES = 1366  # of the digits
TRAINER = [
    "--config=configs/linear.py",  # Adam on relu layers would make much of the rounding
    "--config.data.name=digits",
    f"--config.num_epochs={LAST_STEP * BATCH_SIZE / TRAINING_IMAGES}",
    f"--config.batch_size={BATCH_SIZE}",
    "--config.execution=graph",
    "--config.steps_per_call=1",
    "--config.log_every_steps=10",
    "--config.validate_every_steps=0",
]
PATIENCE_SECONDS = 120
LARGEST_DIFFERENCE = 1e-5  # between the sums of one replica and of two


def main() -> None:
    folder = Path(sys.argv[1])
    until(lambda: said("sinfo", "--noheader", "--format=%T") == "idle", "the nodes are there")
    preempted_training(folder)
    cancelled_job(folder)


def preempted_training(folder: Path) -> None:
    run, alone = folder / "run", folder / "alone"
    job = submit(folder, sys.executable, [*TRAINER, f"--workdir={run}"])
    log = folder / f"run-{job}.log"
    until(lambda: logged_step(run) > 0, f"job {job} trains")
    subprocess.run(["scancel", "--signal=TERM", job], check=True)
    until(lambda: state(job) == "PENDING", f"job {job} is requeued")
    text = log.read_text()
    for node, task in (("n1", 0), ("n2", 1)):
        assert f"{node}: task {task}: Exited with exit code 75" in text
        assert text.count(f"{task}: stopping after") == 1
    stopped = re.search(r"0: stopped at step (\d+)", text)
    assert stopped
    step = int(stopped[1])
    assert 0 < step < LAST_STEP

    until(lambda: state(job) == "COMPLETED", f"job {job} finishes")
    assert re.search(rf"0: resuming from .*{step:010d}", log.read_text())
    print(f"job {job}: preempted at step {step}, requeued, resumed, finished", flush=True)

    command = [sys.executable, "-m", "trainer", *TRAINER, f"--workdir={alone}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (last_step, ours), (_, theirs) = final_state(run), final_state(alone)
    assert last_step == LAST_STEP
    difference = max(float(np.max(np.abs(ours[path] - theirs[path]))) for path in theirs)
    print(f"the state differs from that of a run left alone by {difference:.1e}", flush=True)
    assert difference < LARGEST_DIFFERENCE


def cancelled_job(folder: Path) -> None:
    job = submit(folder, str(stand_in(folder)), ["--config=none", f"--workdir={folder / 'none'}"])
    log = folder / f"none-{job}.log"
    until(lambda: log.exists() and log.read_text().count("training") == 2, f"job {job} runs")
    subprocess.run(["scancel", job], check=True)
    until(lambda: state(job) not in ("RUNNING", "COMPLETING"), f"job {job} ends")
    assert log.read_text().count("stopping") == 2
    assert state(job) == "CANCELLED"
    print(f"job {job}: cancelled, and not requeued", flush=True)


def stand_in(folder: Path) -> Path:
    """A trainer that waits for its SIGTERM."""
    path = folder / "trainer"
    path.write_text(
        "#!/bin/bash\ntrap 'echo stopping; exit 75' TERM\necho training\n"
        "while :; do sleep 0.1; done\n"
    )
    path.chmod(0o755)
    return path


def submit(folder: Path, python: str, trainer_flags: list[str]) -> str:
    """Has launch.slurm submit a job; returns its number."""
    launcher = [sys.executable, "-m", "launch.slurm", "--nodes=2", f"--python={python}"]
    own = ["--submit", f"--sbatch=--output={folder}/%x-%j.log"]
    return said(*launcher, *own, "--", *trainer_flags)


def state(job: str) -> str:
    found = re.search(r"JobState=(\w+)", said("scontrol", "show", "job", job))
    assert found
    return found[1]


def said(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def logged_step(run: Path) -> int:
    """The last step in a run's metrics, 0 before there are any."""
    log = run / "metrics.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def until(holds: Callable[[], bool], what: str) -> None:
    """Waits until something holds, within the patience of this test."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < end, f"waited {PATIENCE_SECONDS} seconds in vain until {what}"
        time.sleep(0.2)


if __name__ == "__main__":
    main()
