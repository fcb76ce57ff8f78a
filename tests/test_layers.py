"""Data flows one way: which room may import which, read from the files themselves."""

import ast
import re
from itertools import chain
from pathlib import Path

TRAINER = Path(__file__).parent.parent / "trainer"
LAUNCHERS = sorted((TRAINER.parent / "launch").glob("*.py"))
FILES = sorted(TRAINER.rglob("*.py"))

# A room imports from its own layer or from a lower one; rooms of one layer don't import each other.
LAYERS = (
    ("errors", "limits", "positions"),
    ("config", "tensorflow_import"),
    ("storage",),
    ("monitoring",),
    ("data", "models"),
    ("distribution",),
    ("run",),
    ("training", "evaluation", "serving"),
    ("sklearn", "api"),
    ("detector",),
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


def private_names(path):
    """Names that a file takes from inside a package: `a._b`, but for `self._b`, and `keras.src`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr[0] == "_" != node.attr[1]:
            owner = ast.unparse(node.value)
            if owner not in ("self", "cls", "super()", "os"):  # os._exit is documented
                yield f"{owner}.{node.attr}"
    yield from (name for name in imports(path) if re.match(r"keras\.src|tensorflow\.python", name))


def test_imports_go_to_the_same_room_or_to_a_lower_layer():
    for path in FILES[1:]:
        own = room(".".join(path.relative_to(TRAINER).with_suffix("").parts))
        allowed = {own, *chain(*LAYERS[: LEVEL[own]])} - {"verbs"}
        of_trainer = [name for name in imports(path) if name.startswith("trainer.")]
        wrong = [name for name in of_trainer if room(name.removeprefix("trainer.")) not in allowed]
        assert not wrong, path


def test_only_distribution_knows_devices_and_what_is_compiled():
    for path in FILES:
        if "distribution" not in path.parts:
            names = r"tf\.distribute|@tf\.function|tf\.function\(|tf\.config|jit_compile"
            assert not re.findall(names, path.read_text()), path


def test_private_names_of_packages_are_in_one_file():
    found = {path: list(private_names(path)) for path in FILES + LAUNCHERS}
    assert [path.name for path, names in found.items() if names] == ["private_api.py"]


def test_neither_the_trainer_imports_configs_nor_launchers_tensorflow():
    for path, packages in [(p, {"configs"}) for p in FILES] + [
        (p, {"keras", "tensorflow"}) for p in LAUNCHERS
    ]:
        assert not packages & {name.split(".")[0] for name in imports(path)}, path
