"""What the documents have a reader type is what the commands take; what they name is there."""

import ast
import importlib.util
import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.runs import files_in
from tests.test_secrets import PLANTED, SECRETS
from tests.typed import outcomes
from trainer import data
from trainer.config import make_data

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUICK = "--config.execution=graph --config.figures=false"  # in a training; an evaluation draws
TINY = {
    "configs/": f"{ROOT}/configs/",
    "num_epochs=300": "num_epochs=1",
    "nll_samples=500": "nll_samples=2",
    "name=digits": f"name=digits --config.data.image_size=8 {QUICK}",
    "standardise=true": f"standardise=true {QUICK}",
    "28, 28": "8, 8",
    '"bce"}': '"bce", "execution": "graph"}',
}


def typed(block):
    """The words of each line of a block that is typed: `python` or `make`, and what follows."""
    for line in block.replace("\\\n", " ").splitlines():
        if re.match(r"python |make ", line):
            words = shlex.split(line, comments=True)
            yield words[: words.index(">")] if ">" in words else words


def all_typed(document):
    """All that a reader of the document could type, in a block or within a sentence."""
    text = document.read_text()
    spans = re.findall(r"`([^`]+)`", FENCED.sub("", text))
    blocks = [block for language, block in FENCED.findall(text) if not language]
    typable = [*blocks, *(" ".join(span.split()) for span in spans)]
    return sorted({tuple(words) for block in typable for words in typed(block)})


def to_parse(words):
    """What Python is to parse of a command: the launcher's part, the trainer's, with values."""
    filled = []
    for word in words[1:]:
        if word.endswith(("=...", "=…")):
            word = word.rstrip(".…") + ("configs/dense.py" if word[:9] == "--config=" else "x")
        if "…" not in word:
            filled.append(word)
    if "--" in filled:
        yield ["-m", "trainer", *filled[filled.index("--") + 1 :]]
    if len(filled) > 2:  # else a mention of the module
        yield filled


def test_the_commands_of_the_documents_are_taken_by_their_parsers():
    wrong = ["-m", "trainer.encode", "--workdir=w", "--input=test", "--output=c.npz", "--error"]
    commands = [wrong] + [
        command
        for document in DOCUMENTS
        for words in all_typed(document)
        if words[:2] == ("python", "-m") and words[2].startswith(("trainer", "launch"))
        for command in to_parse(words)
    ]
    assert len(commands) > 40
    (refused, message), *others = outcomes("parse", commands)
    assert refused == 2
    assert "error" in message
    for command, (status, output) in zip(commands[1:], others, strict=True):
        assert status == 0, f"{shlex.join(command)}\n{output}"


def test_what_a_document_names_or_links_to_is_there():
    for document in DOCUMENTS:
        assert_names_are_there(document)


def assert_names_are_there(document):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in all_typed(document):
        if words[0] == "make":
            assert words[1] in targets
        elif words[1] == "-m":
            assert importlib.util.find_spec(words[2]), words
    for address in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        path, _, heading = address.partition("#")
        target = document.parent / path if path else document
        if not address.startswith("https://"):
            assert target.exists(), address
            assert not heading or heading in anchors(target), address


