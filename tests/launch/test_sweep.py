"""A sweep of a stand-in for the trainer, and one of the trainer itself."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from launch import grids, supervisor
from tests.evaluation.test_compare import MEASURED, cells, make_run
from tests.runs import final_state
from trainer.errors import UserError

ROOT = Path(__file__).parents[2]
SWEEP = [sys.executable, "-m", "launch.sweep"]
# Called as `python -m` is, with the folder of a run to copy. Leaves a trace of each call; what a
# run with a certain code size does besides is in the environment.
STANDIN = """
import json, os, pathlib, shutil, signal, sys, time
template, module, *rest = sys.argv[1:]
flags = dict(flag.lstrip("-").split("=", 1) for flag in rest)
run = pathlib.Path(flags["workdir"])
traces = run.parent.with_name("traces")
traces.mkdir(exist_ok=True)
number = len(list(traces.glob(f"{module}-{run.name}-*")))
trace = traces / f"{module}-{run.name}-{number}"
seen = {"flags": flags, "gpus": os.environ["CUDA_VISIBLE_DEVICES"], "began": time.time()}
trace.write_text(json.dumps(seen))
exec(json.loads(os.environ["BEHAVIOURS"]).get(run.name, "pass"))
if module == "trainer":
    shutil.copytree(template, run, ignore=lambda *_: ["metrics.json"], dirs_exist_ok=True)
    print("trained")
else:
    shutil.copy(pathlib.Path(template) / "metrics.json", run)
