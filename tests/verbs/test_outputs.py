"""One rule for all paths: `~` is the home folder, and an output is replaced only on request."""

import resource
import shutil

import numpy as np
import pytest

from tests.verbs.refusals import contents, refused
from tests.verbs.sources import vectors
from tests.verbs.verbs import VERBS
from trainer import AutoencoderTransformer
from trainer.errors import StorageError
from trainer.evaluation import compare
from trainer.run import workdir

_SEMAPHORE_BYTES = 64  # at most, which other packages make in memory


@pytest.fixture(autouse=True)
def elsewhere(home, tmp_path, monkeypatch):
    """A working directory that must stay empty, with the home folder somewhere else."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(folder)
    yield
    assert list(folder.iterdir()) == []


@pytest.mark.usefixtures("uncompared")
@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_a_verb_finds_a_run_at_home_and_replaces_an_output_only_on_request(verb, inputs, tmp_path):
    out = tmp_path / "out"
    for output in verb.outputs:
        existing = out / output
        existing.parent.mkdir(parents=True, exist_ok=True)
        for make in (lambda at: at.symlink_to(at.with_name("gone")), lambda at: at.touch()):
            make(existing)
            with refused("exists; --overwrite replaces it", tmp_path):
                verb.call("~/run", inputs, out)
            existing.unlink()
    for output in verb.outputs:
        (out / output).touch()
    verb.call("~/run", inputs, out, **{"overwrite": True} if verb.outputs else {})
    assert all((out / output).stat().st_size for output in verb.outputs)
    made = {name for name, digest in contents(tmp_path).items() if digest}
    of_export = {f"out/export/{name}" for name in ("README.md", "encoder.keras", "decoder.keras")}
    inputs = {"inputs/rows.npy", "inputs/codes.npy"}
    assert made - inputs - of_export == {f"out/{output}" for output in verb.outputs}


@pytest.mark.parametrize("out", ["~nobody-of-this-name", "x" * 300])
def test_a_path_that_cannot_be_gets_one_line_from_every_verb(out, home, inputs, tmp_path):
    for verb in VERBS.values():
        if verb.outputs:
            line = "nobody" if "~" in out else "cannot be looked for: File name too long"
            with refused(line, tmp_path):
                verb.call(home / "run", inputs, out)


@pytest.mark.usefixtures("uncompared")
def test_a_full_disk_ends_every_verb_in_one_line_and_changes_nothing(
    home, inputs, tmp_path, capsys
):
    del capsys  # holds what is printed in memory
    out = tmp_path / "out"
    out.mkdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for name, verb in VERBS.items():
        folders = () if name == "compare" else (tmp_path,)  # it has made the empty folder
        if name != "verify":
            with refused("File too large", home, *folders, kind=StorageError):
                resource.setrlimit(resource.RLIMIT_FSIZE, (_SEMAPHORE_BYTES, limits[1]))
                try:
                    verb.call(home / "run", inputs, out)
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_runs_are_compared_in_the_folder_that_holds_them(home, tmp_path, monkeypatch):
    for name in ("a", "deep/b"):
        shutil.copytree(home / "run", tmp_path / name)
    monkeypatch.setenv("HOME", str(tmp_path))
    runs, _ = compare.find(["~/a", "~/deep"])
    assert f"table      {tmp_path / 'compare.md'}" in compare.compare(runs)
    assert (tmp_path / compare.FIGURE).exists()


def test_the_scikit_learn_transformer_keeps_its_run_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    transformer = AutoencoderTransformer(
        "linear", code_size=2, num_epochs=1e-6, batch_size=8, workdir="~/run"
    )
    assert np.isfinite(transformer.fit_transform(vectors())).all()
    assert (tmp_path / "run" / workdir.CONFIG).exists()
