"""What a person types, and the one line that answers a mistake."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from trainer import cli
from trainer.config import load_config, parse
from trainer.errors import NonFiniteError, Preempted, UserError

ROOT = Path(__file__).parents[2]
OF_A_RUN = [
    *("trainer.__main__", "trainer.evaluate", "trainer.export", "trainer.finetune"),
    *("trainer.sample", "trainer.decode", "trainer.denoise", "trainer.encode"),
]
COMMANDS = [*OF_A_RUN, "trainer.checkpoints", "trainer.compare", "trainer.prepare"]


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


NO_TENSORFLOW = """
import runpy, sys
module, *sys.argv[1:] = sys.argv[1:]
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
finally:
    assert not {"keras", "tensorflow"} & sys.modules.keys()
"""
DENSE = ["--config=configs/dense.py", "--workdir=w"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/dense.py"], "--workdir=... is missing"),
        (["--workdir=w"], "--config=... is missing"),
        (["--config=configs/dense.py", "--workdir="], "it must name a folder"),
        (["--config=configs/none.py", "--workdir=w"], "configs/none.py"),
        (["--config=tests/__init__.py", "--workdir=w"], "get_config"),
        (["--config=LICENSE", "--workdir=w"], "LICENSE"),
        (["--config=dens", "--workdir=w"], "config='dens' is not known; allowed: concrete"),
        (["--config=deep-conv", "--workdir=w"], "config='deep-conv' is not known; allowed: concre"),
        ([*DENSE, "--cadence=3"], "'cadence'"),
        ([*DENSE, "3"], "'3' is no flag"),
        ([*DENSE, "--config.depth=3"], "'depth'; allowed: batch_size"),
        ([*DENSE, "--config.model.depth=3"], "'depth'; allowed: activation, code_activation"),
        ([*DENSE, "--config.num_epoch=3"], "'num_epochs'?"),
        ([*DENSE, "--config.batch_size=x"], "batch_size=x is not allowed; it takes a value of typ"),
        ([*DENSE, "--config.num_epochs=x"], "num_epochs=x is not allowed; it takes a value of typ"),
        ([*DENSE, "--config.deterministic=perhaps"], "it takes a value of type bool"),
        ([*DENSE, "--config.num_epochs=-1"], "num_epochs=-1.0 is not allowed; it must be above 0"),
        ([*DENSE, "--config.model.code_size=0"], "model.code_size=0 is not allowed"),
        ([*DENSE, "--config.model.loss=mae"], "model.loss='mae' is not known; allowed: mse, bce"),
        ([*DENSE, "--config.optimizer.name=lion"], "optimizer.name='lion' is not known; allowed"),
        ([*DENSE, "--config.data.channels=1"], "data.channels=1 is not allowed with 'mnist'"),
        (
            [*DENSE, "--config.model.loss=bce", "--config.model.output_activation=linear"],
            "model.loss='bce' needs model.output_activation='sigmoid'",
        ),
        (
            ["--config=vae", "--workdir=w", "--config.data.binarise=true"],
            "data.binarise=True needs model.binarisation='static'",
        ),
    ],
)
def test_a_mistake_of_a_training_is_told_without_tensorflow(arguments, message):
    assert_told_without_tensorflow(["trainer", *arguments], message)
    assert not (ROOT / "w").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --dataset=NAME or --config=FILE"),
        (["--dataset=digits", "--records"], "data.placement='records' is not allowed with 'digi"),
        (["--dataset=arrays:a.npz", "--image_size=8"], "data.image_size=8 is not allowed with 'ar"),
        (["--dataset=digits", "--image_size=-1"], "image_size=-1"),
        (["--dataset=digits", "--data_dir=x"], "--data_dir is not allowed with 'digits'"),
        (["--dataset=digits:9"], "'digits:9' is not known; it is written digits"),
        (["--dataset=noise:x"], "data.name='noise:x' is not allowed; noise:N takes a number"),
        (["--dataset=images:"], "data.name='images' names no folder"),
        (["--dataset=arrays"], "data.name='arrays' names no file"),
        (["--dataset=table:a,b,c"], "data.name='table:a,b,c' is not allowed; it is written"),
        (["--config=dense", "--config.data.channels=2"], "data.channels=2 is not allowed with 'mn"),
        (
            ["--config=dense", "--config.data.resplit_test=1"],
            "data.resplit_test=1.0 is not",
        ),
    ],
)
def test_a_mistake_about_data_is_told_without_tensorflow(arguments, message):
    assert_told_without_tensorflow(["trainer.prepare", *arguments], message)


def test_another_config_than_the_runs_is_told_without_tensorflow(tmp_path):
    run: dict[str, Any] = {"config": parse(load_config("dense")).to_dict()}
    run |= {key: {} for key in ("inputs", "versions", "executions")}
    run |= dict.fromkeys(("data_fingerprint", "run_id"), "")
    (tmp_path / "config.json").write_text(json.dumps(run))
    arguments = ["--config=dense", f"--workdir={tmp_path}", "--config.batch_size=3"]
    assert_told_without_tensorflow(["trainer", *arguments], "batch_size was 128, is 3")


def assert_told_without_tensorflow(arguments, message):
    command = [sys.executable, "-c", NO_TENSORFLOW, *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("workdir", ["w", "vae"])
def test_a_config_is_found_by_its_name_from_anywhere(tmp_path, workdir):
    (tmp_path / workdir).mkdir()  # as the run before has made it
    command = [
        sys.executable,
        "-m",
        "trainer",
        "--config=vae",
        "--config.num_epochs=-1",
        f"--workdir={workdir}",
    ]
    result = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr == "error: num_epochs=-1.0 is not allowed; it must be above 0\n"


@pytest.mark.parametrize("module", COMMANDS)
def test_a_wrong_flag_needs_no_tensorflow(module):
    script = f"import sys, {module}; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


@pytest.mark.parametrize("module", OF_A_RUN)
def test_help_names_the_flags(module):
    assert "--workdir: Folder of the run" in run(module, "--help").stdout


def test_a_workdir_without_a_run_gets_one_line_and_status_2(tmp_path):
    result = run("trainer.evaluate", f"--workdir={tmp_path}")
    assert result.returncode == 2
    assert result.stderr == f"error: {tmp_path} holds no run: there is no config.json in it\n"


@pytest.mark.parametrize(("end", "status"), [(UserError, 2), (Preempted, 75), (NonFiniteError, 1)])
def test_every_end_has_its_status_and_its_line(end, status, capsys, monkeypatch):
    monkeypatch.setattr(cli, "import_tensorflow", lambda: None)

    def main():
        raise end("what happened")

    with pytest.raises(SystemExit) as error:
        cli._run(main)
    assert error.value.code == status
    assert capsys.readouterr().err.endswith("what happened\n")


def test_the_first_process_of_a_container_can_be_stopped_while_tensorflow_is_imported(tmp_path):
    alone = ["unshare", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespaces can be made here")
    command = ["trainer", "--config=configs/dense.py", f"--workdir={tmp_path / 'run'}"]
    outside = subprocess.Popen([*alone, sys.executable, "-m", *command], cwd=ROOT)
    while not (first := psutil.Process(outside.pid).children()):
        time.sleep(0.01)
    while not catches(first[0].pid, signal.SIGTERM):
        time.sleep(0.01)
    first[0].send_signal(signal.SIGTERM)
    assert outside.wait(timeout=60) == Preempted.exit_status


def catches(pid, number):
    """Whether a process has a handler for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_workdir_without_permission_gets_one_line(tmp_path):
    tmp_path.chmod(0o500)
    result = run("trainer", "--config=configs/dense.py", f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 2
    assert "cannot be written" in result.stderr
