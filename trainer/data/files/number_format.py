"""Describes how a text file writes numbers and marks missing ones, without pyarrow."""

import dataclasses
import functools
import re

# Texts that stand for a missing number, blanks around them aside.
MISSING = (
    *("", "?", "-", ".", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan"),
    *("None", "none", "NULL", "Null", "null"),
)
_SPACES = " \u00a0\u202f'\u2019"  # separate thousands whatever the decimal mark


@dataclasses.dataclass(frozen=True)
class NumberFormat:
    """Says how a text file writes numbers."""

    decimal: str = "."  # or ","
    has_thousands: bool = False  # the other mark separates thousands, as in 1,234.5
    missing: tuple[str, ...] = MISSING

    def parse(self, text: str) -> float:
        """Parses one number.

        Raises:
          ValueError: the text is not a number in this format.
        """
        text = text.strip()
        grouped = _grouped(self.decimal, self.has_thousands).fullmatch(text)
        if grouped:
            text = text.replace(grouped["mark"], "")
        if self.decimal == ",":
            text = text.replace(".", "_").replace(",", ".")  # Python would take a point
        if "_" in text:  # Python would take 1_000
            raise ValueError(text)
        return float(text)

    def accepts(self, text: str) -> bool:
        """Returns whether the text is a number in this format."""
        try:
            self.parse(text)
        except ValueError:
            return False
        return True


@functools.cache
def _grouped(decimal: str, has_thousands: bool) -> re.Pattern[str]:
    marks = re.escape(_SPACES + ({".": ",", ",": "."}[decimal] if has_thousands else ""))
    whole = rf"[+-]?[1-9]\d{{0,2}}(?P<mark>[{marks}])\d{{3}}(?:(?P=mark)\d{{3}})*"
    return re.compile(rf"{whole}({re.escape(decimal)}\d*)?")
