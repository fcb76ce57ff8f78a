"""Data flows one way: who may import whom, read from the files themselves."""

import ast
from pathlib import Path

import pytest

TRAINER = Path(__file__).parent.parent / "trainer"

# Each module of the trainer and what it may import of it; `trainer.` is left out.
MAY_IMPORT = {
    "__init__": set(),
    "__main__": {"cli", "train"},
    "cli": {"errors"},
    "errors": set(),
    "positions": set(),
    "progress": set(),
    "pictures": set(),
    "profiling": {"errors"},
    "projector": {"pictures"},
    "summaries": set(),
    "checkpoints": {"errors"},
    "workdir": {"errors"},
    "optimizers": {"errors"},
    "arrays": {"errors"},
    "idx": {"errors"},
    "tfds_sets": {"errors"},
    "data": {"arrays", "errors", "positions", "tfds_sets"},
    "models": {"errors", "models", "pictures", "positions"},
    "replicas": {"errors", "models", "positions"},
    "cluster": {"errors"},
    "workers": {"cluster", "errors", "replicas"},
    "record": {
        *("checkpoints", "data", "errors", "models", "pictures", "positions", "progress"),
        *("replicas", "summaries", "workdir"),
    },
    "train": {
        *("checkpoints", "cluster", "data", "errors", "models", "optimizers", "profiling"),
        *("record", "replicas", "summaries", "workdir", "workers"),
    },
    "evaluate": {"cli", "evaluation"},
    "evaluation": {
        *("data", "models", "pictures", "positions", "projector", "replicas", "summaries"),
        *("trained", "workdir"),
    },
    "finetune": {"cli", "finetuning"},
    "finetuning": {
        *("checkpoints", "data", "errors", "evaluation", "models", "optimizers", "positions"),
        *("replicas", "trained", "workdir"),
    },
    "prepare": {"cli", "preparation"},
    "preparation": {"data", "errors", "idx", "tfds_sets"},
    "sample": {"cli", "sampling"},
    "sampling": {"errors", "pictures", "positions", "replicas", "trained"},
    "trained": {"checkpoints", "data", "errors", "models", "replicas", "workdir"},
}
FILES = sorted(TRAINER.rglob("*.py"))
LAUNCHERS = sorted((TRAINER.parent / "launch").glob("*.py"))


def imports(path):
    """The modules that a file imports, dotted, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(path):
    """The module of the trainer that a file is, or the package that it is in."""
    return path.relative_to(TRAINER).with_suffix("").parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TRAINER)))
def test_a_module_imports_only_what_is_upstream_of_it(path):
    own = {name.split(".")[1] for name in imports(path) if name.startswith("trainer.")}
    assert own <= MAY_IMPORT[room(path)]


def test_only_replicas_knows_strategies_and_tf_function():
    for path in FILES:
        if path.stem != "replicas":
            text = path.read_text()
            assert "tf.distribute" not in text, path
            assert "tf.function" not in text, path


def test_nothing_in_the_trainer_imports_the_configs():
    for path in FILES:
        assert not [name for name in imports(path) if name.split(".")[0] == "configs"]


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.name)
def test_a_launcher_imports_nothing_that_needs_tensorflow(path):
    names = [name.split(".") for name in imports(path)]
    assert not {"keras", "tensorflow"} & {name[0] for name in names}
    assert {name[1] for name in names if name[0] == "trainer"} <= {"cluster", "errors"}
