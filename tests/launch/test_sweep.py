"""A sweep of a stand-in for the trainer, and one of the trainer itself."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from launch import forks, grids
from launch.supervisor import Command
from tests.evaluation.test_compare import MEASURED, cells, make_run
from tests.launched import ROOT, run_launcher
from tests.marks import slow
from tests.runs import assert_same_bits, final_state
from trainer.errors import UserError

# Called as `python -m` is, with the folder of a run to copy. Leaves a trace of each call; what some
# runs do besides is in the environment.
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
        self._modules = (sys.executable, str(folder / "standin.py"), str(folder / "template"))
        make_run(folder / "template", MEASURED | {"step": 10})  # of the best checkpoint
        (folder / "standin.py").write_text(STANDIN)

    def start(self, *flags, gpus="", behaviours=None):
        driver = f"from launch import arguments, sweep\nsweep._MODULE = {self._modules}\n"
        own = [*flags, "--", "--config=configs/dense.py", f"--workdir={self.workdir}"]
        return subprocess.Popen(
            [sys.executable, "-c", f"{driver}arguments.run(sweep.main)", *own],
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


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (
            ["config.model.name=vae", "config.data.name=arrays:a/b c.npz"],
            ["model.name=vae,data.name=arrays_a_b_c.npz"],
        ),
        (["config.seed=-1"], ["seed=-1"]),
        (["config.model.hidden_units=(128,64),(64,)"], ["hidden_units=128_64", "hidden_units=64"]),
    ],
)
def test_names_of_runs_are_short_and_safe_and_keep_keys_apart(texts, names):
    assert list(grids.combinations(grids.read(texts))) == names


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        (["config.seed"], "--grid=config.seed is"),
        (["config.seed=1,,2"], "--grid=config.seed=1,,2 is"),
        (["workdir=a,b"], "--grid=workdir=a,b is"),
        (["config.seed=1", "config.seed=2"], "config.seed twice"),
        (["config.seed=1,2,1"], "1 twice"),
        (["config.data.name=a/b,a:b"], "name=a_b"),
    ],
)
def test_a_grid_that_makes_no_sweep_is_refused(texts, named):
    with pytest.raises(UserError) as error:
        grids.combinations(grids.read(texts))
    assert named in str(error.value)


def test_each_run_is_trained_and_evaluated_in_its_folder_and_all_are_compared(sweep):
    grid = ("--grid=config.seed=0,1", "--grid", "config.model.code_size=2,8")
    status, out, err = sweep.run(*grid, gpus="0,1")
    assert (status, err) == (0, "")
    names = [f"seed={seed},code_size={size}" for seed in (0, 1) for size in (2, 8)]
    times = []
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
        for process in (trained, evaluated):
            assert process["gpus"] == "0,1"
            times += [process["began"], process["ended"]]
    assert times == sorted(times)  # one process at a time
    assert sorted(row["run"] for row in cells(out)) == sorted(names)
    assert cells((sweep.workdir / "compare.md").read_text()) == cells(out)


def test_runs_that_train_at_a_time_share_the_gpus(sweep):
    # The first trains until the other is done.
    wait = "while not list(traces.glob('trainer.evaluate-*')): time.sleep(0.01)"
    behaviours = {"seed=0": f"if module == 'trainer':\n    {wait}"}
    flags = ("--grid=config.seed=0,1", "--parallel=2")
    assert sweep.run(*flags, gpus="0,1", behaviours=behaviours)[0] == 0
    assert [sweep.seen("trainer", f"seed={seed}")[0]["gpus"] for seed in (0, 1)] == ["0", "1"]


def test_a_sweep_that_is_started_again_measures_only_what_is_not(sweep, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    sweep.workdir = "~/sweep"
    sweep.run("--grid=config.seed=0,1")
    (tmp_path / "sweep" / "seed=1" / "metrics.json").write_text('{"step": 10}')
    assert sweep.run("--grid=config.seed=0,1")[0] == 0
    assert [len(sweep.seen("trainer", f"seed={seed}")) for seed in (0, 1)] == [2, 2]
    assert [len(sweep.seen("trainer.evaluate", f"seed={seed}")) for seed in (0, 1)] == [1, 2]


def test_an_unreadable_log_ends_its_own_job_and_no_other(sweep):
    damage = """
if module == "trainer":
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"step": 2}')
    sys.exit(0)
