"""python -m tests.coverage_by_room [PYTEST-ARGUMENTS]: prints covered lines and branches by room.

Subprocesses count too. Without arguments it runs the tests of `make test` and `make test-slow`.
"""

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
OUT = ROOT / "build" / "coverage"
_TESTS = ("-m", "not workers and not faults and not gpu_compile", "--numprocesses=2")
_COUNTS = ("num_statements", "covered_lines", "num_branches", "covered_branches")


def measure(arguments: list[str]) -> int:
    """Runs pytest under coverage.py; returns its exit status."""
    OUT.mkdir(parents=True, exist_ok=True)
    _coverage("erase")
    status = _coverage("run", "-m", "pytest", *arguments)
    _coverage("combine", "--quiet")
    _coverage("json", "--quiet", "-o", str(OUT / "coverage.json"))
    return status


def table(report: dict) -> str:
    """Writes the counts of a report of coverage.py's by room, as Markdown."""
    rooms: dict[str, list[int]] = defaultdict(lambda: [0] * len(_COUNTS))
    for name, file in report["files"].items():
        folders = Path(name).parts[:-1]
        for room in ("/".join(folders[:2]), "all"):
            counts = [file["summary"][count] for count in _COUNTS]
            rooms[room] = [sum(pair) for pair in zip(rooms[room], counts, strict=True)]
    lines = ["| room | lines | run | branches | run |", "| --- | ---: | ---: | ---: | ---: |"]
    for room, (statements, run, branches, taken) in sorted(rooms.items(), key=_all_last):
        shares = f"{run / max(statements, 1):.1%}", f"{taken / max(branches, 1):.1%}"
        lines.append(f"| `{room}` | {statements} | {shares[0]} | {branches} | {shares[1]} |")
    return "\n".join(lines)


def _all_last(entry: tuple[str, list[int]]) -> tuple[bool, str]:
    return entry[0] == "all", entry[0]


def _coverage(*arguments: str) -> int:
    environment = os.environ | {"COVERAGE_FILE": str(OUT / ".coverage")}
    command = [sys.executable, "-m", "coverage", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    status = measure(sys.argv[1:] or [*_TESTS, "--dist=worksteal"])
    print(table(json.loads((OUT / "coverage.json").read_text())))
    sys.exit(status)
