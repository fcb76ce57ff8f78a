"""GPUs are used, warned of or refused, as the build of TensorFlow can use them; all are fakes."""

import contextlib
import ctypes
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tensorflow as tf

from trainer.distribution import gpu_trial, gpus
from trainer.distribution.strategy import enable_determinism
from trainer.errors import UserError

RTX_50, B200 = ("RTX 5090", (12, 0)), ("B200", (10, 0))
H100, A100, T4 = ("H100", (9, 0)), ("A100", (8, 0)), ("T4", (7, 5))
V100, P100, K80 = ("V100", (7, 0)), ("P100", (6, 0)), ("K80", (3, 7))
PASSES_ALL = "import sys; print('\\n'.join(sys.argv[1:]))"


@pytest.fixture(autouse=True)
def forget(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gpu_trial._try.cache_clear()
    gpus._warn.cache_clear()


@pytest.fixture
def machine(monkeypatch):
    """A machine with such GPUs, driver and cuDNN, whose trial is a Python program."""

    def pretend(*cards, driver=(12, 9), cudnn="9.28.0.42", trial=PASSES_ALL, hidden=()):
        devices = [SimpleNamespace(name=f"GPU:{number}") for number in range(len(cards))]
        details = {
            device.name: {"device_name": name, "compute_capability": capability}
            for device, (name, capability) in zip(devices, cards, strict=True)
        }
        visible = [device for number, device in enumerate(devices) if number not in hidden]
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: devices)
        monkeypatch.setattr(tf.config, "get_visible_devices", lambda _: visible)
        monkeypatch.setattr(
            tf.config.experimental, "get_device_details", lambda device: details[device.name]
        )
        monkeypatch.setattr(gpus, "driver_cuda_version", lambda: driver)
        monkeypatch.setattr(gpus, "_installed", lambda _: cudnn)
        monkeypatch.setattr(gpu_trial, "_COMMAND", (sys.executable, "-c", trial))

    return pretend


@pytest.mark.parametrize(
    ("cards", "driver"),
    [
        ((), (12, 9)),
        ((T4, A100), (12, 2)),
        ((H100,), (12, 5)),
        ((H100,), None),
        ((A100, B200, RTX_50), (12, 9)),
        ((("gfx942", None),), None),  # another maker's, left to TensorFlow
    ],
)
def test_gpus_that_work_are_counted(machine, cards, driver, capsys):
    machine(*cards, driver=driver)
    assert gpus.check_gpus() == len(cards)
    assert capsys.readouterr().err == ""


def test_gpus_that_the_process_has_hidden_neither_count_nor_are_checked(machine):
    machine(K80, A100, hidden=[0])
    assert gpus.check_gpus() == 1
    machine(A100, B200, RTX_50, hidden=[0, 1], trial="import sys; sys.exit(sys.argv[1:] != ['2'])")
    assert gpus.check_gpus() == 1
    machine(A100, K80, hidden=[0])
    with pytest.raises(UserError, match="GPU 1"):
        gpus.check_gpus()


@pytest.mark.parametrize(
    ("trial", "reason"),
    [
        ("import sys; print('noise'); sys.exit('first\\nptxas says no')", "ptxas says no"),
        ("import os; os.abort()", "-6"),
    ],
)
def test_a_gpu_that_fails_its_trial_is_refused_in_one_line(machine, trial, reason):
    machine(RTX_50, trial=trial)
    with pytest.raises(UserError) as error:
        gpus.check_gpus()
    line = str(error.value)
    assert "\n" not in line
    for text in (reason, "RTX 5090", "12.0", tf.__version__, "CUDA_VISIBLE_DEVICES", "570"):
        assert text in line
    machine(RTX_50)
    with pytest.raises(UserError, match=reason):  # which this process does not ask again
        gpus.check_gpus()


