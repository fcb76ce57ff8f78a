import ast
from pathlib import Path

from tests.mutation.__main__ import Tree, faults_of, report
from tests.mutation.faults import choose, derive
from tests.mutation.targets import TARGETS

ROOT = Path(__file__).parents[2]
TEXT = '''"""A file."""
import math

def mean(values, axis=0):
    total = 0
    for value in values:
        if value is not None and not math.isnan(value):
            total += value  # é
    return total / max(len(values), 1)

def other(x: float) -> bool:
    return x < 3
'''


def changed_lines(fault):
    pairs = zip(TEXT.splitlines(), fault.text.splitlines(), strict=True)
    return [(old.strip(), new.strip()) for old, new in pairs if old != new]


def test_each_operator_changes_one_line_of_its_own():
    changes = {
        (fault.operator, *line)
        for fault in derive("t", "t.py", TEXT)
        for line in changed_lines(fault)
    }
    mean = "return total / max(len(values), 1)"
    assert {
        ("comparison flipped", "return x < 3", "return (x <= 3)"),
        ("constant changed", "return x < 3", "return x < 4"),
        ("constant returned", "return x < 3", "return True"),
        ("update dropped", "total += value  # é", "pass  # é"),
        ("function swapped", mean, "return total / min(len(values), 1)"),
        ("arithmetic swapped", mean, "return (total * max(len(values), 1))"),
    } <= changes


def test_the_same_faults_are_chosen_where_other_lines_have_moved():
    moved = TEXT.replace("def other", "def new():\n    return ''\n\n\ndef other")
    chosen = [{f.key for f in choose("t", "t.py", text, 99)} for text in (TEXT, moved)]
    assert chosen[0] == chosen[1]


def test_only_the_functions_named_and_those_they_use_get_faults():
    assert {f.statement for f in choose("t", "t.py", TEXT, 99, ("other",))} == {"return x < 3"}


def test_every_target_has_its_faults_which_all_parse_and_its_tests():
    for name, target in TARGETS.items():
        faults = faults_of(Tree(ROOT, ROOT), name, target)
        assert len(faults) == len({fault.key for fault in faults}) == target.faults
        for fault in faults:
            ast.parse(fault.text)
        for pattern in (*target.files, *target.tests):
            assert target.paths(ROOT, (pattern,)), pattern


def test_a_report_counts_by_target_and_shows_what_was_missed():
    row = {"key": "1 2", "target": "positions", "operator": "o", "diff": "-a\n+b\n"}
    text = report([row | {"found_by": "t"}, row | {"found_by": ""}])
    assert "| positions | 2 | 1 | 1 |" in text
    assert "| all | 2 | 1 (50%) | 1 |" in text
    assert text.count("```diff") == 1
