"""What the documents have a reader type is what the commands take; what they name is there."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TINY = {
    "num_epochs=300": "num_epochs=1",
    "nll_samples=500": "nll_samples=2",
    "code_size=2,4,8,16,32": "code_size=2",
}
TRAIN = ("trainer", "launch.sweep")


def blocks(document):
    """The fenced blocks of a document, as pairs of a language, perhaps "", and a text."""
    return FENCED.findall(document.read_text())


def typed(block):
    """The words of each line of a block that is typed: `python` or `make`, and what follows."""
    for line in block.replace("\\\n", " ").splitlines():
        if re.match(r"python |make ", line):
            words = shlex.split(line, comments=True)
            yield words[: words.index(">")] if ">" in words else words


def mentioned(document):
    """The same of what a document says on the way, as `make train` is here."""
    for span in re.findall(r"`([^`]+)`", FENCED.sub("", document.read_text())):
        yield from typed(" ".join(span.split()))


def all_typed(document):
    """All that a reader of the document could type, once each."""
    found = [words for language, text in blocks(document) if not language for words in typed(text)]
    return sorted({tuple(words) for words in [*found, *mentioned(document)]})


def filled_in(words):
    """The words with something possible where a document leaves a value out."""
    for word in words:
        name, has_value, value = word.partition("=")
        if has_value and value in ("...", "…"):
            yield f"{name}=configs/dense.py" if name == "--config" else f"{name}=x"
        elif "…" not in word:
            yield word


def to_parse(words):
    """What Python is to parse of a command of this project: the launcher's part, the trainer's."""
    words = list(filled_in(words[1:]))
    if "--" in words:
        yield ["-m", "trainer", *words[words.index("--") + 1 :]]
    if len(words) > 2:  # else a mention of the module
        yield words


def outcomes(mode, commands, cwd=ROOT):
    """The exit status and the output of each command, done by `tests.typed`."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.typed", mode],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        input=json.dumps(commands),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def by_name(document):
    return str(document.relative_to(ROOT))


def test_the_commands_of_the_documents_are_taken_by_their_parsers():
    commands = [
        command
        for document in DOCUMENTS
        for words in all_typed(document)
        if words[0] == "python" and words[2].startswith(("trainer", "launch"))
        for command in to_parse(words)
    ]
    assert len(commands) > 50
    for command, (status, output) in zip(commands, outcomes("parse", commands), strict=True):
        assert status == 0, f"{shlex.join(command)}\n{output}"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("-m trainer --config=configs/conv.py --workdir=w --config.model.depth=3", "'depth'"),
        ("-m trainer.encode --workdir=w --input=test --output=c.npz --error", "'error'"),
        ("-m launch.local --worker=2 -- --config=configs/conv.py --workdir=w", "'worker'"),
    ],
)
def test_a_command_that_its_parser_refuses_is_seen(command, message):
    ((status, output),) = outcomes("parse", [command.split()])
    assert status == 2
    assert message in output


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_the_modules_and_targets_that_a_document_names_are_there(document):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in all_typed(document):
        if words[0] == "make":
            assert words[1] in targets
        elif words[1] == "-m":
            assert importlib.util.find_spec(words[2]), words


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_what_a_document_links_to_is_there(document):
    for address in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if address.startswith("https://"):
            continue
        path, _, heading = address.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), address
        assert not heading or heading in anchors(target), address


def anchors(document):
    """GitHub's names for the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.mark.parametrize(
    "config", sorted((ROOT / "configs").glob("*.py")), ids=lambda path: path.stem
)
def test_every_config_is_told_of(config):
    if config.stem not in ("__init__", "base"):
        assert f"configs/{config.name}" in (ROOT / "docs/kinds.md").read_text()


@pytest.mark.slow
def test_the_tutorial_can_be_typed_from_top_to_bottom(tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    commands: list[list[str]] = []
    for language, text in blocks(ROOT / "docs/tutorial.md"):
        for long, short in TINY.items():
            text = text.replace(long, short)
        if language == "python":
            file = tmp_path / f"{len(commands)}.py"
            file.write_text(text)
            commands.append([str(file)])
        else:
            for words in typed(text):
                uncompiled = ["--config.execution=graph"] if words[2] in TRAIN else []
                commands.append([*words[1:], *uncompiled])
    done = outcomes("run", commands, tmp_path)
    assert done[-1][0] == 0, f"{shlex.join(commands[len(done) - 1])}\n{done[-1][1]}"
    assert len(done) == len(commands) > 20
    for made in (
        *("runs/sweep/compare.md", "runs/vae/manifold.png", "own-codes.tsv"),
        *("clean/00000000.png", "digits-export/encoder.keras"),
    ):
        assert (tmp_path / made).exists(), made


@pytest.mark.slow
def test_the_pages_of_the_api_are_made_of_all_but_the_commands(tmp_path):
    ((status, output),) = outcomes("run", [["-m", "docs.api", str(tmp_path)]])
    assert status == 0, output
    pages = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.html")}
    assert {"index.html", "trainer/models/vae.html", "configs/base.html"} <= pages
    assert "trainer/evaluate.html" not in pages
    assert "n_features_in_" in (tmp_path / "trainer.html").read_text()
