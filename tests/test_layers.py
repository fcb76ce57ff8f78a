"""Data flows one way: who may import whom, read from the files themselves."""

import ast
from pathlib import Path

import pytest

TRAINER = Path(__file__).parent.parent / "trainer"

# Each module of the trainer and what it may import of it; `trainer.` is left out.
MAY_IMPORT = {
    "__init__": {"quiet", "sklearn"},
    "__main__": {"cli", "train"},
    "cli": {"config_names", "errors", "places", "quiet", "workdir"},
    "errors": set(),
    "config_names": {"errors"},
    "places": {"errors"},
    "positions": set(),
    "quiet": set(),
    "progress": set(),
    "pictures": set(),
    "profiling": {"errors"},
    "stopping": set(),
    "pace": set(),
    "projector": {"pictures"},
    "summaries": {"errors"},
    "checkpoints": {"errors", "files"},
    "checkpoints.__main__": {"checkpoints", "cli", "errors", "places", "workdir"},
    "workdir": {"errors", "files", "locks"},
    "goodput": {"files"},
    "optimizers": {"errors"},
    "arrays": {"errors"},
    "idx": {"errors"},
    "image_folders": {"errors", "locks", "places"},
    "locks": {"errors"},
    "tables": {"errors"},
    "tfds_sets": {"errors", "locks"},
    "examples": set(),
    "tfds_records": {"errors", "examples", "tfds_sets"},
    "sources": {
        *("arrays", "errors", "examples", "image_folders", "places", "tables", "tfds_records"),
    },
    "data": {"errors", "examples", "positions", "sources"},
    "models": {"errors", "models", "pictures", "positions"},
    "distribution": {"cluster", "distribution", "errors", "examples", "models", "positions"},
    "cluster": {"errors"},
    "workers": {"cluster", "errors", "distribution"},
    "spikes": {"checkpoints", "errors", "files", "workdir", "workers"},
    "record": {
        *("checkpoints", "data", "errors", "examples", "goodput", "models", "pictures"),
        *("pace", "positions", "progress", "distribution", "spikes", "summaries", "workdir"),
    },
    "train": {
        *("checkpoints", "cluster", "data", "errors", "examples", "goodput", "models"),
        *(
            "optimizers",
            "pace",
            "places",
            "profiling",
            "record",
            "distribution",
            "settings",
            "spikes",
        ),
        *("stopping", "summaries", "workdir", "workers"),
    },
    "compare": {"cli", "comparison", "workdir"},
    "comparison": {"errors", "files", "places", "workdir"},
    "stream_flags": {"cli", "places"},
    "inputs": {"arrays", "data", "errors", "examples", "image_folders", "places", "tables"},
    "outputs": {"errors", "files", "pictures", "places", "tables"},
    "encode": {"cli", "encoding", "stream_flags"},
    "decode": {"cli", "encoding", "stream_flags"},
    "denoise": {"cli", "encoding", "stream_flags"},
    "encoding": {
        *("arrays", "errors", "examples", "image_folders", "inputs", "models", "outputs", "places"),
        *("progress", "distribution", "sources", "tables", "trained"),
    },
    "evaluate": {"cli", "evaluation"},
    "evaluation": {
        *("examples", "files", "goodput", "models", "pictures", "places", "positions", "projector"),
        *("distribution", "summaries", "trained", "workdir"),
    },
    "export": {"cards", "cli", "exporting", "places"},
    "exporting": {
        *("cards", "data", "errors", "examples", "export_check", "files", "models", "places"),
        *("positions", "quiet", "distribution", "stock", "trained", "workdir"),
    },
    "export_check": set(),
    "stock": {"data", "models"},
    "cards": set(),
    "finetune": {"cli", "finetuning"},
    "finetuning": {
        *("checkpoints", "data", "errors", "evaluation", "examples", "files", "models"),
        *("optimizers", "places", "positions", "distribution", "trained", "workdir"),
    },
    "prepare": {"cli", "errors", "places", "preparation"},
    "preparation": {
        *("data", "errors", "examples", "idx", "outputs", "pictures", "places", "tfds_sets"),
    },
    "sample": {"cli", "places", "sampling", "workdir"},
    "sampling": {
        *("errors", "outputs", "pictures", "places", "positions", "progress", "distribution"),
        *("trained", "workdir"),
    },
    "sklearn": {
        *("checkpoints", "config_names", "data", "errors", "models", "places", "distribution"),
        *("sources", "train", "workdir"),
    },
    "settings": {"data", "errors"},
    "trained": {
        *(
            "checkpoints",
            "data",
            "errors",
            "models",
            "places",
            "distribution",
            "settings",
            "workdir",
        ),
    },
    "files": {"errors"},
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
    """The module of the trainer that a file is, or the package that it is in; a verb is its own."""
    parts = path.relative_to(TRAINER).with_suffix("").parts
    return ".".join(parts) if parts[-1] == "__main__" else parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TRAINER)))
def test_a_module_imports_only_what_is_upstream_of_it(path):
    own = {name.split(".")[1] for name in imports(path) if name.startswith("trainer.")}
    assert own <= MAY_IMPORT[room(path)]


def test_only_distribution_knows_strategies_and_tf_function():
    for path in FILES:
        if "distribution" not in path.parts:
            text = path.read_text()
            assert "tf.distribute" not in text, path
            assert "tf.function" not in text, path


def test_nothing_in_the_trainer_imports_the_configs():
    # `config_names` finds the one that it is told at run time.
    for path in FILES:
        assert not [name for name in imports(path) if name.split(".")[0] == "configs"]


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.name)
def test_a_launcher_imports_nothing_that_needs_tensorflow(path):
    names = [name.split(".") for name in imports(path)]
    assert not {"keras", "tensorflow"} & {name[0] for name in names}
    own = {name[1] for name in names if name[0] == "trainer"}
    assert own <= {"cluster", "comparison", "errors", "places", "workdir"}
