"""One rule for all outputs: an existing one is replaced only on request."""

import shutil

import pytest

from tests.verbs.refusals import contents, refused
from tests.verbs.verbs import VERBS
from trainer.config import make_data
from trainer.data import describe
from trainer.evaluation import compare
from trainer.evaluation.evaluate import evaluate
from trainer.serving.prior_samples import sample
from trainer.serving.stream import encode

pytestmark = pytest.mark.usefixtures("uncompared")
WITH_OUTPUT = [verb for verb in VERBS if VERBS[verb].output]


@pytest.fixture
def run(run_of):
    folder = run_of("vae", "npz_vectors")
    if not (folder / "metrics.json").exists():
        evaluate(str(folder))
    return folder


@pytest.mark.parametrize("verb", WITH_OUTPUT)
def test_an_output_is_replaced_only_on_request(verb, run, inputs, tmp_path):
    out = tmp_path / "out"
    existing = out / VERBS[verb].output
    existing.parent.mkdir(parents=True)
    existing.write_text("before")
    with refused("exists; --overwrite replaces it", tmp_path):
        VERBS[verb].call(run, inputs, out)
    VERBS[verb].call(run, inputs, out, overwrite=True)
    assert existing.read_bytes() != b"before"
    allowed = {
        *("samples.png", compare.FIGURE, "export/README.md"),
        *("export/encoder.keras", "export/decoder.keras"),
    }
    assert contents(out).keys() - {VERBS[verb].output, existing.parent.name} <= allowed


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("samples.png", lambda run, out: sample(str(run), 2, output=str(out))),
        (compare.FIGURE, lambda run, out: compare.compare([run], str(out))),
        (
            "sheet.png",
            lambda _, out: describe.prepare(make_data("digits"), contact_sheet=f"{out}/sheet.png"),
        ),
    ],
)
def test_a_figure_is_an_output_as_well(name, write, run, tmp_path):
    (tmp_path / name).write_text("before")
    with refused("exists; --overwrite replaces it", tmp_path):
        write(run, tmp_path)


def test_a_broken_link_at_the_output_exists(run, inputs):
    (inputs / "codes.npz").symlink_to(inputs / "gone")
    with refused("exists; --overwrite replaces it", inputs):
        encode(str(run), f"{inputs}/rows.npy", f"{inputs}/codes.npz")


def test_runs_are_compared_in_the_folder_that_holds_them(run, tmp_path):
    for name in ("a", "deep/b"):
        shutil.copytree(run, tmp_path / name)
    runs, _ = compare.find([str(tmp_path / "a"), str(tmp_path / "deep")])
    assert f"table      {tmp_path / 'compare.md'}" in compare.compare(runs)
    assert (tmp_path / compare.FIGURE).exists()


@pytest.mark.parametrize("verb", WITH_OUTPUT)
@pytest.mark.parametrize("out", ["~nobody-of-this-name", "x" * 300])
def test_a_path_that_cannot_be_gets_one_line(verb, out, run, inputs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with refused("nobody" if "~" in out else "cannot be looked for: File name too long", tmp_path):
        VERBS[verb].call(run, inputs, out)
