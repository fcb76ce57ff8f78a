"""The check of a machine with GPUs: what fails, crashes, hangs or is left out stays one line."""

import contextlib
import dataclasses
import importlib.metadata
import json
import math
import subprocess
import sys
import time
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import psutil
import pytest

from benchmarks import limit
from benchmarks.gpu_check import children, exactness, machine, many_gpus, speed, workers
from benchmarks.gpu_check.__main__ import check
from benchmarks.gpu_check.child import one_line
from benchmarks.gpu_check.children import ROOT, Budget, Case, Outcome, run
from benchmarks.gpu_check.plan import Plan
from benchmarks.gpu_check.report import Section, guarded, render, slug

ONE = Case("one", "json:loads", {"s": "1"})
WRONG = Case("wrong", "json:loads", {"s": "{"})
CRASH = Case("crash", "os:_exit", {"status": 3})
HANG = Case("hang", "timeit:timeit", {"stmt": "import time; time.sleep(60)", "number": 1})


@pytest.fixture
def plan():
    return Plan(gpus=2, small=False, folder=Path("unused"), budget=Budget(60))


def rendered(*sections):
    return render(sections, cards="1 x A card", rehearsal=False, minutes=1.0)


def test_a_case_that_fails_or_ends_its_process_costs_no_other_its_result():
    outcomes = run([ONE, WRONG, CRASH, ONE], Budget(60))
    assert [outcome.value for outcome in outcomes] == [1, None, None, 1]
    assert "JSONDecodeError" in str(outcomes[1].error)
    assert "status 3" in str(outcomes[2].error)
    assert not any(outcome.left_out for outcome in outcomes)


def test_a_case_that_hangs_is_ended_and_the_next_one_runs():
    hung, after = run([HANG, ONE], Budget(60), case_seconds=3.0)
    assert hung.error and not hung.left_out
    assert after.value == 1


def runs(pid):
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.parametrize("end", ["exit", "wait"])
def test_what_a_case_has_started_ends_with_it(tmp_path, end):
    # It holds the child's stdout, whose end is waited for.
    file = tmp_path / "pid"
    command = f"sh -c 'echo $$ > {file}.new; mv {file}.new {file}; exec sleep 60' & "
    command += "wait" if end == "wait" else f"until [ -e {file} ]; do sleep 0.1; done"
    started = Case("starts another", "os:system", {"command": command})
    began = time.monotonic()
    run([started], Budget(60), case_seconds=5.0)
    while runs(int(file.read_text())):
        assert time.monotonic() - began < 30
        time.sleep(0.1)


def test_a_child_ends_with_its_parent():
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.gpu_check.child"], stdin=subprocess.PIPE, cwd=ROOT
    )
    assert child.stdin
    with child.stdin as pipe:
        pipe.write(json.dumps([HANG._asdict()]).encode() + b"\n")
    assert child.wait(timeout=30) == 1


def test_what_the_budget_does_not_reach_is_left_out_and_has_not_failed(monkeypatch):
    assert all(outcome.left_out for outcome in run([ONE, WRONG], Budget(0)))
    monkeypatch.setattr(children, "_LEAST_SECONDS", 0)
    section = Section("Some")
    for outcome in run([HANG, ONE], Budget(2)):
        assert not section.succeeded("a case", outcome)
    assert not section.failures
    assert len(section.left_out) == 2


def test_the_budget_counts_by_its_clock():
    seconds = [100.0]
    budget = Budget(10, lambda: seconds[0])
    seconds[0] += 4
    assert (budget.spent_seconds(), budget.left_seconds()) == (4, 6)
    seconds[0] += 10
    assert budget.left_seconds() == 0


def test_an_error_in_a_section_is_one_line_and_the_others_stand():
    def fail(section):
        section.lines.append("before")
        raise ValueError("no such thing\nnot shown")

    sections = [
        guarded("Broken", fail),
        guarded("Whole", lambda section: section.table(("a", "b"), [("1", "x | y")])),
    ]
    text = rendered(*sections)
    assert text.startswith("# GPU check: 1 x A card\n")
    assert "- Broken: the section could not be completed: ValueError: no such thing\n" in text
    assert "not shown" not in text and "Traceback" not in text
    assert "| a | b |\n|---|---|\n| 1 | x \\| y |\n" in text
    assert "1 checks failed, none left out" in text
    assert "all checks passed" in rendered(sections[1])


def test_a_rehearsal_says_so_in_its_first_line():
    text = render([Section("Some")], cards="0 x ", rehearsal=True, minutes=1.0)
    assert "CPU rehearsal" in text.splitlines()[0]


