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
from benchmarks.gpu_check import children, exactness, machine, many_gpus, plan, speed, workers
from benchmarks.gpu_check.__main__ import check
from benchmarks.gpu_check.children import ROOT, Budget, Case, Outcome, one_line, run
from benchmarks.gpu_check.plan import Plan
from benchmarks.gpu_check.report import Section, guarded, render, slug

ONE = Case("one", "json:loads", {"s": "1"})
WRONG = Case("wrong", "json:loads", {"s": "{"})
CRASH = Case("crash", "os:_exit", {"status": 3})
HANG = Case("hang", "timeit:timeit", {"stmt": "import time; time.sleep(60)", "number": 1})
FULL = Plan(gpus=2, small=False, folder=Path("unused"), budget=Budget(60))
CPU = Plan(gpus=0, small=True, folder=Path("unused"), budget=Budget(60))


def rendered(*sections, rehearsal=False):
    return render(sections, cards="1 x A card", rehearsal=rehearsal, minutes=1.0)


def filled(fill, *arguments):
    section = Section("Some")
    fill(section, *arguments)
    return section


def assert_fails_with(section, words):
    """One failure, which names these words; None: no failure."""
    assert [words in failure for failure in section.failures] == [True] * (words is not None)


@pytest.fixture
def answers(monkeypatch):
    """Takes a function of (case, environment) for the child processes; notes what is asked."""

    def install(answer):
        asked: list[tuple] = []

        def run(cases, budget, *, environment, python):
            del budget, python
            asked.extend((case, environment) for case in cases)
            return [Outcome(case.name, answer(case, environment)) for case in cases]

        monkeypatch.setattr(plan, "run", run)
        return asked

    return install


def runs(pid):
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def test_a_case_that_fails_crashes_or_hangs_costs_no_other_its_result_and_leaves_nothing(tmp_path):
    # What is started holds the child's stdout, whose end is waited for.
    start = "sh -c 'echo $$ > {0}.new; mv {0}.new {0}; exec sleep 600' & "
    ends = {"leaves": "until [ -e {0} ]; do sleep 0.1; done", "hangs": "wait"}
    leaving, hanging = (
        Case(name, "os:system", {"command": (start + end).format(tmp_path / name)})
        for name, end in ends.items()
    )
    outcomes = run([ONE, WRONG, CRASH, leaving, hanging, ONE], Budget(120), case_seconds=5.0)
    assert [outcome.value for outcome in outcomes] == [1, None, None, 0, None, 1]
    errors = [outcome.error for outcome in outcomes if outcome.value is None]
    for error, words in zip(errors, ("JSONDecodeError", "status 3", "5 s"), strict=True):
        assert words in str(error)
    for name in ends:
        while runs(int((tmp_path / name).read_text())):
            time.sleep(0.1)


def test_a_child_ends_with_its_parent():
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.gpu_check.children"], stdin=subprocess.PIPE, cwd=ROOT
    )
    assert child.stdin
    with child.stdin as pipe:
        pipe.write(json.dumps([HANG._asdict()]).encode() + b"\n")
    assert child.wait(timeout=50) == 1


def test_cases_that_the_budget_does_not_reach_are_left_out_and_have_not_failed(monkeypatch):
    outcomes = run([ONE, WRONG], Budget(0))
    monkeypatch.setattr(children, "_MIN_SECONDS", 0)
    outcomes += run([HANG, ONE], Budget(1))
    section = Section("Some")
    assert [section.succeeded(outcome) for outcome in outcomes] == [False] * 4
    assert not section.failures
    assert section.left_out == ["one", "wrong", "hang", "one"]
    seconds = iter((100.0, 104.0, 104.0, 114.0))
    budget = Budget(10, lambda: next(seconds))
    assert (budget.spent_seconds(), budget.left_seconds(), budget.left_seconds()) == (4, 6, 0)


