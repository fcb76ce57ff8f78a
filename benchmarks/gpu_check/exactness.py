"""Every kind in every precision; the same bits twice; a GPU's checkpoint resumed on a CPU."""

import math
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import mean
from typing import Any

from benchmarks.gpu_check.children import Case, Outcome, in_parallel, run
from benchmarks.gpu_check.plan import Plan
from benchmarks.gpu_check.report import Section

_RESUMED_STEPS = 20
_RESUMED_TOLERANCE = 1e-3  # relative, of losses on a CPU to those on a GPU, after so few steps
_SMALL_KIND = "dense"  # that a small check trains in every precision, and twice

Outcomes = Mapping[tuple[str, str], Outcome]  # by kind and precision


def train_all(plan: Plan, kinds: Sequence[str], precisions: Sequence[str]) -> list[Outcomes]:
    """Train every kind in every precision, and in float32 a second time in another process.

    Returns the outcomes of the first and of the second time. A small check trains only one kind
    in other precisions than float32, and a second time.
    """
    first = [
        [(kind, precision) for kind in kinds if precision == "float32" or _is_covered(plan, kind)]
        for precision in precisions
    ]
    if plan.processes == 1:  # which then starts TensorFlow once
        first = [[case for batch in first for case in batch]]
    second = [(kind, "float32") for kind in twice(plan, kinds)]
    labels = ["first"] * len(first) + ["second"]
    calls = [
        partial(
            run,
            [plan.train_case(kind, precision, label) for kind, precision in batch],
            plan.budget,
            environment=plan.one_gpu(),
        )
        for batch, label in zip([*first, second], labels, strict=True)
    ]
    *of_first, of_second = in_parallel(calls, plan.budget, plan.processes)
    found: dict[tuple[str, str], Outcome] = {}
    for batch, outcomes in zip(first, of_first, strict=True):
        found |= zip(batch, outcomes, strict=True)
    return [found, dict(zip(second, of_second, strict=True))]


def twice(plan: Plan, kinds: Sequence[str]) -> list[str]:
    """Return the kinds that are trained twice."""
    return [kind for kind in kinds if not plan.small or kind == _SMALL_KIND]


def _is_covered(plan: Plan, kind: str) -> bool:
    return not plan.small or kind == _SMALL_KIND


def fill_trainings(
    section: Section, plan: Plan, kinds: Sequence[str], precisions: Sequence[str], found: Outcomes
) -> None:
    """Write a row a kind: the mean loss of the first and of the last quarter of its steps."""
    section.lines += [
        f"{plan.steps} steps on digits, `execution=auto`: the mean loss of the first and of the "
        "last quarter of them, and the seconds of the whole training.",
        "",
    ]
    rows = []
    for kind in kinds:
        cells = []
        for precision in precisions:
            if (kind, precision) not in found:
                cells.append("")
                continue
            outcome = found[kind, precision]
            name = f"{kind} in {precision}"
            show = partial(_trained, section, name, outcome.value)
            cells.append(section.cell(name, outcome, show))
        rows.append((kind, *cells))
    section.table(("kind", *precisions), rows)
    for precision in precisions:
        values = [one.value for (_, its), one in found.items() if its == precision and one.value]
        executions = ", ".join(sorted({value["execution"] for value in values})) or "none"
        tf32 = any(value["tf32"] for value in values)
        section.lines.append(f"{precision}: executions {executions}{_tf32_words(plan, tf32)}  ")
        section.require(
            not (plan.gpus and tf32 and precision == "float32"),
            "float32 products are computed in TF32",
        )
    section.lines.append("")


def _tf32_words(plan: Plan, used: bool) -> str:
    """Return whether TF32 was allowed, where it can be."""
    return f"; TF32 {'on' if used else 'off'}" if plan.gpus else ""


def _trained(section: Section, name: str, value: dict[str, Any]) -> str:
    losses = value["losses"]
    quarter = max(1, len(losses) // 4)
    before, after = mean(losses[:quarter]), mean(losses[-quarter:])
    shown = f"{before:.4g} to {after:.4g} ({value['seconds']:.1f} s)"
    finite = all(map(math.isfinite, losses))
    if section.require(finite, f"{name}: a loss is not finite"):
        section.require(after < before, f"{name}: the loss did not fall, {shown}")
    return shown


def fill_bits(
    section: Section, plan: Plan, kinds: Sequence[str], found: Sequence[Outcomes]
) -> None:
    """Write a row a kind: whether two processes ended with the same weights and slots."""
    rows = []
    for kind in twice(plan, kinds):
        first, second = (outcomes[kind, "float32"] for outcomes in found)
        if first.value is None:
            section.left_out.append(f"{kind}: its first training has no result")
            rows.append((kind, "left out", ""))
            continue
        show = partial(_same, section, kind, first.value, second.value)
        rows.append((kind, section.cell(kind, second, show), first.value["sha256"][:16]))
    section.lines += ["SHA-256 over all weights and optimizer slots, float32, two processes.", ""]
    section.table(("kind", "bits", "SHA-256"), rows)


def _same(section: Section, kind: str, first: dict[str, Any], second: dict[str, Any]) -> str:
    same = first["sha256"] == second["sha256"]
    return "equal" if section.require(same, f"{kind}: two processes differ") else "**differ**"


def fill_resumed(section: Section, plan: Plan, nets: Sequence[str]) -> None:
    """Train to a checkpoint, go on from copies of it here and on a CPU, and compare the losses."""
    begun = run(
        [plan.train_case(net, "float32", "begun") for net in nets],
        plan.budget,
        environment=plan.one_gpu(),
    )
    ready = [
        net
        for net, outcome in zip(nets, begun, strict=True)
        if section.succeeded(f"{net}, begun", outcome)
    ]
    here, on_cpu = in_parallel(
        [
            partial(
                run,
                [_goes_on(plan, net, "here") for net in ready],
                plan.budget,
                environment=plan.one_gpu(),
            ),
            partial(
                run,
                [_goes_on(plan, net, "on-cpu", strategy="cpu:1") for net in ready],
                plan.budget,
                environment={"CUDA_VISIBLE_DEVICES": ""},
            ),
        ],
        plan.budget,
        plan.processes,
    )
    rows = []
    for net, one, other in zip(ready, here, on_cpu, strict=True):
        if not section.succeeded(f"{net}, resumed here", one):
            continue
        losses = one.value["losses"]
        name = f"{net}, resumed on a CPU"
        rows.append((net, section.difference(name, other, losses, _RESUMED_TOLERANCE)))
    section.lines += [
        f"A checkpoint of step {plan.steps}, written by the first device, and {_RESUMED_STEPS} "
        "more steps on it and on a CPU: the largest relative difference of the logged losses.",
        "",
    ]
    section.table(("net", "difference"), rows)


def _goes_on(plan: Plan, net: str, label: str, **changes: object) -> Case:
    """Return the training that resumes a copy of the begun run."""
    folder = plan.folder / f"{net}-resumed-{label}"
    shutil.copytree(plan.folder / f"{net}-float32-begun", folder)
    return plan.train_case(
        net, "float32", label, steps=plan.steps + _RESUMED_STEPS, workdir=folder, **changes
    )