def test_an_error_of_tensorflow_is_told_by_the_line_that_says_what_went_wrong():
    message = (
        "Graph execution error:\n\nDetected at node gradient defined at (most recent call last):\n"
        "<stack traces unavailable>\nThe operation has no kernel\n\t [[{{node gradient}}]]"
    )
    assert one_line(RuntimeError(message)) == "RuntimeError: The operation has no kernel"


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([4.0, 3.0, 2.0, 1.0], None),
        ([1.0, 1.0, 1.0, 1.0], "did not fall"),
        ([4.0, math.nan, 2.0, 1.0], "not finite"),
    ],
)
def test_a_training_passes_if_its_losses_are_finite_and_fall(plan, losses, words):
    value = {"losses": losses, "seconds": 1.0, "tf32": False, "execution": "xla", "sha256": "a"}
    section = Section("Trainings")
    found = {("dense", "float32"): Outcome(value)}
    exactness.fill_trainings(section, plan, ["dense"], ["float32"], found)
    assert [words in failure for failure in section.failures] == [True] * (words is not None)


def test_float32_that_a_gpu_multiplies_in_tf32_fails(plan):
    value = {"losses": [2.0, 1.0], "seconds": 1.0, "tf32": True, "execution": "xla", "sha256": "a"}
    for precision, failures in (("float32", 1), ("bfloat16", 0)):
        section = Section("Trainings")
        found = {("dense", precision): Outcome(value)}
        exactness.fill_trainings(section, plan, ["dense"], [precision], found)
        assert len(section.failures) == failures


@pytest.mark.parametrize("processes", [1, 4])
def test_every_kind_is_trained_in_every_precision_on_one_gpu_and_again_in_float32(
    plan, monkeypatch, processes
):
    asked: list[str] = []

    def trained(cases, budget, *, environment):
        del budget
        assert environment == {"CUDA_VISIBLE_DEVICES": "3"}
        asked.extend(case.arguments["folder"] for case in cases)
        return [Outcome(case.arguments["changes"]["precision"]) for case in cases]

    monkeypatch.setattr(exactness, "run", trained)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    kinds, precisions = ("dense", "conv", "vae"), ("float32", "bfloat16")
    plan = dataclasses.replace(plan, processes=processes)
    first, second = exactness.train_all(plan, kinds, precisions)
    assert {case: outcome.value for case, outcome in first.items()} == {
        (kind, precision): precision for kind in kinds for precision in precisions
    }
    assert list(second) == [(kind, "float32") for kind in kinds]
    assert len(set(asked)) == len(asked) == 9, "two trainings share a workdir"


def test_two_processes_that_end_with_other_bits_fail(plan):
    section = Section("Bits")
    first = {(kind, "float32"): Outcome({"sha256": "a" * 64}) for kind in ("dense", "conv")}
    second = first | {("conv", "float32"): Outcome({"sha256": "b" * 64})}
    exactness.fill_bits(section, plan, ["dense", "conv"], [first, second])
    (failure,) = section.failures
    assert "conv" in failure
    assert f"| dense | equal | {'a' * 16} |" in section.lines


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"images": ["/device:GPU:0", "/device:GPU:0"]}, "lie on"),
        ({"differing": ["model/kernel"]}, "differ between"),
        ({"losses": [1.0, 0.6]}, "one device"),
        ({"losses": [1.0, math.nan]}, "one device"),
    ],
)
def test_several_gpus_each_hold_the_images_equal_weights_and_one_gpus_loss(
    plan, monkeypatch, changes, words
):
    one = {"images": ["/device:GPU:0"], "differing": [], "losses": [1.0, 0.5]}
    on_all = one | {"images": ["/device:GPU:0", "/device:GPU:1"]} | changes

    def measured(cases, budget, *, environment=None):
        del budget
        of_steps = one if environment else on_all
        return [Outcome(of_steps if "steps" in case.arguments else 10.0) for case in cases]

    monkeypatch.setattr(many_gpus, "run", measured)
    section = Section("Several GPUs")
    many_gpus.fill(section, plan, [], ["dense"])
    assert [words in failure for failure in section.failures] == [True] * (words is not None)
    assert any("GPU:0" in line for line in section.lines)


@pytest.mark.parametrize(
    ("second", "seconds", "words"),
    [("same", 10.0, None), ("other", 10.0, "dense"), ("same", 30.5, "worker")],
)
def test_several_gpus_train_to_the_same_bits_twice_and_end_without_a_worker(
    plan, monkeypatch, second, seconds, words
):
    steps = {"images": ["/device:GPU:0", "/device:GPU:1"], "differing": [], "losses": [1.0]}
    workers_saw = []

    def outcome(case, environment):
        if case.call.startswith("benchmarks.gpu_check.workers"):
            workers_saw.append(environment)
            return Outcome(seconds)
        if case.call.endswith(":train"):
            again = case.arguments["folder"].endswith("again")
            return Outcome({"sha256": second if again else "same"})
        return Outcome(steps if "steps" in case.arguments else 100.0)

    def measured(cases, budget, *, environment=None):
        del budget
        return [outcome(case, environment) for case in cases]

    monkeypatch.setattr(many_gpus, "run", measured)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7")
    section = Section("Several GPUs")
    many_gpus.fill(section, plan, ["dense", "vae"], ["dense"])
    assert [words in failure for failure in section.failures] == [True] * (words is not None)
    assert workers_saw == [{"CUDA_VISIBLE_DEVICES": "3,5"}]
    small = dataclasses.replace(plan, small=True)
    many_gpus.fill(Section("Several GPUs"), small, ["dense"], ["dense"])
    assert len(workers_saw) == 1