trace.write_text(json.dumps(seen | {"ended": time.time()}))
"""


class Sweep:
    """Starts sweeps of the stand-in in a folder, and reads the traces that it leaves."""

    def __init__(self, folder):
        self.workdir = folder / "sweep"
        self.traces = folder / "traces"
        self._folder = folder
        make_run(folder / "template", MEASURED)
        (folder / "standin.py").write_text(STANDIN)

    def start(self, *flags, gpus="", behaviours=None):
        module = (sys.executable, str(self._folder / "standin.py"), str(self._folder / "template"))
        driver = f"from launch import arguments, sweep\nsweep._MODULE = {module}\n"
        driver += "arguments.run(sweep.main)"
        return subprocess.Popen(
            [
                *(sys.executable, "-c", driver, *flags, "--"),
                *("--config=configs/dense.py", f"--workdir={self.workdir}"),
            ],
            cwd=ROOT,
            env=os.environ
            | {"CUDA_VISIBLE_DEVICES": gpus, "BEHAVIOURS": json.dumps(behaviours or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *flags, **how):
        return finish(self.start(*flags, **how))

    def seen(self, module, run):
        """What each call of a module for a run has left."""
        paths = sorted(self.traces.glob(f"{module}-{run}-*"))
        return [json.loads(path.read_text()) for path in paths]


@pytest.fixture
def sweep(tmp_path):
    return Sweep(tmp_path)


def finish(process):
    """What a process left with and wrote, out and err."""
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def test_a_grid_is_every_combination_of_its_values():
    grid = grids.read(["config.model.code_size=2,8", "config.optimizer.learning_rate=1e-3,3e-3"])
    assert list(grids.combinations(grid).items())[1:3] == [
        (
            "code_size=2,learning_rate=3e-3",
            {"config.model.code_size": "2", "config.optimizer.learning_rate": "3e-3"},
        ),
        (
            "code_size=8,learning_rate=1e-3",
            {"config.model.code_size": "8", "config.optimizer.learning_rate": "1e-3"},
        ),
    ]
    assert len(grids.combinations(grid)) == 4


def test_names_are_short_safe_and_tell_keys_apart():
    grid = {"config.model.name": ["vae"], "config.data.name": ["arrays:a/b c.npz"]}
    assert list(grids.combinations(grid)) == ["model.name=vae,data.name=arrays_a_b_c.npz"]
    assert list(grids.combinations({"config.seed": ["-1"]})) == ["seed=-1"]


def test_the_commas_of_a_tuple_are_part_of_it():
    grid = grids.read(["config.model.hidden_units=(128,64),(64,)"])
    assert grid == {"config.model.hidden_units": ["(128,64)", "(64,)"]}
    assert list(grids.combinations(grid)) == ["hidden_units=128_64", "hidden_units=64"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["config.seed"], "--grid=config.seed is not allowed; it takes config.KEY=VALUE"),
        (["config.seed="], "--grid=config.seed= is not allowed"),
        (["config.seed=1,,2"], "--grid=config.seed=1,,2 is not allowed"),
        (["workdir=a,b"], "--grid=workdir=a,b is not allowed"),
        (["config.seed=1", "config.seed=2"], "--grid gives config.seed twice"),
        (["config.seed=1,2,1"], "--grid=config.seed=1,2,1 gives 1 twice"),
        (["config.data.name=a/b,a:b"], "--grid: the folder name=a_b would be that of"),
    ],
)
def test_a_grid_that_makes_no_sweep_is_refused(texts, message):
    with pytest.raises(UserError) as error:
        grids.combinations(grids.read(texts))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--grid=config.KEY=VALUE,VALUE,... is missing"),
        (["--grid=config.seed=1,"], "--grid=config.seed=1, is not allowed"),
        (["--grid=config.seed=1", "--parallel=2"], "parallel=2 cannot share 1 GPUs evenly"),
        (["--grid=config.batch_size=1"], "config.batch_size is in --grid, and 64 after --"),
    ],
)
def test_a_wrong_flag_is_told_in_one_line_and_nothing_is_begun(flags, message, tmp_path):
    workdir = tmp_path / "sweep"
    trainer_flags = ["--config=configs/dense.py", f"--workdir={workdir}", "--config.batch_size=64"]
    ended = subprocess.run(
        [*SWEEP, *flags, "--", *trainer_flags],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"error: {message}")
    assert len(ended.stderr.splitlines()) == 1
    assert not workdir.exists()


def test_each_run_is_trained_and_evaluated_in_its_folder_and_all_are_compared(sweep):
    status, out, err = sweep.run("--grid=config.seed=0,1", "--grid", "config.model.code_size=2,8")
    assert (status, err) == (0, "")
    names = [f"seed={seed},code_size={size}" for seed in (0, 1) for size in (2, 8)]
    for name in names:
        (trained,) = sweep.seen("trainer", name)
        assert trained["flags"] == {
            "config": "configs/dense.py",
            "workdir": str(sweep.workdir / name),
            "config.seed": name[5],
            "config.model.code_size": name[-1],
        }
        (evaluated,) = sweep.seen("trainer.evaluate", name)
        assert evaluated["flags"] == {"workdir": str(sweep.workdir / name)}
        assert f"[{name}] trained" in out.splitlines()
    assert sorted(row["run"] for row in cells(out)) == sorted(names)
    assert cells((sweep.workdir / "compare.md").read_text()) == cells(out)


def test_a_sweep_may_lie_at_home(sweep, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    sweep.workdir = "~/sweep"
    assert sweep.run("--grid=config.seed=0")[0] == 0
    assert (tmp_path / "sweep" / "seed=0" / "config.json").exists()
    assert (tmp_path / "sweep" / "compare.md").exists()


def test_runs_are_one_after_another_unless_told_otherwise(sweep):
    sweep.run("--grid=config.seed=0,1", gpus="0,1")
    calls = [sweep.seen(m, f"seed={n}")[0] for n in (0, 1) for m in ("trainer", "trainer.evaluate")]
    assert all(a["ended"] < b["began"] for a, b in itertools.pairwise(calls))
    assert {call["gpus"] for call in calls} == {"0,1"}


def test_runs_side_by_side_have_their_share_of_the_gpus(sweep):
    # The first holds its share until the two others are done.
    wait = "while len(list(traces.glob('trainer.evaluate-*'))) < 2: time.sleep(.01)"
    behaviours = {"seed=0": f"if module == 'trainer':\n    {wait}"}
    flags = ("--grid=config.seed=0,1,2", "--parallel=2")
    assert sweep.run(*flags, gpus="0,1,GPU-a,3", behaviours=behaviours)[0] == 0
    gpus = [sweep.seen("trainer", f"seed={seed}")[0]["gpus"] for seed in range(3)]
    assert gpus == ["0,1", "GPU-a,3", "GPU-a,3"]


def test_a_sweep_that_is_started_again_measures_only_what_is_not(sweep):
    sweep.run("--grid=config.seed=0,1")
    (sweep.workdir / "seed=1" / "metrics.json").write_text('{"step": 10}')
    assert sweep.run("--grid=config.seed=0,1")[0] == 0
    calls = [len(sweep.seen("trainer.evaluate", f"seed={seed}")) for seed in (0, 1)]
    assert calls == [1, 2]
    assert [len(sweep.seen("trainer", f"seed={seed}")) for seed in (0, 1)] == [2, 2]


def test_a_mistake_ends_its_run_alone_and_the_sweep_says_which(sweep):
    behaviours = {"seed=0": "print('error: seed', file=sys.stderr); sys.exit(2)"}
    status, out, err = sweep.run("--grid=config.seed=0,1", behaviours=behaviours)
    assert status == 2
    assert err.splitlines() == [
        "[seed=0] error: seed",
        "launch: 1 of 2 runs did not finish: seed=0 with status 2",
    ]
    assert len(sweep.seen("trainer", "seed=0")) == 1
    assert [row["run"] for row in cells(out)] == ["seed=1"]


def test_an_unreadable_log_ends_its_own_job_and_no_other(sweep):
    damage = """
if module == "trainer":
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"step": 2}')
    sys.exit(0)