def test_the_gpu_at_which_a_trial_failed_is_named_and_older_ones_are_not_tried(machine):
    machine(A100, B200, RTX_50, trial="import sys; print(sys.argv[1]); sys.exit('broken')")
    with pytest.raises(UserError, match=r"RTX 5090.*broken"):
        gpus.check_gpus()
    gpu_trial._try.cache_clear()
    machine(A100, B200, trial="import sys; sys.exit(sys.argv[1:] != ['1'])")
    assert gpus.check_gpus() == 2


@pytest.mark.parametrize("passed", [0, 1])
def test_a_trial_that_hangs_ends_in_the_stated_time(machine, monkeypatch, passed):
    monkeypatch.setattr(gpu_trial, "_SECONDS", 1)
    hangs = "import sys, time; print('\\n'.join(sys.argv[1:%d]), flush=True); time.sleep(60)"
    machine(B200, RTX_50, trial=hangs % (passed + 1))
    with pytest.raises(UserError, match=(B200, RTX_50)[passed][0]):
        gpus.check_gpus()


@pytest.fixture
def trials(machine, tmp_path):
    """Checks GPUs as a new process does; returns the numbers of those that were tried."""

    def check(*cards, status=0, **settings):
        tried = tmp_path / "tried"
        tried.write_text("")
        gpu_trial._try.cache_clear()
        lists = f"import sys; open({str(tried)!r}, 'w').write(' '.join(sys.argv[1:]))"
        machine(*cards, trial=f"{lists}; raise SystemExit({status})", **settings)
        with pytest.raises(UserError) if status else contextlib.nullcontext():
            gpus.check_gpus()
        return [int(number) for number in tried.read_text().split()]

    return check


def test_a_kind_of_gpu_that_has_passed_is_not_tried_again_by_other_processes(trials):
    assert trials(RTX_50, RTX_50) == [0, 1]
    assert trials(RTX_50) == []
    assert [trials(B200, status=status) for status in (1, 1)] == [[0], [0]]
    assert trials(A100, RTX_50, B200) == [2]
    assert trials(B200, RTX_50) == []


def test_another_driver_tensorflow_or_capability_is_tried(trials, monkeypatch):
    assert trials(RTX_50) == [0]
    assert trials(RTX_50, driver=(13, 0)) == [0]
    assert trials((RTX_50[0], (12, 1))) == [0]
    monkeypatch.setattr(tf, "__version__", "3.0.0")
    assert trials(RTX_50) == [0]


@pytest.mark.parametrize("cache", ["relative", "/dev/null"])
def test_without_a_cache_each_process_tries(trials, monkeypatch, tmp_path, cache):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    monkeypatch.setenv("HOME", "/dev/null")
    assert [trials(RTX_50) for _ in range(2)] == [[0], [0]]
    assert not (tmp_path / "relative").exists()


def test_a_gpu_needs_kernels_of_the_build_or_a_driver_that_compiles_them(machine, monkeypatch):
    machine(K80)
    with pytest.raises(UserError, match=r"K80.*6\.0.*CUDA_VISIBLE_DEVICES"):
        gpus.check_gpus()
    machine(H100, driver=(12, 4))  # which cannot read this build's PTX
    with pytest.raises(UserError, match=r"GPU 0 \(H100.*CUDA 12\.5.*12\.4"):
        gpus.check_gpus()
    own_build = {"cuda_version": "12.9.1", "cuda_compute_capabilities": ["sm_80", "sm_90"]}
    monkeypatch.setattr(tf.sysconfig, "get_build_info", lambda: own_build)
    assert gpus.check_gpus() == 1  # by a binary for Hopper


@pytest.mark.parametrize(
    ("card", "cudnn", "warned"),
    [(V100, "9.28.0.42", True), (P100, None, True), (V100, "9.10.2.21", False)],
)
def test_a_gpu_that_cudnn_has_dropped_is_warned_of_once(machine, card, cudnn, warned, capsys):
    machine(card, cudnn=cudnn)
    assert [gpus.check_gpus() for _ in range(2)] == [1, 1]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == warned
    assert all(card[0] in line and "convolutions" in line for line in lines)
    assert all(("cannot" in line) == (cudnn is not None) for line in lines)


