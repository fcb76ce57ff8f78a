"""python -m benchmarks.gpu_check: checks the GPUs of this machine and writes one Markdown file.

The check takes ten minutes, or rehearses on the CPU if there is no GPU. Exits with 1 if a check
failed.
"""

import os
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks.gpu_check import exactness, machine, many_gpus, speed
from benchmarks.gpu_check.children import ROOT, Budget, Case, Outcome, run
from benchmarks.gpu_check.plan import Plan
from benchmarks.gpu_check.report import Section, guarded, render, slug, verdict
from trainer.config import load_config

_MAX_PROCESSES = 4
_CORES_PER_PROCESS = 4
_DESCRIBE_SECONDS = 400.0  # including a trial of GPUs, which may take 300
_SMALL_KINDS = ("dense", "conv", "vae")
_NETS, _MORE_NETS = ("dense", "conv"), ("deep_conv", "vae", "sparse")

_MINUTES = flags.DEFINE_float("minutes", 10.0, "The time for the whole check.", 0.1)
_SMALL = flags.DEFINE_bool("small", None, "The small form. Default: only where there is no GPU.")
_TORCH_PYTHON = flags.DEFINE_string(
    "torch_python", None, "A Python with PyTorch, whose speed is measured too."
)
_OUT = flags.DEFINE_string("out", None, "The report. Default: runs/gpu-check/<card>.md.")


def main(argv: list[str]) -> None:
    """Runs every check, writes the report, and prints where it is."""
    del argv
    budget = Budget(60 * _MINUTES.value)
    cards = machine.nvidia_smi()
    case = Case("the machine", "benchmarks.gpu_check.machine:describe", {})
    (described,) = run([case], budget, case_seconds=_DESCRIBE_SECONDS)
    found = described.value or machine.UNKNOWN
    names = sorted({gpu["name"] for gpu in found["gpus"]})
    folder = Path(tempfile.mkdtemp(prefix="gpu-check-"))
    try:
        sections = check(_plan(found, cards, folder, budget), found, cards, described)
    except KeyboardInterrupt:
        sys.exit("interrupted: no report is written")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    path = Path(_OUT.value or f"runs/gpu-check/{slug(' '.join(names) or 'cpu rehearsal')}.md")
    path.parent.mkdir(parents=True, exist_ok=True)
    count = len(found["gpus"])
    minutes = budget.spent_seconds() / 60
    heading = f"{count} x {', '.join(names)}"
    path.write_text(render(sections, cards=heading, rehearsal=count == 0, minutes=minutes))
    print(verdict(sections))
    print(f"report     {path}")
    print("to share   send that file, or copy it to docs/gpu/ and commit it")
    sys.exit(any(section.failures for section in sections))


def check(
    plan: Plan, found: dict[str, Any], cards: list[dict[str, str]], described: Outcome
) -> list[Section]:
    """Runs the checks, correctness first; returns a section for each."""
    about = guarded("Machine", lambda section: machine.fill(section, found, cards))
    if not about.succeeded(described) or found["refusal"]:
        return [about]
    kinds, precisions = _SMALL_KINDS if plan.small else all_kinds(), found["precisions"]
    nets = _NETS[:1] if plan.small else _NETS
    sections = [about, *_exactness(plan, kinds, precisions, nets)]
    title = "Several GPUs" if plan.gpus else "Several devices (two logical CPUs)"
    sections.append(guarded(title, partial(many_gpus.fill, plan=plan, kinds=kinds, nets=nets)))
    rates = dict(speed.measure(plan, nets))
    limits = speed.measure_limits(plan, precisions)
    rest = [
        guarded("Precisions", partial(speed.fill_precisions, plan=plan, precisions=precisions)),
        guarded("Log lines", partial(speed.fill_logging, plan=plan)),
    ]
    rates |= speed.measure(plan, () if plan.small else _MORE_NETS)
    return [
        *sections,
        guarded("Speed", partial(speed.fill_frameworks, plan=plan, rates=rates)),
        guarded("Limits", partial(speed.fill_limits, limits=limits, rates=rates)),
        *rest,
    ]


def all_kinds() -> tuple[str, ...]:
    """Returns the kinds that have a config of the same name."""
    names = sorted(path.stem for path in (ROOT / "configs").glob("[a-z]*.py"))
    return tuple(name for name in names if name != "base" and load_config(name).model.name == name)


def _exactness(
    plan: Plan, kinds: tuple[str, ...], precisions: list[str], nets: tuple[str, ...]
) -> list[Section]:
    trained = exactness.train_all(plan, kinds, precisions)
    twice = [
        (kind, trained[kind, "float32", "first"], trained[kind, "float32", "second"])
        for kind in plan.covered(kinds)
    ]
    every = partial(
        exactness.fill_trainings, plan=plan, kinds=kinds, precisions=precisions, trained=trained
    )
    resumed = partial(exactness.fill_resumed, plan=plan, nets=nets)
    return [
        guarded("Every kind in every precision", every),
        guarded("The same training twice", partial(exactness.fill_bits, runs=twice)),
        guarded("A checkpoint resumed on a CPU", resumed),
    ]


def _plan(found: dict[str, Any], cards: list[dict[str, str]], folder: Path, budget: Budget) -> Plan:
    gpus = len(found["gpus"])
    # In any other compute mode a card takes one process at a time.
    shareable = gpus > 0 and all(card["compute_mode"] == "Default" for card in cards)
    fitting = max(1, min(_MAX_PROCESSES, (os.cpu_count() or 1) // _CORES_PER_PROCESS))
    return Plan(
        gpus=gpus,
        small=not gpus if _SMALL.value is None else _SMALL.value,
        folder=folder,
        budget=budget,
        processes=fitting if shareable else 1,
        torch_python=_TORCH_PYTHON.value,
    )


if __name__ == "__main__":
    app.run(main)
