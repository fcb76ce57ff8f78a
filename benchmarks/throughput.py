"""python -m benchmarks.throughput: measures images per second while training, by framework.

Each measurement runs in its own process; the frameworks alternate, and medians are compared. All
train the same nets on the same images in memory; compilation does not count. A framework that is
not installed (pip install '.[bench]') is left out. Writes a table, a plot and JSON.
"""

import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from absl import app, flags

from benchmarks import limit, sides
from benchmarks.nets import NETS

# Gives Keras the trainer's kernels, which are off by default on CPUs without AVX-512.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_MODULES = {  # of benchmarks.sides, with the package that each needs
    "with_trainer": "tensorflow",
    "with_keras": "keras",
    "with_torch": "torch",
    "with_jax": "jax",
}
_SIDES = ("trainer", "article", "fit", "fit_xla", "torch", "torch_compiled", "jax_scan")
_CONV_SIDES = (
    *("trainer", "article", "fit", "fit_xla"),
    *("torch", "torch_compiled", "torch_channels_last", "jax_step"),
)

_NETS = flags.DEFINE_list("nets", list(NETS), "The nets to train.")
_BATCHES = flags.DEFINE_list("batches", ["64", "512", "4096"], "The batch sizes.")
_WAYS = flags.DEFINE_list("ways", [], "The ways to train; default: all that suit the net.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Measurements of each case; medians are compared.", 1)
_SECONDS = flags.DEFINE_float("seconds", 3.0, "Seconds of a measurement, after compilation.", 0.1)
_OUT = flags.DEFINE_string("out", "runs/benchmark", "The folder of table, plot and JSON.")
_TORCH_PYTHON = flags.DEFINE_string(
    "torch_python",
    None,
    "A Python with PyTorch, whose CUDA would overwrite TensorFlow's.",
)
_ONE = flags.DEFINE_string("one", None, "Measure this case only, as with_torch/torch/conv/64.")

flags.register_validator(
    "nets", lambda nets: set(nets) <= NETS.keys(), f"allowed: {', '.join(NETS)}"
)
flags.register_validator(
    "batches", lambda sizes: all(size.isdecimal() and int(size) > 0 for size in sizes), "integers"
)

Rates = dict[str, dict[str, list[float]]]  # images per second by "net/batch" and way


def main(argv: list[str]) -> None:
    """Measures and prints the case of --one, or measures all cases and writes the results."""
    del argv
    if _ONE.value:
        module, way, net, batch_size = _ONE.value.split("/")
        print(sides.measure(module, way, net, int(batch_size), _SECONDS.value))
        return
    rates: Rates = {}
    rounds = range(1, _ROUNDS.value + 1)
    for number, net, batch_size in itertools.product(rounds, _NETS.value, _BATCHES.value):
        row = rates.setdefault(f"{net}/{batch_size}", {})
        for module, way in _ways(net):
            try:
                rate = _in_a_process(f"{module}/{way}/{net}/{batch_size}")
            except subprocess.CalledProcessError as error:
                result = f"failed: {' '.join(error.stderr.strip().splitlines()[-1:])}"
            else:
                row.setdefault(way, []).append(rate)
                result = f"{rate:,.0f}"
            print(
                f"round {number}  {net} {batch_size} {way}: {result}", file=sys.stderr, flush=True
            )
    machine = limit.measure()
    out = Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    table = _table(rates, machine)
    (out / "throughput.md").write_text(table)
    (out / "throughput.json").write_text(json.dumps({"machine": machine, "rates": rates}, indent=1))
    _plot(rates, machine, out / "throughput.png")
    print(table)


