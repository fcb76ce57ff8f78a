import pytest

from launch import gpus
from trainer.errors import UserError


def test_gpus_are_shared_evenly():
    assert gpus.share([], "workers", 2) == [{"CUDA_VISIBLE_DEVICES": ""}] * 2
    shared = gpus.share(["0", "1", "GPU-ab", "3"], "workers", 2)
    assert [share["CUDA_VISIBLE_DEVICES"] for share in shared] == ["0,1", "GPU-ab,3"]
    with pytest.raises(UserError, match="workers=2 cannot share 3 GPUs"):
        gpus.share(["0", "1", "2"], "workers", 2)


def test_more_runs_than_gpus_share_them_in_turn():
    shared = gpus.share(["0", "1"], "parallel", 5, several_on_each=True)
    assert [share["CUDA_VISIBLE_DEVICES"] for share in shared] == ["0", "1", "0", "1", "0"]
    with pytest.raises(UserError, match="a divisor of 3, more than that, or fewer"):
        gpus.share(["0", "1", "2"], "parallel", 2, several_on_each=True)


def test_gpus_that_nvidia_smi_does_not_list_are_not_left_out_without_a_word(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpus, "_DEVICES", tmp_path)
    assert gpus.visible_gpus() == []
    (tmp_path / "nvidia0").touch()
    with pytest.raises(UserError, match="nvidia-smi is not on the PATH; CUDA_VISIBLE_DEVICES=0,1"):
        gpus.visible_gpus()
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho no driver; exit 9\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    with pytest.raises(UserError, match="nvidia-smi fails: no driver; CUDA_VISIBLE_DEVICES=0,1"):
        gpus.visible_gpus()


def test_a_strategy_on_cpus_gets_no_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert gpus.environments([], "workers", 1) == [{"CUDA_VISIBLE_DEVICES": "0"}]
    on_cpu = gpus.environments(["--config.strategy=cpu:2"], "workers", 1)
    assert on_cpu == [{"CUDA_VISIBLE_DEVICES": ""}]


@pytest.mark.parametrize(("allowed", "visible"), [("2,3", ["2", "3"]), ("", []), ("1,-1,2", ["1"])])
def test_visible_gpus_are_those_that_cuda_allows(monkeypatch, allowed, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    assert gpus.visible_gpus() == visible


@pytest.mark.parametrize(
    ("nvidia_smi", "visible"),
    [(None, []), ("echo 0; echo 1", ["0", "1"]), ("echo NVIDIA-SMI has failed; exit 9", [])],
)
def test_otherwise_visible_gpus_are_those_of_the_driver(tmp_path, monkeypatch, nvidia_smi, visible):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpus, "_DEVICES", tmp_path)
    if nvidia_smi:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{nvidia_smi}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    assert gpus.visible_gpus() == visible
