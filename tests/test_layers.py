"""Data flows one way: which room may import which, read from the files themselves."""

import ast
import re
from itertools import chain
from pathlib import Path

import pytest

TRAINER = Path(__file__).parent.parent / "trainer"
LAUNCHERS = sorted((TRAINER.parent / "launch").glob("*.py"))
FILES = sorted(TRAINER.rglob("*.py"))

# A room imports from its own layer or from a lower one; rooms of one layer don't import each other.
LAYERS = (
    ("errors", "positions", "tensorflow_import"),
    ("config",),
    ("storage",),
    ("monitoring",),
    ("data", "models"),
    ("distribution",),
    ("run",),
    ("training", "evaluation", "serving"),
    ("train",),
    ("sklearn",),
    ("cli",),
    ("verbs",),
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def imports(path):
    """The modules that a file imports, dotted, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(name):
    """The room of a module, by its dotted name below the package; every command is a verb."""
    first = name.split(".")[0]
    return first if first in LEVEL else "verbs"


def rooms_imported_by(path):
    return {room(name.removeprefix("trainer.")) for name in imports(path) if name[:8] == "trainer."}


@pytest.mark.parametrize("path", FILES[1:], ids=lambda path: str(path.relative_to(TRAINER)))
def test_imports_go_to_the_same_room_or_to_a_lower_layer(path):
    own = room(".".join(path.relative_to(TRAINER).with_suffix("").parts))
    allowed = {own, *chain(*LAYERS[: LEVEL[own]])} - {"verbs"}
    assert rooms_imported_by(path) <= allowed


def test_only_distribution_knows_devices_and_what_is_compiled():
    for path in FILES:
        if "distribution" not in path.parts:
            text = path.read_text()
            for name in ("tf.distribute", "tf.function", "tf.config", "jit_compile"):
                assert name not in text, f"{path} knows {name}"


def private_names(path):
    """Names that a file takes from inside a package: `a._b`, but for `self._b`, and `keras.src`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr[0] == "_" != node.attr[1]:
            owner = ast.unparse(node.value)
            if owner not in ("self", "cls", "super()", "os"):  # os._exit is documented
                yield f"{owner}.{node.attr}"
    yield from (name for name in imports(path) if re.match(r"keras\.src|tensorflow\.python", name))


def test_private_names_of_packages_are_in_one_file():
    found = {path: list(private_names(path)) for path in FILES + LAUNCHERS}
    assert [path.name for path, names in found.items() if names] == ["private_api.py"]


def test_the_trainer_does_not_import_the_configs():
    for path in FILES:
        assert not [name for name in imports(path) if name.split(".")[0] == "configs"]


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.name)
def test_launchers_need_no_tensorflow(path):
    assert not {"keras", "tensorflow"} & {name.split(".")[0] for name in imports(path)}


def test_models_draw_nothing_and_fit_nothing_of_scikit_learn():
    for path in (TRAINER / "models").rglob("*.py"):
        roots = {name.split(".")[0] for name in imports(path)}
        assert not {"sklearn", "matplotlib", "PIL"} & roots, path
        assert "monitoring" not in rooms_imported_by(path), path
