"""Measures speed: the trainer, other frameworks, the machine's limits, precisions, log lines."""

import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence

from benchmarks import limit
from benchmarks.gpu_check.children import Case, Outcome
from benchmarks.gpu_check.plan import TRAININGS, Plan
from benchmarks.gpu_check.report import Section
from benchmarks.nets import NETS

Rates = Mapping[tuple[str, int], Mapping[str, Outcome]]  # by (net, batch size) and way


def measure(plan: Plan, nets: Sequence[str]) -> Rates:
    """Measures every way to train the nets, one framework after the other.

    A config without a net for the other frameworks, such as `sparse`, is measured only here.
    """
    rates: dict[tuple[str, int], dict[str, Outcome]] = {
        (net, size): {} for net in nets for size in plan.batch_sizes
    }
    for module, python in (
        ("with_trainer", sys.executable),
        ("with_keras", sys.executable),
        ("with_torch", torch_interpreter(plan)),
    ):
        asked = [(*case, way) for case in rates for way in _ways(plan, module, case[0])]
        if python and asked:
            outcomes = plan.run([_case(plan, module, *one) for one in asked], python=python)
            for (net, size, way), outcome in zip(asked, outcomes, strict=True):
                rates[net, size][way] = outcome
    return rates


def torch_interpreter(plan: Plan) -> str | None:
    """Returns a Python that has PyTorch: the flag's or, on a CPU, this one."""
    if plan.torch_python or plan.gpus:
        return plan.torch_python
    return sys.executable if importlib.util.find_spec("torch") else None


def _ways(plan: Plan, module: str, net: str) -> Iterator[str]:
    if module == "with_trainer":
        yield "trainer"
    elif net not in NETS:
        return
    elif module == "with_keras":
        yield from ("fit",) if plan.small else ("fit", "fit_xla")
    else:
        yield "torch"
        if not plan.small:
            yield "torch_compiled"
            if plan.gpus:
                yield "torch_cuda_graphs"
            if "conv" in net:
                yield "torch_channels_last"


def _case(plan: Plan, module: str, net: str, batch_size: int, way: str) -> Case:
    arguments = {
        "module": module,
        "way": way,
        "net": net,
        "batch_size": batch_size,
        "seconds": plan.seconds,
    }
    return Case(f"{way} {net} at {batch_size}", "benchmarks.sides:measure", arguments)


def fill_frameworks(section: Section, plan: Plan, rates: Rates) -> None:
    """Writes a row per net and batch size: the rates, and the trainer's ratio to the best other."""
    section.say("Images per second while training, in float32 without TF32.")
    ways = list(dict.fromkeys(way for found in rates.values() for way in found))
    rows = []
    for (net, size), found in rates.items():
        cells = [section.rate(found[way]) if way in found else "" for way in ways]
        ours = found["trainer"].value if "trainer" in found else None
        best = max((found[way].value or 0 for way in found if way != "trainer"), default=0)
        rows.append((f"{net}, {size}", *cells, f"{ours / best:.2f}" if ours and best else ""))
    section.table(("net, batch", *ways, "trainer / best other"), rows)
    if torch_interpreter(plan) is None:
        section.say("PyTorch was not measured: `TORCH_PYTHON` names no Python that has it.")


def measure_limits(plan: Plan, precisions: Sequence[str]) -> Mapping[str, Outcome]:
    """Measures the rate of matrix products in every precision, and the bandwidth."""
    cases = [
        Case(f"limits in {one}", "benchmarks.limit:measure", {"precision": one})
        for one in precisions
    ]
    return dict(zip(precisions, plan.run(cases), strict=True))


def fill_limits(section: Section, limits: Mapping[str, Outcome], rates: Rates) -> None:
    """Writes the machine's limits, and the share of them that the trainer reaches in float32."""
    rows = []
    for precision, outcome in limits.items():
        if section.succeeded(outcome):
            flops, bandwidth = (
                outcome.value[name] for name in ("flops_per_second", "bytes_per_second")
            )
            rows.append((precision, f"{flops / 1e12:.3g}", f"{bandwidth / 1e9:,.0f}"))
    section.table(("precision", "matrix products, TFLOP/s", "copying, GB/s"), rows)
    machine = limits["float32"].value
    if machine is None:
        return
    shares = []
    for (net, size), found in rates.items():
        ours = found["trainer"].value if "trainer" in found else None
        if ours and net in NETS:
            bound = limit.images_per_second(net, size, machine)
            shares.append((f"{net}, {size}", f"{bound:,.0f}", f"{ours / bound:.1%}"))
    section.say(
        "The limit is set by a step's arithmetic at the float32 rate or by its bytes at that "
        "bandwidth, whichever take longer, each layer's output kept in memory."
    )
    section.table(("net, batch", "limit, images per second", "trainer / limit"), shares)


def fill_precisions(section: Section, plan: Plan, precisions: Sequence[str]) -> None:
    """Writes the speed of the net with the widest layers in every precision."""
    net = "dense" if plan.small else "deep"
    outcomes = iter(
        plan.run(
            [
                plan.rate_case(net, size, precision=precision)
                for size in plan.batch_sizes
                for precision in precisions
            ]
        )
    )
    section.say("Images per second while training:")
    rows = [
        (f"{net}, {size}", *(section.rate(next(outcomes)) for _ in precisions))
        for size in plan.batch_sizes
    ]
    section.table(("net, batch", *precisions), rows)


def fill_logging(section: Section, plan: Plan) -> None:
    """Writes what log lines cost: whole trainings that log at two cadences."""
    steps = 60 if plan.small else 10_000
    strategy = {} if plan.gpus else {"strategy": "cpu:1"}
    cases = [
        Case(
            f"dense, a log line every {every} steps",
            f"{TRAININGS}:logged_rate",
            {
                "net": "dense",
                "workdir": str(plan.folder / f"logged-{every}"),
                "steps": steps,
                "changes": strategy | {"log_every_steps": every},
            },
        )
        for every in ((5, 20) if plan.small else (100, 1000))
    ]
    rows = [
        (
            outcome.name,
            f"{outcome.value['images_per_second']:,.0f}",
            f"{outcome.value['steps_share']:.0%}",
        )
        for outcome in plan.run(cases)
        if section.succeeded(outcome)
    ]
    section.say(
        f"Whole trainings of {steps:,} steps at batch 128, by the wall clock after compilation."
    )
    section.table(("", "images per second", "share of the time in steps"), rows)