def test_an_error_in_a_section_is_one_line_and_the_others_stand():
    def fail(section):
        section.say("before")
        raise ValueError("no such thing\nnot shown")

    whole = guarded("Whole", lambda section: section.table(("a", "b"), [("1", "x | y")]))
    text = rendered(guarded("Broken", fail), whole)
    assert text.startswith("# GPU check: 1 x A card\n")
    assert "- Broken: the section could not be completed: ValueError: no such thing\n" in text
    assert "not shown" not in text and "Traceback" not in text
    assert "| a | b |\n|---|---|\n| 1 | x \\| y |\n" in text
    assert "1 checks failed, none left out" in text
    assert "all checks passed" in rendered(whole)
    assert "CPU rehearsal" in rendered(whole, rehearsal=True).splitlines()[0]
    assert slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"


def test_an_error_of_tensorflow_is_shown_by_the_line_that_says_what_went_wrong():
    message = (
        "Graph execution error:\n\nDetected at node gradient defined at (most recent call last):\n"
        "<stack traces unavailable>\nThe operation has no kernel\n\t [[{{node gradient}}]]"
    )
    assert one_line(RuntimeError(message)) == "RuntimeError: The operation has no kernel"


def test_a_training_passes_if_its_losses_fall_and_float32_is_float32():
    value = {"losses": [4.0, 3.0, 2.0, 1.0], "seconds": 1.0, "tf32": False, "execution": "xla"}
    cases: list[tuple[str, dict[str, object], str | None]] = [
        ("float32", {}, None),
        ("float32", {"losses": [1.0, 1.0, 1.0, 1.0]}, "did not fall"),
        ("float32", {"losses": [4.0, math.nan, 2.0, 1.0]}, "not finite"),
        ("float32", {"tf32": True}, "TF32"),
        ("bfloat16", {"tf32": True}, None),
    ]
    for precision, changes, words in cases:
        trained = {("dense", precision, "first"): Outcome("", value | changes)}
        section = filled(exactness.fill_trainings, FULL, ["dense"], [precision], trained)
        assert_fails_with(section, words)


