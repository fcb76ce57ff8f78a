"""What a person types, and the one line that answers a mistake."""

import gc
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.typed import outcomes
from trainer import cli
from trainer.config import load_config, parse
from trainer.errors import NonFiniteError, Preempted, UserError
from trainer.tensorflow_import import paused_garbage_collector

ROOT = Path(__file__).parents[2]
OF_A_RUN = [
    *("trainer.__main__", "trainer.evaluate", "trainer.export", "trainer.finetune"),
    *("trainer.sample", "trainer.decode", "trainer.denoise", "trainer.encode"),
]


def typed(commands, folder):
    """The exit status and the output of commands, none of which may import TensorFlow."""
    return outcomes("light", [["-m", *words] for words in commands], cwd=folder)


DENSE = ["trainer", "--config=dense", "--workdir=w"]
MISTAKES = [  # what is typed, and what the line says
    (["trainer", "--config=dense"], "--workdir=... is missing"),
    (["trainer", "--workdir=v"], "--config=... is missing"),
    (["trainer", "--config=dense", "--workdir="], "it must name a folder"),
    (["trainer", "--config=configs/none.py", "--workdir=w"], "configs/none.py"),
    (["trainer", "--config=none.py", "--workdir=w"], "get_config"),
    (["trainer", "--config=LICENSE", "--workdir=w"], "LICENSE"),
    (
        ["trainer", "--config=deep-conv", "--workdir=w"],
        "'deep-conv' is not known; did you mean deep_conv? allowed: article",
    ),
    (
        [
            *("trainer", "--config=sparse", "--workdir=w", "--config.model.sparsity=batch_topk"),
            *("--config.model.alpha=1", "--config.averaging.decay=0.9"),
        ],
        "averaging.last_share must be 0 with model.sparsity='batch_topk'",
    ),
    (
        ["trainer", "--config=sparse_kl", "--workdir=w", "--config.trim_share=0.1"],
        "trim_share must be 0 with model.sparsity='kl'",
    ),
    ([*DENSE, "--cadence=3"], "'cadence'"),
    ([*DENSE, "3"], "'3' is not a flag"),
    ([*DENSE, "--config.depth=3"], "'depth'; allowed: augment, averaging, batch_size"),
    ([*DENSE, "--config.model.depth=3"], "'depth'; allowed: activation, code_activation"),
    ([*DENSE, "--config.num_epoch=3"], "'num_epochs'?"),
    (
        [*DENSE, "--config.batch_size=x"],
        "batch_size=x is not allowed; it takes a value of type int",
    ),
    ([*DENSE, "--config.deterministic=perhaps"], "it takes true or false"),
    ([*DENSE, "--config.averaging=0.9"], "group of keys, each given as --config.averaging.KEY="),
    ([*DENSE, "--config.data=digits"], "data is a group of keys"),
    ([*DENSE, "--summary=3"], "--summary=3 is not allowed; it takes true or false"),
    ([*DENSE, "--config.num_epochs=-1"], "num_epochs=-1.0 is not allowed; it must be at least 0"),
    ([*DENSE, "--config.optimizer.name=lion"], "optimizer.name='lion' is not known; allowed"),
    ([*DENSE, "--config.data.channels=1"], "data.channels=1 is not allowed with 'mnist'"),
    ([*DENSE, "--config.batch_size=3"], "batch_size was 128, is 3"),
    (
        ["trainer", "--config=w/config.json", "--config.batch_size=3", "--workdir=w"],
        "batch_size was 128, is 3; take another --workdir, or keep",
    ),
    (
        ["trainer", "--config.batch_size=3", "--workdir=w"],
        "for a run's config, --config=w/config.json",
    ),
    (["trainer", "--config.batch_size=3", "--workdir=v"], "--config=RUN/config.json"),
    (["trainer", "--config.batch_size=3", f"--workdir={'v' * 300}"], "--config=RUN/config.json"),
    (["trainer.evaluate", "--workdir=v"], "v holds no run: there is no config.json in it"),
    (["trainer.checkpoints", "mend", "w"], "verb 'mend' is not known; allowed: verify"),
    (["trainer.prepare"], "give either --dataset=NAME or --config=FILE"),
    (["trainer.prepare", "--dataset=digits", "--records"], "data.placement='records' is not"),
    (["trainer.prepare", "--dataset=digits", "--image_size=-1"], "image_size=-1"),
    (["trainer.prepare", "--dataset=arrays:a.npz", "--image_size=8"], "data.image_size=8 is not"),
    (["trainer.prepare", "--dataset=digits", "--data_dir=x"], "--data_dir is not allowed with 'd"),
    (["trainer.prepare", "--dataset=digits:9"], "'digits:9' is not known; it is written digits"),
    (["trainer.prepare", "--dataset=noise:x"], "data.name='noise:x' is not allowed; noise:N takes"),
    (["trainer.prepare", "--dataset=images:"], "data.name='images' names no folder"),
    (["trainer.prepare", "--dataset=arrays"], "data.name='arrays' names no file"),
    (["trainer.prepare", "--dataset=table:a,b,c"], "data.name='table:a,b,c' is not allowed; it is"),
    (["trainer.prepare", "--config=dense", "--config.data.resplit_test=1"], "resplit_test=1.0 is"),
]


def test_a_mistake_is_answered_in_one_line_from_anywhere_without_tensorflow(tmp_path):
    run: dict[str, Any] = {"config": parse(load_config("dense")).to_dict()}
    run |= {key: {} for key in ("inputs", "versions", "executions")}
    run |= dict.fromkeys(("data_fingerprint", "run_id", "cwd"), "")
    for folder in ("w", "v", "dense"):  # runs are often named after their config
        (tmp_path / folder).mkdir()
    (tmp_path / "w" / "config.json").write_text(json.dumps(run))
    (tmp_path / "none.py").touch()
    (tmp_path / "LICENSE").write_text("no Python")
    before = sorted(tmp_path.rglob("*"))
    outcomes = typed([words for words, _ in MISTAKES], tmp_path)
    for (words, message), (status, output) in zip(MISTAKES, outcomes, strict=True):
        assert status == 2, f"{words}: {output}"
        assert message in output, words
        assert len(output.splitlines()) == 1, f"{words}: {output}"
    assert sorted(tmp_path.rglob("*")) == before


def test_help_needs_no_tensorflow(tmp_path):
    outcomes = typed([[module, "--help"] for module in OF_A_RUN], tmp_path)
    for status, output in outcomes:
        assert status == 0, output
        assert "--workdir: Folder of the run" in output


def test_every_end_has_its_status_and_its_line(capsys, monkeypatch):
    monkeypatch.setattr(cli, "import_tensorflow", lambda: None)
    for end, status, line in (
        (UserError("what happened"), 2, "error: what happened\n"),
        (Preempted("what happened"), 75, "what happened\n"),
        (NonFiniteError("what happened"), 1, "error: what happened\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (SystemExit(1), 1, ""),  # of trainer.checkpoints verify
    ):

        def main(end=end):
            raise end

        with pytest.raises(SystemExit) as error:
            cli._run(main)
        assert error.value.code == status
        assert capsys.readouterr().err == line


@pytest.mark.parametrize("is_enabled", [True, False])
def test_an_import_leaves_the_garbage_collector_as_it_was(is_enabled):
    (gc.enable if is_enabled else gc.disable)()
    try:
        with pytest.raises(ImportError), paused_garbage_collector():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled() == is_enabled
    finally:
        gc.enable()


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
