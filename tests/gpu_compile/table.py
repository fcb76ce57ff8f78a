"""The table of kernels.md on what GPUs run in a step, by XLA's compiler.

    python -m tests.gpu_compile.table          prints it
    python -m tests.gpu_compile.table --write  writes it into kernels.md

Both take about 25 minutes on two busy cores, without a GPU. The table is the baseline of
`make test-gpu-compile`.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.gpu_compile.compiler import CompilerError, build, compile_module, missing_tool, run
from tests.gpu_compile.counts import Counts, count
from tests.gpu_compile.devices import DEVICES

DOCUMENT = Path(__file__).with_name("kernels.md")
SHOWN = ("a100", "h100")  # the devices whose counts are shown

_BEGIN, _END = "<!-- gpu_compile -->\n", "<!-- /gpu_compile -->\n"
_NETS = (
    *("linear", "dense", "deep", "conv", "deep_conv", "denoising", "sparse", "sparse_kl"),
    *("contractive", "concrete", "vae", "iwae", "finetune"),
)
_BY_LIBRARY = ("conv", "deep_conv", "denoising")  # what `execution=measure` tries besides
_HALF_NETS = ("dense", "conv", "deep_conv", "concrete", "vae")
_HALF_DEVICES = ("a100", "t4")
_HEADER = (
    *("net, batch", "execution", "precision", "GPU", "kernels", "inner loops", "products"),
    *("launches", "host waits", "TF32"),
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A net whose training loop is compiled, one way and in one precision."""

    net: str
    execution: str = "auto"
    precision: str = "float32"

    @property
    def devices(self) -> tuple[str, ...]:
        """Returns the devices that it is compiled for."""
        return DEVICES if self.precision == "float32" else _HALF_DEVICES

    def __str__(self) -> str:
        return f"{self.net}-{self.execution}-{self.precision}"


CASES = (
    *(Case(net) for net in _NETS),
    *(Case(net, "xla") for net in _BY_LIBRARY),
    *(Case(net, "auto", half) for half in ("bfloat16", "float16") for net in _HALF_NETS),
)


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table, as it is written: what a step of a net costs on a GPU."""

    net: str  # with its batch size
    execution: str
    precision: str
    device: str
    kernels: str
    loops: str
    products: str
    launches: str
    host_waits: str
    tf32: str

    @property
    def name(self) -> str:
        """Names the case and the device."""
        return f"{self.net}, {self.execution}, {self.precision}, {self.device}"

    def costs(self) -> dict[str, float]:
        """Returns what may not grow; the loops' kernels are those of all turns."""
        own, *branches = map(int, re.findall(r"\d+", self.kernels))
        turns = re.findall(r"(\w+) x (\d+)", self.loops.replace("unknown", "inf"))
        return {
            "kernels": own,
            "branch_kernels": sum(branches),
            "loop_kernels": sum(float(turn) * int(kernels) for turn, kernels in turns),
            "launches": int((re.findall(r"\d+", self.launches) or [0])[0]),
            "host_waits": int(self.host_waits),
            "tf32": int(self.tf32),
        }

    def worse_than(self, other: "Row") -> list[str]:
        """Returns a line on each cost that is above another row's, with both values."""
        before = other.costs()
        return [
            f"{self.name}: {cost:g} {name}, {before[name]:g} before"
            for name, cost in self.costs().items()
            if cost > before[name]
        ]


@dataclasses.dataclass(frozen=True)
class Measured:
    """What the compiler made of a case: rows, and in one line why a device was refused."""

    case: Case
    rows: tuple[Row, ...]
    refusals: dict[str, str]


def measure(folder: Path, cases: Iterable[Case] = CASES) -> list[Measured]:
    """Compiles every case for every one of its devices, a few at a time."""
    program = build(folder)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda case: _measure(case, program, folder / str(case)), cases))


