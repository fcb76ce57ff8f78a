"""Memory limits of control groups, of both versions, in folders as Linux has them; cores."""

import os

import psutil
import pytest

from trainer import limits
from trainer.data import memory

FILES = {
    2: ("", "memory.max", "memory.current", "inactive_file"),
    1: ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
UNLIMITED = {2: "max", 1: str(2**63 - 4096)}


def groups(folder, monkeypatch, version, **sizes):
    """Makes the groups /, /job and /job/step, the last this process's, with limits and uses."""
    subfolder, limit, use, cache = FILES[version]
    for name, path in (("root", "."), ("job", "job"), ("step", "job/step")):
        own = folder / "fs" / subfolder / path
        own.mkdir(parents=True, exist_ok=True)
        total, used, cached = sizes.get(name, (UNLIMITED[version], 0, 0))
        (own / limit).write_text(f"{total}\n")
        (own / use).write_text(f"{used}\n")
        (own / "memory.stat").write_text(f"anon 5\n{cache} {cached}\n")
    line = "0::/job/step" if version == 2 else "4:memory:/job/step"
    use_groups(folder, monkeypatch, f"9:cpu:/other\n{line}\n")


def use_groups(folder, monkeypatch, lines):
    """Has the process belong to the control groups in `lines`, rooted at folder / "fs"."""
    (folder / "cgroup").write_text(lines)
    monkeypatch.setattr(limits, "_GROUPS", folder / "cgroup")
    monkeypatch.setattr(limits, "_ROOT", folder / "fs")


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_group_limits_the_memory_less_what_is_used_but_not_cached(
    tmp_path, monkeypatch, version
):
    groups(tmp_path, monkeypatch, version, job=(3000, 2000, 500), step=(4000, 100, 0))
    assert memory.available_bytes() == 3000 - 2000 + 500
    assert memory.total_bytes() == 3000
    assert memory.allowed_bytes(0) == pytest.approx(0.8 * 1500)
    assert memory.allowed_bytes(2) == 2 * 2**30


@pytest.mark.parametrize("version", [1, 2])
def test_without_limits_the_memory_is_the_hosts(tmp_path, monkeypatch, version):
    groups(tmp_path, monkeypatch, version)
    assert memory.total_bytes() == psutil.virtual_memory().total
    (tmp_path / "cgroup").unlink()  # as outside Linux
    assert memory.total_bytes() == psutil.virtual_memory().total


def test_a_group_above_its_limit_leaves_nothing(tmp_path, monkeypatch):
    groups(tmp_path, monkeypatch, 2, step=(1000, 1200, 0))
    assert memory.available_bytes() == 0


@pytest.mark.parametrize(
    ("quota", "cores"), [("max", None), ("150000", 2), ("50000", 1), ("100000000", None)]
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_cpu_quota_limits_the_cores_and_the_threads_that_the_environment_leaves_open(
    tmp_path, monkeypatch, version, quota, cores
):
    if version == 1:
        lines, own = "9:cpuset:/other\n3:cpu,cpuacct:/job/step\n", tmp_path / "fs/cpu/job"
        other = tmp_path / "fs/cpu/other"  # of no controller that limits time
        other.mkdir(parents=True)
        (other / "cpu.cfs_quota_us").write_text("1000\n")
        (other / "cpu.cfs_period_us").write_text("100000\n")
        files = {"cpu.cfs_quota_us": "-1" if quota == "max" else quota, "cpu.cfs_period_us": 100000}
    else:
        lines, own = "0::/job/step\n", tmp_path / "fs/job"
        files = {"cpu.max": f"{quota} 100000"}
    own.mkdir(parents=True)
    for name, value in files.items():
        (own / name).write_text(f"{value}\n")
    use_groups(tmp_path, monkeypatch, lines)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setattr(os, "environ", {"TF_NUM_INTEROP_THREADS": "5"})
    assert limits.usable_cores() == (cores or 8)
    limits.limit_threads()
    assert os.environ.get("TF_NUM_INTRAOP_THREADS") == (cores and str(cores))
    assert os.environ["TF_NUM_INTEROP_THREADS"] == "5"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux binds processes")
def test_cores_are_those_that_the_process_is_bound_to():
    before = os.sched_getaffinity(0)
    assert limits.usable_cores() == len(before)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert limits.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
