"""Plants small faults one at a time, and counts those that the tests find.

    python -m tests.mutation [--only=positions,step] [--limit=10] [--root=TREE] [--fresh] [--list]

Each fault is planted in a copy of the tree, where the tests of its file run until the first fails;
tests that take too long have found it. Results are kept in build/mutation, so that a check that was
interrupted goes on, and written to build/mutation/report.md. A fault that the tests missed is shown
there: read it, since some change nothing that anybody could see.
"""

import argparse
import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.mutation import warm
from tests.mutation.faults import Fault, choose
from tests.mutation.targets import TARGETS, Target

OUT = Path("build/mutation")
_SLOWER = 3  # times the tests of an unchanged tree, which a fault may take
_SPARE_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class Tree:
    """A copy of the project, in which one file at a time has a fault."""

    original: Path
    copy: Path

    def text(self, path: str) -> str:
        """Returns a file as it is without a fault."""
        return (self.original / path).read_text()

    def digest(self, paths: list[str]) -> str:
        """Returns a digest of some files."""
        texts = "\0".join(self.text(path) for path in paths)
        return hashlib.blake2b(texts.encode(), digest_size=6).hexdigest()


def copy_of(original: Path, folder: Path) -> Tree:
    """Copies what git tracks, or would track, of a tree."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=original, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (original / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(original / name, folder / name)
    return Tree(original, folder)


def faults_of(tree: Tree, name: str, target: Target) -> list[Fault]:
    """Chooses the faults of a target, as evenly as can be among its files that have any."""
    paths = target.paths(tree.original, target.files)
    by_file = [choose(name, path, tree.text(path), target.faults, target.roots) for path in paths]
    by_file = [faults for faults in by_file if faults]
    turns = [
        faults[turn] for turn in range(target.faults) for faults in by_file if turn < len(faults)
    ]
    return turns[: target.faults]


class Results:
    """What is known of each fault and of each target without one, in a file of lines of JSON."""

    def __init__(self, path: Path, fresh: bool):
        path.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            path.unlink(missing_ok=True)
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self._known = {entry["key"]: entry for entry in map(json.loads, lines)}

    def get(self, key: str) -> dict | None:
        """Returns what was kept under a key."""
        return self._known.get(key)

    def add(self, key: str, **entry) -> dict:
        """Keeps an entry, on disk at once."""
        self._known[key] = {"key": key, **entry}
        with self._path.open("a") as lines:
            lines.write(json.dumps(self._known[key]) + "\n")
        return self._known[key]


def baseline(tree: Tree, name: str, tests: list[str], results: Results) -> dict:
    """Runs a target's tests without a fault: how long they take, and which fail already."""
    key = f"{name} {tree.digest(tests)}"
    known = results.get(key)
    if known is None:
        began = time.monotonic()
        outcome = warm.run_tests(tree.copy, tests, [], stop=False, seconds=3600)
        seconds = round(time.monotonic() - began, 1)
        known = results.add(key, seconds=seconds, failed=outcome.failed)
    if known["failed"]:
        print(f"{name}: left out, since they fail without a fault: {known['failed']}", flush=True)
    return known


def check(tree: Tree, fault: Fault, tests: list[str], unchanged: dict) -> dict:
    """Plants a fault, runs the tests, and takes it out again."""
    path = tree.copy / fault.path
    path.write_text(fault.text)
    began = time.monotonic()
    seconds = _SLOWER * unchanged["seconds"] + _SPARE_SECONDS
    try:
        left_out = unchanged["failed"]
        outcome = warm.run_tests(tree.copy, tests, left_out, stop=True, seconds=seconds)
    finally:
        path.write_text(tree.text(fault.path))
    return {
        "target": fault.target,
        "operator": fault.operator,
        "found_by": outcome.found_by,
        "seconds": round(time.monotonic() - began, 1),
        "diff": fault.diff(tree.text(fault.path)),
    }


def report(rows: list[dict]) -> str:
    """Writes the table of the targets, and the faults that were missed, as Markdown."""
    lines = ["| code | faults | found | missed |", "| --- | ---: | ---: | ---: |"]
    for name in [*TARGETS, None]:
        some = [row for row in rows if name in (None, row["target"])]
        found = sum(bool(row["found_by"]) for row in some)
        if some:
            share = "" if name else f" ({found / len(some):.0%})"
            lines.append(
                f"| {name or 'all'} | {len(some)} | {found}{share} | {len(some) - found} |"
            )
    missed = [row for row in rows if not row["found_by"]]
    lines += ["", "## Missed"] if missed else []
    for row in missed:
        lines += ["", f"`{row['key'].split()[0]}`, {row['operator']}:", "", "```diff"]
        lines += [row["diff"].rstrip(), "```"]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(TARGETS), help="targets, with commas between")
    parser.add_argument("--limit", type=int, default=sys.maxsize, help="faults to plant at most")
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="the tree to check")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument("--list", action="store_true", help="show the faults and plant none")
    flags = parser.parse_args()
    root = flags.root.resolve()
    results = Results(root / OUT / "results.jsonl", flags.fresh)
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        tree = copy_of(root, Path(folder))
        for name in flags.only.split(","):
            target = TARGETS[name]
            tests = target.paths(root, target.tests)
            for fault in faults_of(tree, name, target)[: flags.limit - len(rows)]:
                if flags.list:
                    print(
                        fault.key, name, fault.operator, fault.diff(tree.text(fault.path)), sep="\n"
                    )
                    continue
                key = f"{fault.key} {tree.digest([fault.path, *tests])}"
                row = results.get(key)
                if row is None:
                    unchanged = baseline(tree, name, tests, results)
                    row = results.add(key, **check(tree, fault, tests, unchanged))
                rows.append(row)
                print(f"{name} {fault.operator}: {row['found_by'] or 'MISSED'}", flush=True)
    if rows:
        (root / OUT / "report.md").write_text(report(rows))
        print(report(rows))


if __name__ == "__main__":
    main()