def anchors(document):
    """GitHub's names for the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_the_map_of_rooms_says_what_their_docstrings_say():
    row = re.compile(r"^\| `([\w/]+)/` \| (.*) \|$", re.MULTILINE)
    told = dict(row.findall((ROOT / "README.md").read_text()))
    told.pop("docs")
    rooms = [ROOT / room for room in ("launch", "configs", "benchmarks")]
    rooms += [path.parent for path in (ROOT / "trainer").glob("*/__init__.py")]
    assert told == {
        str(room.relative_to(ROOT)): docstring(room / "__init__.py").splitlines()[0]
        for room in rooms
    }


def docstring(path):
    return ast.get_docstring(ast.parse(path.read_text()))


def test_every_config_has_a_command_in_the_description_of_the_kinds():
    kinds = (ROOT / "docs/kinds.md").read_text()
    for config in (ROOT / "configs").glob("[!_]*.py"):
        has_command = config.stem == "base" or f"configs/{config.name}" in kinds
        assert has_command, f"docs/kinds.md has no command with configs/{config.name}"


def test_the_examples_of_contributing_work(tmp_path):
    images = np.ones((2, 4, 4, 1), np.float32)
    np.savez(tmp_path / "a.npz", images=images, labels=[0, 1])
    examples = []
    for language, text in FENCED.findall((ROOT / "CONTRIBUTING.md").read_text()):
        if language == "python":
            (tmp_path / "example.py").write_text(text)
            examples.append(SimpleNamespace(**runpy.run_path(str(tmp_path / "example.py"))))
            lint = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml")]
            subprocess.run([*lint, str(tmp_path / "example.py")], check=True)
    kind, network, source, metric = examples
    model = network.Model(images.shape[1:], kind.Settings(**kind.TINY))
    assert model.loss_terms(images, None)["penalty"].shape == (2,)
    request = SimpleNamespace(argument=tmp_path / "a.npz")
    assert source.read(request).train.images.shape == images.shape
    evaluated = SimpleNamespace(codes=np.array([[3.0, 4.0]]))
    assert metric.measure(evaluated).metrics == {"code_norm": 5}


@pytest.mark.slow
def test_the_tutorial_can_be_typed_and_writes_and_says_no_secret_and_no_home(tmp_path):
    folder = tmp_path / "home-of-somebody" / "work"
    folder.mkdir(parents=True)
    commands: list[list[str]] = []
    for language, text in FENCED.findall((ROOT / "docs/tutorial.md").read_text()):
        for long, short in TINY.items():
            text = text.replace(long, short)
        if language == "python":
            file = tmp_path / f"{len(commands)}.py"
            file.write_text(text)
            commands.append([str(file)])
        else:  # tests/launch starts sweeps
            commands += [words[1:] for words in typed(text) if words[2] != "launch.sweep"]
    done = outcomes("run", commands, folder, **SECRETS, HOME=str(folder.parent))
    assert done[-1][0] == 0, f"{shlex.join(commands[len(done) - 1])}\n{done[-1][1]}"
    assert len(done) == len(commands) > 18
    for made in ("runs/vae/manifold.png", "own-codes.tsv"):
        assert (folder / made).exists(), made
    for command, (_, output) in zip(commands, done, strict=True):
        assert PLANTED not in output and folder.parent.name not in output, command
    found = files_in(folder.parent)
    assert len(found) > 60
    for path, content in found.items():
        for secret in (PLANTED, folder.parent.name, str(ROOT)):
            assert secret.encode() not in content, path


def test_the_mixed_photographs_of_the_description_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (script,) = (
        text for language, text in FENCED.findall((ROOT / "docs/data.md").read_text()) if language
    )
    (tmp_path / "make_photos.py").write_text(script.replace("range(400)", "range(32)"))
    runpy.run_path("make_photos.py")
    read = data.load(make_data("images:photos", image_size=16, channels=3, fit="crop"))
    assert read.image_shape == (16, 16, 3) and not read.notes
    assert sum(map(len, (read.train, read.validation, read.test))) == 32


@pytest.mark.slow
def test_the_cells_of_the_notebook_run_and_it_keeps_no_output(tmp_path):
    notebook = json.loads((ROOT / "docs/python.ipynb").read_text())
    assert notebook["nbformat"] == 4
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    # Without Jupyter: its kernel would add 24 packages to the tests.
    script = "\n".join("".join(cell["source"]) for cell in cells)
    show = "assert metrics['mse'] < metrics['pca_mse'] and plt.get_fignums()"
    (tmp_path / "cells.py").write_text(f"{script}\n{show}\n")
    ((status, output),) = outcomes("run", [["cells.py"]], tmp_path, MPLBACKEND="agg")
    assert status == 0, output


@pytest.mark.slow
def test_the_pages_of_the_api_are_made_of_all_but_the_commands(tmp_path):
    ((status, output),) = outcomes("run", [["-m", "docs.api", str(tmp_path)]])
    assert status == 0, output
    pages = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.html")}
    assert {"index.html", "trainer/positions.html", "configs/base.html"} <= pages
    assert "trainer/evaluate.html" not in pages
    assert "n_features_in_" in (tmp_path / "trainer.html").read_text()