def test_a_device_passes_its_trial_if_it_computes_what_numpy_does(monkeypatch):
    gpu_trial.compute_on("CPU:0")
    relu = tf.nn.relu
    monkeypatch.setattr(tf.nn, "relu", lambda x: relu(x) * 1.1)
    with pytest.raises(ArithmeticError):
        gpu_trial.compute_on("CPU:0")


def test_a_trial_of_a_gpu_that_is_not_there_fails(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(sys, "argv", ["gpu_trial", "7"])
    module = gpu_trial._COMMAND[2]
    monkeypatch.delitem(sys.modules, module)  # or it warns that it runs twice
    with pytest.raises(IndexError):
        runpy.run_module(module, run_name="__main__")


def test_a_trial_finds_the_trainer_from_any_folder(machine, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    root = str(Path(__file__).parents[2])
    machine(RTX_50, trial=f"import os; assert os.environ['PYTHONPATH'] == {root!r}")
    assert gpus.check_gpus() == 1


@pytest.fixture
def unlisted(monkeypatch, tmp_path):
    """A machine whose system shows a GPU, or none, and where TensorFlow lists none."""

    def pretend(has_gpu=True, visible=None, driver=(12, 9), cudnn="9.28.0.42"):
        monkeypatch.setattr(gpus, "_DRIVER_OF_WSL", tmp_path / "nothing")
        monkeypatch.setattr(gpus, "_DRIVER_OF_GPUS", tmp_path / "gpus")
        if has_gpu:
            (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
        monkeypatch.setattr(gpus, "driver_cuda_version", lambda: driver)
        monkeypatch.setattr(gpus, "_installed", lambda _: cudnn)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return pretend


@pytest.mark.parametrize(
    ("found", "way_out"),
    [
        ({"cudnn": None}, r"pip install \.\[cuda\]"),
        ({"driver": None}, "driver.*--gpus=all"),
        ({"driver": (11, 8)}, r"11\.8.*12\.0"),
        ({"visible": "MIG-1,-1"}, "driver"),
        ({"has_gpu": False}, None),
        ({"visible": ""}, None),
        ({"visible": "-1,0"}, None),
    ],
)
def test_a_gpu_that_tensorflow_does_not_list_has_a_note_with_the_way_out(unlisted, found, way_out):
    unlisted(**found)
    note = gpus.unusable_gpu_note()
    assert (note is None) == (way_out is None)
    assert re.search(way_out or "", note or "")
    assert "\n" not in (note or "")


def test_gpus_that_tensorflow_lists_have_no_note(unlisted, machine):
    unlisted()
    machine(A100)
    assert gpus.unusable_gpu_note() is None


@pytest.mark.parametrize(("failed", "version"), [(0, (12, 8)), (3, None)])
def test_the_driver_is_asked_for_its_cuda_version(tmp_path, monkeypatch, failed, version):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    source = tmp_path / "cuda.c"
    source.write_text(f"int cuDriverGetVersion(int *v) {{ *v = 12080; return {failed}; }}\n")
    load = ctypes.CDLL
    monkeypatch.setattr(ctypes, "CDLL", lambda name: load(str(tmp_path / name)))
    assert gpus.driver_cuda_version() is None
    command = [compiler, "-shared", "-o", tmp_path / "libcuda.so.1", source]
    subprocess.run(command, check=True)
    assert gpus.driver_cuda_version() == version


def test_nccl_keeps_to_algorithms_of_one_order_unless_the_user_chose(monkeypatch):
    for chosen in (None, "Ring"):
        monkeypatch.delenv("NCCL_ALGO", raising=False)
        if chosen:
            monkeypatch.setenv("NCCL_ALGO", chosen)
        enable_determinism()
        assert os.environ["NCCL_ALGO"] == (chosen or "^NVLS,NVLSTree")
