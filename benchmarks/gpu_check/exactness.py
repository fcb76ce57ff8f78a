"""Checks every kind in every precision, equal bits of two runs, and a resume on a CPU."""

import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import chain, groupby
from statistics import mean
from typing import Any

from benchmarks.gpu_check.children import Case, Outcome, in_parallel
from benchmarks.gpu_check.plan import Plan
from benchmarks.gpu_check.report import Section

_RESUMED_STEPS = 20
_RESUMED_TOLERANCE = 1e-3  # relative, of losses on a CPU to losses on a GPU, after so few steps

Trained = Mapping[tuple[str, str, str], Outcome]  # by kind, precision, and "first" or "second"


def train_all(plan: Plan, kinds: Sequence[str], precisions: Sequence[str]) -> Trained:
    """Trains every kind in every precision, and in float32 a second time in another process.

    A small check does so for only one kind, and trains the other kinds once in float32.
    """
    covered = plan.covered(kinds)
    asked = [
        (kind, precision, "first")
        for precision in precisions
        for kind in (kinds if precision == "float32" else covered)
    ]
    asked += [(kind, "float32", "second") for kind in covered]
    # Where one process runs at a time, all first trainings share it: TensorFlow starts slowly.
    in_process = slice(1, 3) if plan.processes > 1 else slice(2, 3)
    groups = [list(group) for _, group in groupby(asked, lambda case: case[in_process])]
    calls = [partial(plan.run, [plan.train_case(*case) for case in group]) for group in groups]
    outcomes = in_parallel(calls, plan.budget, plan.processes)
    return dict(zip(asked, chain.from_iterable(outcomes), strict=True))


def fill_trainings(
    section: Section,
    plan: Plan,
    kinds: Sequence[str],
    precisions: Sequence[str],
    trained: Trained,
) -> None:
    """Writes a row per kind: the mean loss of the first and of the last quarter of its steps."""
    section.say(
        f"{plan.steps} steps on digits, `execution=auto`: the mean loss of their first and of "
        "their last quarter, and the seconds of the whole training."
    )
    found = {case[:2]: outcome for case, outcome in trained.items() if case[2] == "first"}
    rows = [
        (kind, *(_trained_cell(section, found.get((kind, one))) for one in precisions))
        for kind in kinds
    ]
    section.table(("kind", *precisions), rows)
    for precision in precisions:
        values = [one.value for (_, its), one in found.items() if its == precision and one.value]
        executions = ", ".join(sorted({value["execution"] for value in values})) or "none"
        tf32 = any(value["tf32"] for value in values)
        words = f"; TF32 {'on' if tf32 else 'off'}" if plan.gpus else ""
        section.lines.append(f"{precision}: executions {executions}{words}  ")
        section.require(
            not (plan.gpus and tf32 and precision == "float32"),
            "float32 products are computed in TF32",
        )
    section.lines.append("")


def _trained_cell(section: Section, outcome: Outcome | None) -> str:
    if outcome is None:
        return ""

    def show() -> str:
        losses = outcome.value["losses"]
        quarter = max(1, len(losses) // 4)
        before, after = mean(losses[:quarter]), mean(losses[-quarter:])
        shown = f"{before:.4g} to {after:.4g} ({outcome.value['seconds']:.1f} s)"
        finite = all(map(math.isfinite, losses))
        if section.require(finite, f"{outcome.name}: a loss is not finite"):
            section.require(after < before, f"{outcome.name}: the loss did not fall, {shown}")
        return shown

    return section.cell(outcome, show)


def fill_bits(section: Section, runs: Iterable[tuple[str, Outcome, Outcome]]) -> None:
    """Writes a row per (kind, first run, second run): whether both ended with the same state."""
    rows = []
    for kind, first, second in runs:
        if first.value is None:
            section.left_out.append(f"{kind}: its first training has no result")
            rows.append((kind, "left out", ""))
            continue
        show = partial(_bits_cell, section, kind, first.value, second.value)
        rows.append((kind, section.cell(second, show), first.value["sha256"][:16]))
    section.say("SHA-256 over all weights and optimizer slots, float32, two processes.")
    section.table(("kind", "bits", "SHA-256"), rows)


def _bits_cell(section: Section, kind: str, first: dict[str, Any], second: dict[str, Any]) -> str:
    same = first["sha256"] == second["sha256"]
    return "equal" if section.require(same, f"{kind}: two processes differ") else "**differ**"


def fill_resumed(section: Section, plan: Plan, nets: Sequence[str]) -> None:
    """Trains to a checkpoint, resumes copies of the run here and on a CPU, compares the losses."""
    begun = plan.run([plan.train_case(net, "float32", "begun") for net in nets])
    ready = [net for net, outcome in zip(nets, begun, strict=True) if section.succeeded(outcome)]
    here = [_resumed_case(plan, net, "resumed here") for net in ready]
    on_cpu = [_resumed_case(plan, net, "resumed on a CPU", strategy="cpu:1") for net in ready]
    resumed = in_parallel(
        [partial(plan.run, here), partial(plan.run, on_cpu, {"CUDA_VISIBLE_DEVICES": ""})],
        plan.budget,
        plan.processes,
    )
    rows = []
    for net, one, other in zip(ready, *resumed, strict=True):
        if section.succeeded(one):
            losses = one.value["losses"]
            rows.append((net, section.difference(other, losses, _RESUMED_TOLERANCE)))
    section.say(
        f"A checkpoint of step {plan.steps}, written by the first device, and {_RESUMED_STEPS} "
        "more steps on it and on a CPU: the largest relative difference of the logged losses."
    )
    section.table(("net", "difference"), rows)


def _resumed_case(plan: Plan, net: str, label: str, **changes: object) -> Case:
    """Returns the training that resumes a copy of the run "begun"."""
    workdir = plan.folder / f"{net}-{label.replace(' ', '-')}"
    shutil.copytree(plan.folder / f"{net}-float32-begun", workdir)
    steps = plan.steps + _RESUMED_STEPS
    return plan.train_case(net, "float32", label, steps=steps, workdir=workdir, **changes)