@pytest.mark.workers
def test_a_worker_ends_after_another_is_killed(tmp_path):
    assert 0 < workers.seconds_to_end(str(tmp_path / "run"), {"strategy": "cpu:1"}) < 30
    with pytest.raises(RuntimeError, match="no_such"):
        workers.seconds_to_end(str(tmp_path / "other"), {"strategy": "no_such"})


def test_speed_is_set_against_the_best_peer_and_the_machines_limit(plan):
    rates = {
        ("dense", 128): {"trainer": Outcome(300.0), "fit": Outcome(100.0), "x": Outcome(150.0)}
    }
    section = Section("Speed")
    speed.fill_peers(section, plan, rates)
    assert "| dense, 128 | 300 | 100 | 150 | 2.00 |" in section.lines

    bound = limit.Machine(flops_per_second=1e12, bytes_per_second=1e11)
    ours = limit.images_per_second("dense", 128, bound) / 4
    section = Section("Limits")
    limits = {"float32": Outcome(bound), "bfloat16": Outcome(error="no such type")}
    speed.fill_limits(section, limits, {("dense", 128): {"trainer": Outcome(ours)}})
    assert any(line.endswith("| 25.0% |") for line in section.lines)
    assert len(section.failures) == 1


def test_a_kind_without_a_net_of_the_peers_is_measured_in_the_trainer_alone(plan, monkeypatch):
    def measured(cases, budget, **_):
        del budget
        return [Outcome(2.0) for _ in cases]

    monkeypatch.setattr(speed, "run", measured)
    rates = speed.measure(plan, ["sparse", "dense"])
    assert list(rates["sparse", 128]) == ["trainer"]
    assert set(rates["dense", 128]) > {"trainer"}
    limits = {"float32": Outcome(limit.Machine(flops_per_second=1e12, bytes_per_second=1e11))}
    section = Section("Limits")
    speed.fill_limits(section, limits, rates)
    speed.fill_peers(section, plan, rates)
    assert not any("sparse" in line and "%" in line for line in section.lines)
    assert any(line.startswith("| sparse, 128 | 2 |") for line in section.lines)


def fake_distribution(name, *files):
    return SimpleNamespace(metadata={"Name": name}, files=list(map(PurePosixPath, files)))


def test_wheels_that_overwrite_each_others_libraries_are_named():
    found = machine.shared_libraries(
        [
            fake_distribution("a-cu12", "nvidia/__init__.py", "nvidia/nccl/lib/libnccl.so.2"),
            fake_distribution("a-cu13", "nvidia/__init__.py", "nvidia/nccl/lib/libnccl.so.2"),
            fake_distribution("b-cu12", "nvidia/__init__.py", "nvidia/b/lib/libb.so.1", "b.so"),
            fake_distribution("c", "b.so"),
        ]
    )
    assert found == {"nvidia/nccl/lib/libnccl.so.2": ["a-cu12", "a-cu13"]}


def test_no_installed_wheels_overwrite_each_others_libraries():
    assert machine.shared_libraries(importlib.metadata.distributions()) == {}


@pytest.mark.parametrize(
    ("found", "failures"),
    [
        ({}, 1),
        ({"hidden": True}, 0),
        ({"gpus": [{"name": "A card", "capability": [9, 0]}]}, 0),
        ({"gpus": [{"name": "A card", "capability": [12, 0]}], "refusal": "no kernels"}, 1),
    ],
)
def test_cards_that_tensorflow_does_not_find_or_cannot_use_are_a_failure(found, failures):
    section = Section("Machine")
    card = {"name": "A card", "compute_mode": "Default"}
    machine.fill(section, machine.UNKNOWN | found, [card])
    assert len(section.failures) == failures


@pytest.mark.parametrize("visible", ["", "-1"])
def test_a_machine_is_described_where_its_gpus_are_hidden(visible):
    described = Case("the machine", "benchmarks.gpu_check.machine:describe", {})
    (outcome,) = run([described], Budget(60), environment={"CUDA_VISIBLE_DEVICES": visible})
    assert outcome.value and outcome.value["hidden"]
    assert set(outcome.value) == set(machine.UNKNOWN)


def test_nothing_is_trained_on_a_gpu_that_tensorflow_cannot_use(plan):
    found = machine.UNKNOWN | {"refusal": "no kernels"}
    (section,) = check(plan, found, [], Outcome(found))
    assert section.failures == ["no kernels"]


def test_a_cards_name_makes_a_files_name():
    assert slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