def _measure(case: Case, program: Path, folder: Path) -> Measured:
    folder.mkdir()
    try:
        about = _dump(case, folder)
    except CompilerError as error:
        return Measured(case, (), dict.fromkeys(case.devices, f"TensorFlow: {error}"))
    rows, refusals = [], {}
    for device in case.devices:
        try:
            compiled = compile_module(
                program, folder / "module.txt", device, about["xla_flags"], folder / device
            )
        except CompilerError as error:
            refusals[device] = str(error)
            continue
        may_use_tf32 = case.precision == "float32" and device != "t4"
        rows.append(make_row(case, about, device, count(compiled, may_use_tf32=may_use_tf32)))
    return Measured(case, tuple(rows), refusals)


def _dump(case: Case, folder: Path) -> dict:
    """Has a process of its own write the HLO of a case; returns how it was made."""
    command = [
        *(sys.executable, "-m", "tests.gpu_compile.dump", f"--net={case.net}"),
        *(f"--execution={case.execution}", f"--precision={case.precision}", f"--folder={folder}"),
    ]
    without_gpu = os.environ | {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    run(command, without_gpu)
    return json.loads((folder / "about.json").read_text())


def make_row(case: Case, about: dict, device: str, counts: Counts) -> Row:
    branches = f" + {counts.branch_kernels} in branches" if counts.branch_kernels else ""
    loops = [f"{loop.turns or 'unknown'} x {loop.kernels}" for loop in counts.loops]
    graphs = f" ({counts.graphs} graphs)" if counts.graphs else ""
    return Row(
        net=f"{case.net}, {about['batch_size']}",
        execution=about["execution"],
        precision=case.precision,
        device=device.upper(),
        kernels=f"{counts.kernels}{branches}",
        loops=", ".join(loops) or "none",
        products=", ".join(f"{number} {name}" for name, number in counts.products.items()),
        launches=f"{counts.launches}{graphs}" if counts.launches else "one graph a call",
        host_waits=str(counts.host_waits),
        tf32=str(counts.tf32),
    )


def render(measured: list[Measured]) -> str:
    """Renders tables in Markdown: the counts of `SHOWN`, and what each device refuses."""
    lines = [_line(_HEADER), _line(["---"] * len(_HEADER))]
    lines += [_line(dataclasses.astuple(row)) for row in shown_rows(measured)]
    lines += ["", _line(["GPU", "compile and assemble", "refused"]), _line(["---"] * 3)]
    for device in DEVICES:
        tried = [case for case in measured if device in case.case.devices]
        refused = [f"{m.case}: {m.refusals[device]}" for m in tried if device in m.refusals]
        passed = f"{len(tried) - len(refused)} of {len(tried)}"
        lines.append(_line([device.upper(), passed, "; ".join(refused) or "none"]))
    return "\n".join(lines) + "\n"


def shown_rows(measured: list[Measured]) -> list[Row]:
    """Returns the rows of the devices in `SHOWN`."""
    shown = [device.upper() for device in SHOWN]
    return [row for case in measured for row in case.rows if row.device in shown]


def parse(text: str) -> dict[str, Row]:
    """Reads the rows of a rendered table, by their names."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    rows = [Row(*row) for row in cells if len(row) == len(_HEADER) and row[4][:1].isdecimal()]
    return {row.name: row for row in rows}


def baseline(document: Path = DOCUMENT) -> str:
    """Reads the tables from the document."""
    return document.read_text().partition(_BEGIN)[2].partition(_END)[0]


def write(tables: str, document: Path = DOCUMENT) -> None:
    """Replaces the tables in the document."""
    before, begin, rest = document.read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    assert begin, f"{document} has no place for the table"
    assert end, f"{document} has no end of the table"
    document.write_text(before + begin + tables + end + after)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Prints or writes the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true", help="write it into kernels.md")
    arguments = parser.parse_args()
    missing = missing_tool()
    if missing:
        sys.exit(missing)
    with tempfile.TemporaryDirectory() as folder:
        tables = render(measure(Path(folder)))
    print(tables)
    if arguments.write:
        write(tables)


if __name__ == "__main__":
    main()