def _ways(net: str) -> Iterator[tuple[str, str]]:
    """Yields the ways to train a net, each with its module."""
    known = {
        way: name
        for name, package in _MODULES.items()
        if importlib.util.find_spec(package) or (package == "torch" and _TORCH_PYTHON.value)
        for way in sides.WAYS[name]
    }
    unknown = set(_WAYS.value) - known.keys()
    if unknown:
        sys.exit(
            f"error: --ways={','.join(sorted(unknown))} is not known; allowed: {', '.join(known)}"
        )
    ways = _WAYS.value or (_CONV_SIDES if "conv" in net else _SIDES)
    yield from ((known[way], way) for way in ways if way in known)


def _in_a_process(case: str) -> float:
    python = _TORCH_PYTHON.value if case.startswith("with_torch/") else None
    command = [python or sys.executable, "-m", "benchmarks.throughput", f"--one={case}"]
    command.append(f"--seconds={_SECONDS.value}")
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def _table(rates: Rates, machine: limit.Machine) -> str:
    """Returns a Markdown table with a row per net and batch size.

    The columns are the medians, the trainer's ratio to the article's script and to the fastest
    other framework, and the share of the machine's limit that the trainer reaches.
    """
    ways = list(dict.fromkeys(way for row in rates.values() for way in row))
    lines = [
        f"| net, batch | {' | '.join(ways)} | trainer / article | trainer / best other | limit |",
        "|---" * (len(ways) + 4) + "|",
    ]
    for case, row in rates.items():
        net, batch_size = case.split("/")
        medians = {way: statistics.median(found) for way, found in row.items()}
        ours = medians.get("trainer", float("nan"))
        others = [rate for way, rate in medians.items() if not way.startswith("trainer")]
        cells = [f"{medians[way]:,.0f}" if way in medians else "" for way in ways]
        cells.append(f"{ours / medians['article']:.2f}" if "article" in medians else "")
        cells.append(f"{ours / max(others):.2f}" if others else "")
        cells.append(f"{ours / limit.images_per_second(net, int(batch_size), machine):.0%}")
        lines.append(f"| {net}, {batch_size} | {' | '.join(cells)} |")
    rate, bandwidth = machine["flops_per_second"], machine["bytes_per_second"]
    lines.append(
        f"\nMedians of images per second. The limit is that of {rate / 1e9:.0f} GFLOP/s of matrix "
        f"products and {bandwidth / 1e9:.0f} GB/s of copying, measured here.\n"
    )
    return "\n".join(lines)


def _plot(rates: Rates, machine: limit.Machine, path: Path) -> None:
    """Plots the medians as bars, a panel per net, with the limit as a line over each batch."""
    from matplotlib.figure import Figure

    nets = list(dict.fromkeys(case.split("/")[0] for case in rates))
    figure = Figure(figsize=(9, 2.6 * len(nets)), dpi=100, layout="constrained")
    panels = figure.subplots(len(nets), 1, squeeze=False)[:, 0]
    ways = list(dict.fromkeys(way for row in rates.values() for way in row))
    for panel, net in zip(panels, nets, strict=True):
        cases = [case for case in rates if case.startswith(f"{net}/")]
        shown = [way for way in ways if any(way in rates[case] for case in cases)]
        width = 0.8 / len(shown)
        for number, way in enumerate(shown):
            heights = [statistics.median(rates[case].get(way, [0.0])) for case in cases]
            centres = [
                group + width * (number - (len(shown) - 1) / 2) for group in range(len(cases))
            ]
            colour = "black" if way == "trainer" else f"C{ways.index(way) - 1}"
            panel.bar(centres, heights, width, label=way, color=colour)
        for group, case in enumerate(cases):
            bound = limit.images_per_second(net, int(case.split("/")[1]), machine)
            panel.hlines(bound, group - 0.4, group + 0.4, "grey", "dashed")
        panel.set_title(f"{net}: images per second while training (dashed: the machine's limit)")
        panel.set_xticks(range(len(cases)), [f"batch {case.split('/')[1]}" for case in cases])
        panel.legend(fontsize="small", ncols=4)
        panel.set_ylim(0, 1.35 * panel.get_ylim()[1])
    figure.savefig(path)


if __name__ == "__main__":
    app.run(main)
