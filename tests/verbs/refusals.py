"""A refusal: one line, and nothing changed."""

import contextlib
import hashlib
from pathlib import Path

import pytest

from trainer.errors import UserError


@contextlib.contextmanager
def refused(message, *folders, kind=UserError):
    """Expects an error of one line that contains the message, and unchanged folders."""
    before = [contents(folder) for folder in folders]
    with pytest.raises(kind) as error:
        yield
    line = str(error.value)
    assert message in line
    assert len(line.splitlines()) == 1
    assert [contents(folder) for folder in folders] == before


def contents(folder):
    """Returns the digest of every file by its path, and every folder, but for locks and caches."""
    return {
        str(path.relative_to(folder)): path.is_file()
        and hashlib.sha256(path.read_bytes()).hexdigest()
        for path in Path(folder).rglob("*")
        if path.name != ".lock" and path.name != ".decoded"
    }
