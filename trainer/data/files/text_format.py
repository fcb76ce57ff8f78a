"""Recognises how a text file holds a table: encoding, separator, header, decimal mark."""

import codecs
import csv
import dataclasses
import gzip
import io
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from trainer.data.files.number_format import MISSING, NumberFormat
from trainer.errors import UserError, require

AUTO = "auto"
SEPARATORS = {"semicolon": ";", "tab": "\t", "bar": "|", "comma": ",", "space": " "}
COMMENT = "#"  # begins lines that are left out
_SAMPLE_CHARACTERS = 2**20
_MAX_CELL_CHARACTERS = 2**31 - 1
_SAMPLE_LINES = 3  # at least, however long
_BOMS = {  # the longest first: UTF-16's begins UTF-32's
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
_POINT = NumberFormat(".", has_thousands=True)
_COMMA = NumberFormat(",", has_thousands=True)


@dataclasses.dataclass(frozen=True)
class TextFormat:
    """Says how text files hold tables; "auto" is recognised from each file's first rows."""

    separator: str = AUTO  # or a name of SEPARATORS
    decimal: str = AUTO  # "." or ","
    header: str = AUTO  # "first_row" or "none"
    encoding: str = AUTO  # of Python's codecs; UTF-8 without a byte order mark
    missing: tuple[str, ...] = MISSING


@dataclasses.dataclass(frozen=True)
class Recognised:
    """Describes one text file."""

    encoding: str
    separator: str
    has_header: bool
    skipped_lines: int  # above the header or the first row
    cells: tuple[str, ...]  # of the header; of the first row if there is no header
    first_rows: tuple[tuple[str, ...], ...]  # below the header
    numbers: NumberFormat
    longest_row_bytes: int  # of the first rows

    def notes(self) -> list[str]:
        """Describes what a reader of the file might take differently."""
        names = {mark: name for name, mark in SEPARATORS.items()}
        notes = [] if self.separator == "," else [f"separated by {names[self.separator]}s"]
        notes += [] if self.numbers.decimal == "." else ["with decimal commas"]
        notes += [] if self.encoding == "utf-8" else [f"in {self.encoding}"]
        notes += [] if self.has_header else ["without a header: columns column_1 and so on"]
        skipped = self.skipped_lines
        notes += [f"comments or blank lines left out above the rows: {skipped}"] if skipped else []
        return notes


def recognise(path: Path, given: TextFormat) -> Recognised:
    """Recognises the format of a text file from about its first million characters.

    Raises:
      UserError: the file is empty or not in the encoding, or more than one reading is possible.
      OSError: the file cannot be read.
    """
    encoding = _encoding(path, given.encoding)
    lines, longest, is_whole = _first_lines(path, encoding)
    first = next((i for i, line in enumerate(lines) if not _is_left_out(line)), 0)
    below = [line for line in lines[first:] if not line.startswith(COMMENT)] or lines
    require(any(line.strip() for line in below), f"{path} has no row")
    below = below if is_whole or len(below) == 1 else below[:-1]  # a quoted cell may go on
    separator = _separator(path, below, given.separator)
    rows = _split(below, separator)
    rows = [row for row in rows if row not in ([], [""])]
    comments = [i for i, line in enumerate(lines[:first]) if line.startswith(COMMENT)]
    if comments and given.header != "none":  # as in "#name<TAB>score"
        (above,) = _split([lines[comments[-1]]], separator)
        if len(above) == len(rows[0]) > 1:
            rows, first = [above, *rows], comments[-1]
    numbers = _numbers(path, rows, given)
    has_header = _has_header(path, rows, numbers, given.header)
    return Recognised(
        encoding,
        separator,
        has_header,
        first,
        tuple(rows[0]),
        tuple(map(tuple, rows[has_header:])),
        numbers,
        longest,
    )


def _is_left_out(line: str) -> bool:
    """Returns whether a line above the rows is a comment or blank."""
    return line.startswith(COMMENT) or not line.strip(" \r\n")


def open_bytes(path: Path) -> BinaryIO:
    """Opens a file, unpacked if its name ends in .gz."""
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return path.open("rb")


def _encoding(path: Path, given: str) -> str:
    if given != AUTO:
        try:
            return codecs.lookup(given).name
        except LookupError as error:
            raise UserError(
                f"data.encoding={given!r} is not known; utf-8, latin-1 or cp1252 are usual"
            ) from error
    with open_bytes(path) as file:
        start = file.read(4)
    return next((name for bom, name in _BOMS.items() if start.startswith(bom)), "utf-8")


def _first_lines(path: Path, encoding: str) -> tuple[list[str], int, bool]:
    """Returns the first lines, the bytes of the longest, and whether they are the whole file."""
    lines, size, longest = [], 0, 0
    with open_bytes(path) as raw, io.TextIOWrapper(raw, encoding, newline="") as file:
        try:
            for line in _lines(file):
                require(
                    "\0" not in line,
                    f"{path} holds null characters and is not text in {encoding}; "
                    "data.encoding may be utf-16-le",
                )
                lines.append(line)
                size += len(line)
                longest = max(longest, len(line.encode(errors="replace")))
                if size > _SAMPLE_CHARACTERS and len(lines) >= _SAMPLE_LINES:
                    return lines, longest, False
        except UnicodeError as error:
            raise UserError(
                f"{path} is not text in {encoding}; data.encoding=cp1252, latin-1 or another "
                "names its encoding"
            ) from error
    return lines, longest, True


def _lines(file: io.TextIOWrapper):
    """Yields lines that end in any line break, without it."""
    for line in file:
        yield from line.rstrip("\r\n").split("\r")


def _separator(path: Path, lines: Sequence[str], given: str) -> str:
    """Returns the separator that splits all lines into equally many cells."""
    if given != AUTO:
        return SEPARATORS[given]
    suffix = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    default = "\t" if suffix == "tsv" else ","
    for separator in dict.fromkeys([*(["\t"] if suffix == "tsv" else []), *SEPARATORS.values()]):
        rows = [row for row in _split(lines, separator) if row]
        widths = {len(row) for row in rows}
        if len(widths) != 1 or widths == {1}:
            continue
        if separator != " ":
            return separator
        if _are_numbers(rows[1:]):
            require(
                not any("" in row for row in rows),
                f"the columns of {path} are aligned by several spaces; one comma, tab or "
                "semicolon must separate them",
            )
            return separator
    # One column, whose numbers may have decimal commas.
    is_one_column = not any(mark in lines[0] for mark in ";\t|,") and _are_numbers(
        [[line.strip()] for line in lines[1:] if line.strip()]
    )
    return SEPARATORS["semicolon"] if is_one_column else default


def _are_numbers(rows: Sequence[Sequence[str]]) -> bool:
    """Returns whether there are rows, and all of their cells are numbers or missing ones."""
    cells = list(itertools.chain.from_iterable(rows))
    return bool(cells) and all(
        cell in MISSING or _POINT.accepts(cell) or _COMMA.accepts(cell) for cell in cells
    )


def _split(lines: Sequence[str], separator: str) -> list[list[str]]:
    """Splits lines into cells of any length."""
    limit = csv.field_size_limit(_MAX_CELL_CHARACTERS)
    try:
        return list(csv.reader((line + "\n" for line in lines), delimiter=separator))
    finally:
        csv.field_size_limit(limit)


def _numbers(path: Path, rows: Sequence[Sequence[str]], given: TextFormat) -> NumberFormat:
    """Returns the format in which all numbers with a comma or point can be read."""
    if given.decimal != AUTO:
        return NumberFormat(given.decimal, has_thousands=True, missing=given.missing)
    cells = (cell.strip() for cell in itertools.chain.from_iterable(rows[1:]))
    marked = [cell for cell in cells if re.search(r"[.,]", cell) and re.search(r"\d", cell)]
    as_point = {cell for cell in marked if _POINT.accepts(cell)}
    as_comma = {cell for cell in marked if _COMMA.accepts(cell)}
    only_point, only_comma, either = as_point - as_comma, as_comma - as_point, as_point & as_comma
    with_comma = {cell for cell in either if "," in cell}
    example = next(iter(sorted(with_comma or only_comma)), "")
    require(
        not (only_point and only_comma) and not (with_comma and not only_point and not only_comma),
        f"{path} holds {example!r}, whose comma may mark decimals or thousands"
        + (f", and {min(only_point)!r}" if only_point else "")
        + "; data.decimal=',' or data.decimal='.' says which",
    )
    decimal = "," if only_comma else "."
    return NumberFormat(decimal, bool(only_point or only_comma), given.missing)


def _has_header(
    path: Path, rows: Sequence[Sequence[str]], numbers: NumberFormat, given: str
) -> bool:
    """Returns whether the first row names the columns, by what stands below it."""
    if given != AUTO:
        return given == "first_row"
    first = [cell.strip() for cell in rows[0]]

    def is_value(cell: str) -> bool:
        return cell.strip() in numbers.missing or numbers.accepts(cell)

    numeric = [numbers.accepts(cell) for cell in first]
    if first == [str(place) for place in range(len(first))] or not any(numeric):
        return True  # pandas numbers columns without names
    names_numbers = any(
        not is_number
        and name not in numbers.missing
        and len(rows) > 1
        and all(is_value(row[place]) for row in rows[1:] if place < len(row))
        for place, (name, is_number) in enumerate(zip(first, numeric, strict=True))
    )
    if names_numbers or len(set(first)) < len(first):
        return names_numbers
    values = [
        numbers.parse(cell) for cell, is_number in zip(first, numeric, strict=True) if is_number
    ]
    rises = len(values) > 1 and all(a < b for a, b in itertools.pairwise(values))
    require(
        not (all(numeric) and rises),
        f"the first row of {path} is {', '.join(first[:3])}: names or numbers? "
        "data.header=first_row or data.header=none says which",
    )
    return False