@pytest.mark.parametrize("processes", [1, 4])
def test_every_kind_is_trained_in_every_precision_on_one_gpu_and_again_in_float32(
    monkeypatch, answers, processes
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    asked = answers(lambda case, _: Path(case.arguments["workdir"]).name)
    kinds, precisions = ("dense", "conv", "vae"), ("float32", "bfloat16")
    full = dataclasses.replace(FULL, processes=processes)
    trained = exactness.train_all(full, kinds, precisions)
    assert {"-".join(case): outcome.value for case, outcome in trained.items()} == {
        name: name
        for kind in kinds
        for name in (f"{kind}-float32-first", f"{kind}-bfloat16-first", f"{kind}-float32-second")
    }
    assert all(environment == {"CUDA_VISIBLE_DEVICES": "3"} for _, environment in asked)
    small = exactness.train_all(dataclasses.replace(CPU, processes=processes), kinds, precisions)
    assert len(small) == 5


def test_two_processes_that_end_with_other_bits_fail():
    first, other = (Outcome("", {"sha256": digit * 64}) for digit in "ab")
    section = filled(exactness.fill_bits, [("dense", first, first), ("conv", first, other)])
    assert_fails_with(section, "conv")
    assert f"| dense | equal | {'a' * 16} |" in section.lines


@pytest.mark.parametrize(
    ("changes", "again", "seconds", "words"),
    [
        ({}, "same", 10.0, None),
        ({"images": ["/device:GPU:0", "/device:GPU:0"]}, "same", 10.0, "lie on"),
        ({"differing": ["model/kernel"]}, "same", 10.0, "differ between"),
        ({"losses": [1.0, 0.6]}, "same", 10.0, "one device"),
        ({"losses": [1.0, math.nan]}, "same", 10.0, "one device"),
        ({}, "other", 10.0, "dense"),
        ({}, "same", 30.5, "worker"),
    ],
)
def test_several_gpus_compute_what_one_does_twice_and_end_without_a_worker(
    monkeypatch, answers, changes, again, seconds, words
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7")
    steps = {"images": ["/device:GPU:0", "/device:GPU:1"], "differing": [], "losses": [1.0, 0.5]}

    def answer(case, environment):
        return {
            "seconds_to_end": seconds,
            "train": {"sha256": again if "again" in case.name else "same"},
            "replicas": steps if environment else steps | changes,
            "rate": 100.0,
        }[case.call.rpartition(":")[2]]

    asked = answers(answer)
    assert_fails_with(filled(many_gpus.fill, FULL, ["dense", "vae"], ["dense"]), words)
    with_workers = [environment for case, environment in asked if "worker" in case.name]
    assert with_workers == [{"CUDA_VISIBLE_DEVICES": "3,5"}]


@pytest.mark.workers
def test_a_worker_ends_after_another_is_killed(tmp_path):
    assert 0 < workers.seconds_to_end(str(tmp_path / "run"), {"strategy": "cpu:1"}) < 30
    with pytest.raises(RuntimeError, match="no_such"):
        workers.seconds_to_end(str(tmp_path / "other"), {"strategy": "no_such"})


def test_speed_is_compared_with_the_best_other_framework_and_with_the_limit(answers):
    bound = limit.Machine(flops_per_second=1e12, bytes_per_second=1e11)
    ours = limit.images_per_second("dense", 128, bound) / 4
    answers(lambda case, _: {"trainer": ours, "fit": ours / 2}.get(case.arguments["way"], 1.0))
    rates = speed.measure(FULL, ["sparse", "dense"])
    assert list(rates["sparse", 128]) == ["trainer"]  # the others have no such net
    lines = filled(speed.fill_frameworks, FULL, rates).lines
    assert any(line.startswith(f"| dense, 128 | {ours:,.0f} |") for line in lines)
    assert any(line.startswith("| dense, 128 ") and line.endswith("| 2.00 |") for line in lines)
    limits = {"float32": Outcome("", bound), "bfloat16": Outcome("", error="no such type")}
    section = filled(speed.fill_limits, limits, rates)
    (line,) = [line for line in section.lines if line.startswith("| dense, 128 ")]
    assert line.endswith("| 25.0% |")
    assert not any("sparse" in line for line in section.lines)
    assert_fails_with(section, "no such type")


def test_wheels_that_overwrite_each_others_libraries_are_named():
    def wheel(name, *files):
        return SimpleNamespace(metadata={"Name": name}, files=list(map(PurePosixPath, files)))

    library = "nvidia/nccl/lib/libnccl.so.2"
    found = machine.shared_libraries(
        [
            wheel("a-cu12", "nvidia/__init__.py", library),
            wheel("a-cu13", "nvidia/__init__.py", library),
            wheel("b-cu12", "nvidia/__init__.py", "nvidia/b/lib/libb.so.1", "b.so"),
            wheel("c", "b.so"),
        ]
    )
    assert found == {library: ["a-cu12", "a-cu13"]}
    assert machine.shared_libraries(importlib.metadata.distributions()) == {}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({}, "TensorFlow none"),
        ({"hidden": True}, None),
        ({"gpus": [{"name": "A card", "capability": [9, 0]}]}, None),
        ({"gpus": [{"name": "A card", "capability": [12, 0]}], "refusal": "no code"}, "no code"),
    ],
)
def test_cards_that_tensorflow_does_not_find_or_cannot_use_are_a_failure(found, words, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "distributions", list)  # to read them all takes seconds
    found = machine.UNKNOWN | found
    card = {"name": "A card", "compute_mode": "Default"}
    assert_fails_with(filled(machine.fill, found, [card]), words)
    if found["refusal"]:  # nothing is trained there
        (section,) = check(FULL, found, [card], Outcome("the machine", found))
        assert_fails_with(section, words)


def test_a_machine_is_described_where_its_gpus_are_hidden():
    described = machine.describe()
    assert described["hidden"]
    assert described.keys() == machine.UNKNOWN.keys()
