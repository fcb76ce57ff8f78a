"""Writes the report: independent sections, and the file that holds all of them."""

import dataclasses
import datetime
import re
import subprocess
from collections.abc import Callable, Iterable, Sequence

from benchmarks.gpu_check.children import ROOT, Outcome, one_line


@dataclasses.dataclass
class Section:
    """Collects a section of the report: Markdown lines, failures, and cases without time."""

    title: str
    lines: list[str] = dataclasses.field(default_factory=list)
    failures: list[str] = dataclasses.field(default_factory=list)
    left_out: list[str] = dataclasses.field(default_factory=list)

    def require(self, holds: bool, failure: str) -> bool:
        """Adds a failure unless the condition holds; returns whether it does."""
        if not holds:
            self.failures.append(failure)
        return holds

    def succeeded(self, outcome: Outcome) -> bool:
        """Returns whether a case has a value; otherwise notes the failure or the lack of time."""
        if outcome.left_out:
            self.left_out.append(outcome.name)
        elif outcome.error is not None:
            self.failures.append(f"{outcome.name}: {outcome.error}")
        return outcome.value is not None

    def cell(self, outcome: Outcome, show: Callable[[], str]) -> str:
        """Returns a table's cell for a case: the text of `show`, or that it has no value."""
        if self.succeeded(outcome):
            return show()
        return "left out" if outcome.left_out else "**failed**"

    def rate(self, outcome: Outcome) -> str:
        """Returns the cell of a case whose value is a rate."""
        return self.cell(outcome, lambda: f"{outcome.value:,.0f}")

    def difference(self, outcome: Outcome, expected: Sequence[float], tolerance: float) -> str:
        """Returns the cell of a case with losses: the largest relative difference to `expected`.

        A difference above the tolerance is a failure.
        """

        def show() -> str:
            pairs = zip(outcome.value["losses"], expected, strict=True)
            found = [abs(loss - other) / abs(other) for loss, other in pairs]
            close = all(difference <= tolerance for difference in found)  # NaN is not
            self.require(close, f"{outcome.name}: the losses differ by {max(found):.1e}")
            return f"{max(found):.1e}"

        return self.cell(outcome, show)

    def say(self, text: str) -> None:
        """Adds a paragraph."""
        self.lines += [text, ""]

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Adds a Markdown table, unless it has no rows."""
        body = [_row(row) for row in rows]
        if body:
            self.lines += [_row(header), "|" + "---|" * len(header), *body, ""]


def _row(cells: Sequence[str]) -> str:
    """Returns a row of a Markdown table; a bar inside a cell is escaped."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def guarded(title: str, fill: Callable[[Section], None]) -> Section:
    """Fills a section; an exception becomes a failure of the section, in one line."""
    section = Section(title)
    try:
        fill(section)
    except Exception as error:  # the other sections are still useful
        section.failures.append(f"the section could not be completed: {one_line(error)}")
    return section


def render(sections: Sequence[Section], *, cards: str, rehearsal: bool, minutes: float) -> str:
    """Formats the report as Markdown: result, failures, cases without time, then each section."""
    failures = [(section.title, text) for section in sections for text in section.failures]
    left_out = [(section.title, text) for section in sections for text in section.left_out]
    first = "CPU rehearsal: no GPU was used" if rehearsal else f"GPU check: {cards}"
    now = datetime.datetime.now(datetime.UTC)
    lines = [
        f"# {first}",
        "",
        f"**{verdict(sections)}**; {now:%Y-%m-%d %H:%M} UTC, {minutes:.1f} minutes.",
    ]
    lines += [f"Commit {_commit()}.", ""]
    for heading, found in (("Failed", failures), ("Left out, for lack of time", left_out)):
        if found:
            lines += [f"## {heading}", "", *(f"- {title}: {text}" for title, text in found), ""]
    for section in sections:
        lines += [f"## {section.title}", "", *(section.lines or ["Nothing was measured.", ""])]
    return "\n".join(lines).rstrip() + "\n"


def verdict(sections: Sequence[Section]) -> str:
    """Returns how many checks failed and how many were left out."""
    failures = sum(len(section.failures) for section in sections)
    left_out = sum(len(section.left_out) for section in sections)
    if not failures and not left_out:
        return "all checks passed"
    return f"{failures or 'no'} checks failed, {left_out or 'none'} left out for lack of time"


def slug(name: str) -> str:
    """Returns a file name for a card: lower case, with hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unknown"


def _commit() -> str:
    """Returns the commit of this checkout, and whether files differ from it."""
    try:
        asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown: not a checkout"