print("error: the log is damaged", file=sys.stderr)
sys.exit(2)
"""
    behaviours = {"seed=0": damage, "seed=1": "time.sleep(1)"}
    flags = ("--grid=config.seed=0,1", "--parallel=2")
    status, out, err = sweep.run(*flags, gpus="0,1", behaviours=behaviours)
    assert status == 2
    assert err.splitlines() == [
        "[seed=0] error: the log is damaged",
        "launch: 1 of 2 runs did not finish: seed=0 with status 2",
    ]
    assert [row["run"] for row in cells(out)] == ["seed=1"]


def test_a_run_that_crashes_is_started_again_a_bounded_number_of_times(sweep):
    behaviours = {"seed=0": "if number == 0: sys.exit(9)", "seed=1": "os.kill(os.getpid(), 9)"}
    status, _, err = sweep.run("--grid=config.seed=0,1", "--max_restarts=2", behaviours=behaviours)
    assert status == 128 + signal.SIGKILL
    assert len(sweep.seen("trainer", "seed=0")) == 2
    assert len(sweep.seen("trainer", "seed=1")) == 3
    assert err.splitlines()[-1] == "launch: 1 of 2 runs did not finish: seed=1 with status 137"
    assert "launch: [seed=1] was ended by SIGKILL" in err
    assert "launch: restarting seed=1, restart 2 of 2" in err


def test_a_run_that_alone_is_preempted_is_not_started_again(sweep):
    status, _, err = sweep.run("--grid=config.seed=0,1", behaviours={"seed=0": "sys.exit(75)"})
    assert status == 75
    assert "1 of 2 runs did not finish: seed=0 with status 75" in err
    assert len(sweep.seen("trainer", "seed=0")) == 1
    assert len(sweep.seen("trainer.evaluate", "seed=1")) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_each_trainer_once_and_ends_the_sweep(sweep, number):
    patient = """
seen = []
signal.signal(signal.SIGTERM, lambda *_: seen.append("SIGTERM"))
signal.signal(signal.SIGINT, lambda *_: seen.append("SIGINT"))
(traces / f"ready-{run.name}").touch()
while not seen:
    time.sleep(0.01)
time.sleep(0.5)
(traces / f"told-{run.name}").write_text(" ".join(seen))
sys.exit(75)
"""
    behaviours = {"seed=0": patient, "seed=1": patient}
    process = sweep.start("--grid=config.seed=0,1,2", "--parallel=2", behaviours=behaviours)
    while len(list(sweep.traces.glob("ready-*"))) < 2:
        time.sleep(0.01)
    process.send_signal(number)
    status, _, err = finish(process)
    assert status == 75
    assert err == "launch: stopped; start the same command again to go on\n"
    told = [(sweep.traces / f"told-seed={seed}").read_text() for seed in (0, 1)]
    assert told == [number.name] * 2
    assert not sweep.seen("trainer", "seed=2")
    assert not (sweep.workdir / "compare.md").exists()


def test_what_does_not_end_after_a_signal_is_killed(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(supervisor, "_EXIT_SECONDS", 0.2)
    ready = tmp_path / "ready"
    deaf = f"""
import pathlib, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path({str(ready)!r}).touch()
signal.pause()
"""
    received: list[int] = []

    def receive_once_ready():
        while not ready.exists():
            time.sleep(0.01)
        received.append(signal.SIGTERM)

    threading.Thread(target=receive_once_ready).start()
    command = (sys.executable, "-c", deaf)
    jobs = [
        supervisor.Job(name, iter([lambda env: [supervisor.Command("a", command, env)]]))
        for name in "ab"
    ]
    ended = supervisor.supervise(jobs, [{}], 1, received)
    assert ended == {"a": 128 + signal.SIGKILL}
    assert "launch: [a] does not end and is killed" in capfd.readouterr().err


def test_a_key_that_the_config_does_not_have_is_told_by_the_trainer(tmp_path):
    trainer_flags = ["--config=configs/dense.py", f"--workdir={tmp_path / 'sweep'}"]
    command = [*SWEEP, "--grid=config.model.depth=1", "--", *trainer_flags]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("[depth=1] error: the config has no key 'depth'")
    assert not (tmp_path / "sweep").exists()


@pytest.mark.slow
def test_a_sweep_of_the_trainer_ends_in_a_comparison(tmp_path):
    trainer_flags = [
        *("--config=configs/dense.py", f"--workdir={tmp_path}", "--config.data.name=digits"),
        *("--config.num_epochs=0.5", "--config.execution=graph"),
        "--config.model.hidden_units=(16,)",
    ]
    command = [*SWEEP, "--grid=config.model.code_size=2,4", "--parallel=2", "--", *trainer_flags]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert sorted(row["code"] for row in cells(ended.stdout)) == ["2", "4"]
    assert all(0 < float(row["mse"]) < 1 for row in cells(ended.stdout))
    for size in (2, 4):
        assert final_state(tmp_path / f"code_size={size}")[0] == 6
    assert (tmp_path / "compare.png").exists()