print("error: the log is damaged", file=sys.stderr)
sys.exit(2)
"""
    status, out, err = sweep.run("--grid=config.seed=0,1", behaviours={"seed=0": damage})
    assert status == 2
    assert err.splitlines()[0] == "[seed=0] error: the log is damaged"
    assert [row["run"] for row in cells(out)] == ["seed=1"]


@pytest.mark.parametrize(
    ("ends", "status"), [slow({0: 75}, 75), ({0: 75, 1: 9}, 9), slow({0: 9, 1: 2}, 2)]
)
def test_a_sweep_ends_with_a_refusal_before_a_crash_before_a_preemption(sweep, ends, status):
    behaviours = {f"seed={seed}": f"sys.exit({end})" for seed, end in ends.items()}
    behaviours["seed=2"] = "if module == 'trainer' and number == 0: sys.exit(9)"
    ended, out, err = sweep.run("--grid=config.seed=0,1,2", behaviours=behaviours)
    assert ended == status
    finished = [f"seed={seed}" for seed in range(3) if seed not in ends]
    assert sorted(row["run"] for row in cells(out)) == finished
    for seed, end in ends.items():
        assert f"seed={seed} with status {end}" in err.splitlines()[-1]
        assert len(sweep.seen("trainer", f"seed={seed}")) == (2 if end == 9 else 1)


def test_a_run_has_a_session_of_its_own_and_takes_no_other_down(sweep):
    first = "if module == 'trainer' and number == 0: "
    killed = first + "os.kill({}, signal.SIGKILL); time.sleep(60)"
    behaviours = {
        "seed=0": "assert os.getsid(0) == os.getpid(); os.environ['OWN'] = '0'",
        "seed=1": killed.format("os.getpid()"),
        "seed=2": killed.format("os.getppid()"),  # the process that forks
        "seed=3": "assert 'OWN' not in os.environ",
    }
    status, out, err = sweep.run("--grid=config.seed=0,1,2,3", behaviours=behaviours)
    assert status == 0, err
    assert sorted(row["run"] for row in cells(out)) == sorted(behaviours)
    assert [len(sweep.seen("trainer", run)) for run in behaviours] == [1, 2, 2, 1]
    assert "[seed=1] was ended by SIGKILL" in err


def test_a_signal_ends_the_sweep_before_it_compares(sweep):
    patient = """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
(traces / f"ready-{run.name}").touch()
time.sleep(60)
"""
    process = sweep.start("--grid=config.seed=0,1", behaviours={"seed=1": patient})
    while not list(sweep.traces.glob("ready-*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 75
    assert len(sweep.seen("trainer.evaluate", "seed=0")) == 1
    assert not (sweep.workdir / "compare.md").exists()


def test_a_run_of_a_sweep_that_is_killed_gets_one_sigterm(sweep):
    counts = """
signal.signal(signal.SIGTERM, lambda *_: (traces / f"stop-{time.time_ns()}").touch())
(traces / "ready").touch()
end = time.time() + 2
while time.time() < end: time.sleep(0.1)
(traces / "end").touch()
"""
    process = sweep.start("--grid=config.seed=0", behaviours={"seed=0": counts})
    while not (sweep.traces / "ready").exists():
        time.sleep(0.01)
    process.kill()
    finish(process)
    while not (sweep.traces / "end").exists():
        time.sleep(0.01)
    assert len(list(sweep.traces.glob("stop-*"))) == 1


@pytest.mark.parametrize(
    ("end", "status"), [("", 0), ("sys.exit()", 0), ("sys.exit(75)", 75), ("sys.exit('why')", 1)]
)
def test_a_fork_calls_what_is_registered_for_its_exit_and_loses_no_output(end, status, tmp_path):
    script = tmp_path / "command.py"
    script.write_text(
        "import atexit, sys\n"
        "atexit.register(print, 'at the exit', end='')\n"
        f"print('before', end=' ')\n{end}\n"
    )
    with forks.ForkServer() as server:
        fork = server.start(Command("run", [sys.executable, str(script)], {}))
        assert fork.wait() == status
        assert fork.stdout.read() == b"before at the exit"
        assert fork.stderr.read() == (b"why\n" if status == 1 else b"")


@pytest.mark.slow
def test_the_trainer_and_its_evaluation_take_what_a_sweep_gives_them(tmp_path):
    flags = ["--config=configs/dense.py", "--config.data.name=digits", "--config.num_epochs=0.5"]
    flags += ["--config.execution=graph", "--config.model.hidden_units=(16,)"]

    def sweep_over(values):
        workdir = f"--workdir={tmp_path / 'sweep'}"
        return run_launcher("sweep", f"--grid=config.{values}", "--", *flags, workdir)

    ended = sweep_over("model.depth=1")
    assert ended.returncode == 2
    assert ended.stderr.startswith("[depth=1] error: the config has no key 'depth'")
    assert not (tmp_path / "sweep").exists()
    ended = sweep_over("model.code_size=3,4")
    assert ended.returncode == 0, ended.stderr
    rows = cells(ended.stdout)
    assert [row["code"] for row in rows] == ["3", "4"]
    assert all(0 < float(row["mse"]) < 1 for row in rows)
    second = tmp_path / "sweep" / "code_size=4"
    assert final_state(second)[0] == 6
    own = ["--config.model.code_size=4", f"--workdir={tmp_path / 'own'}"]  # not in a fork
    subprocess.run([sys.executable, "-m", "trainer", *flags, *own], cwd=ROOT, check=True)
    assert_same_bits(second, tmp_path / "own")
