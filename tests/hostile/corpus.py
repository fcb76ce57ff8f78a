"""What a disk, a network or an enemy may hand over, by the thousand, and what is to come of it."""

import contextlib
import importlib
import io
import struct

import pytest
from absl import flags
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

from tests.faults.conftest import SEED
from trainer.errors import UserError

DEADLINE_SECONDS = 5  # for one value; it is read in milliseconds
FEW = 25

TEXTS = st.text(max_size=12) | st.sampled_from(
    [
        *("", "None", "nan", "inf", "-1", "0", "1e999", "9" * 400, "0x", "true", "(1,", "[]", "{}"),
        *("(((((" * 200, "'", "\0", "\n", "\udcff", "__import__('os').abort()", "../..", "%s{0}"),
        *("~nobody", "\x1b[2J", "/dev/null", "x" * 300),
    ]
)


def few_or_many(many):
    """Has a test meet `examples` values: few, the same each time, or, as one of faults, many."""
    counts = [FEW, pytest.param(many, marks=pytest.mark.faults)]
    return pytest.mark.parametrize("examples", counts)


def try_many(examples, strategy, test, deadline_seconds=DEADLINE_SECONDS):
    """Has a function meet so many values; the many are drawn by FAULTS_SEED."""
    few = examples == FEW
    bounds = settings(
        max_examples=examples,
        deadline=deadline_seconds * 1000,
        derandomize=few,
        database=None,
        print_blob=False,
        phases=[Phase.generate],  # to make a slow failure smaller takes five minutes
    )
    print(f"FAULTS_SEED={SEED}")
    tried = bounds(given(strategy)(lambda value: test(value)))
    (tried if few else seed(SEED)(tried))()


def damages(content):
    """A file after a few changes, anywhere in it."""
    place = st.integers(0, len(content))
    some = st.binary(max_size=16) | st.sampled_from(
        [b"\xff" * 8, b"\0" * 8, b"9" * 18, b"-1", b"\n", b'"', b"nan", struct.pack("<q", 2**62)]
    )
    change = st.tuples(place, st.integers(0, 16) | place, some)

    def changed(changes):
        damaged = content
        for start, length, put in changes:
            damaged = damaged[:start] + put + damaged[start + length :]
        return damaged

    return st.lists(change, min_size=1, max_size=3).map(changed)


@contextlib.contextmanager
def refused_in_one_line():
    """Lets a UserError pass, if it is one line."""
    try:
        yield
    except UserError as error:
        assert_one_line(str(error))


def assert_one_line(told):
    """Nothing that breaks a line, moves a cursor or is a traceback."""
    assert told.isprintable(), told
    assert "Traceback" not in told, told


def parse(module, argv):
    """What a command says to flags, and the status it would end with; 0: it would go on.

    For a process of its own: no other can have the flags of two commands. None of argv: its flags.
    """
    command = importlib.import_module(module)
    if argv is None:
        return sorted(name for name in flags.FLAGS if name not in ("help", "helpfull", "helpshort"))
    own = importlib.import_module(
        "launch.arguments" if module.startswith("launch.") else "trainer.cli"
    )
    flags.FLAGS.unparse_flags()
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            rest = own._parse([module, *argv])
            if module == "launch.slurm":
                command.script(rest)
            elif module == "launch.kubernetes":
                command.render(rest)
    except UserError as error:
        return str(error), error.exit_status
    except SystemExit as end:
        return told.getvalue().removeprefix("error: ").removesuffix("\n"), end.code
    return told.getvalue(), 0
