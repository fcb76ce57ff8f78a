"""One rule for all outputs: what is there is replaced only where that is told."""

import shutil

import pytest

from tests.verbs.refusals import contents, refused
from trainer.config import make_data
from trainer.data import describe
from trainer.evaluation import compare
from trainer.evaluation.evaluate import evaluate
from trainer.run import workdir
from trainer.serving import export as exporting
from trainer.serving.export import export
from trainer.serving.prior_samples import sample
from trainer.serving.stream import decode, denoise, encode


def compared(run, output, overwrite):
    if workdir.read_metrics(run) is None:
        evaluate(str(run))
    return compare.compare([run], str(output), overwrite=overwrite)


OUTPUTS = {  # by the verb: the file that tells, and the call
    "encode": ("codes.tsv", lambda run, aside, **over: encode(
        str(run), f"{aside}/rows.npy", f"{aside}/codes.tsv", **over
    )),
    "decode": ("back.npz", lambda run, aside, **over: decode(
        str(run), f"{aside}/codes.npy", f"{aside}/back.npz", **over
    )),
    "denoise": ("clean.npy", lambda run, aside, **over: denoise(
        str(run), f"{aside}/rows.npy", f"{aside}/clean.npy", **over
    )),
    "sample": ("samples.npz", lambda run, aside, **over: sample(
        str(run), 2, output=str(aside), **over
    )),
    "sample's picture": ("samples.png", lambda run, aside, **over: sample(
        str(run), 2, output=str(aside), **over
    )),
    "compare": ("compare.md", lambda run, aside, **over: compared(run, aside, **over)),
    "compare's picture": ("compare.png", lambda run, aside, **over: compared(run, aside, **over)),
    "export": ("out/card.json", lambda run, aside, **over: export(
        str(run), f"{aside}/out", formats=["keras"], **over
    )),
    "prepare": ("sheet.png", lambda _, aside, **over: describe.prepare(
        make_data("digits"), contact_sheet=f"{aside}/sheet.png", **over
    )),
}  # fmt: skip


@pytest.mark.parametrize("verb", OUTPUTS)
def test_an_output_that_is_there_is_replaced_only_if_told(verb, run_of, aside, monkeypatch):
    monkeypatch.setattr(exporting, "_compare", lambda *_: {"keras": {"encode": 0.0}})
    name, write = OUTPUTS[verb]
    run = run_of("vae", "npz_vectors")
    (aside / name).parent.mkdir(exist_ok=True)
    (aside / name).write_text("before")
    before = set(contents(aside))
    with refused("is there; --overwrite replaces it", aside):
        write(run, aside, overwrite=False)
    write(run, aside, overwrite=True)
    assert (aside / name).read_bytes() != b"before"
    others = {
        *("samples.npz", "samples.png", "compare.md", "compare.png", "out/README.md"),
        *("out/encoder.keras", "out/decoder.keras"),
    }
    assert set(contents(aside)) - before <= others


def test_what_hangs_as_a_link_at_the_output_is_no_free_place(run_of, aside):
    (aside / "codes.npz").symlink_to(aside / "gone")
    with refused("is there; --overwrite replaces it", aside):
        encode(str(run_of("vae", "npz_vectors")), f"{aside}/rows.npy", f"{aside}/codes.npz")


def test_runs_are_compared_in_the_folder_that_holds_them(run_of, tmp_path):
    for name in ("a", "deep/b"):
        shutil.copytree(run_of("linear", "npz_vectors"), tmp_path / name)
        evaluate(str(tmp_path / name))
    runs, _ = compare.find([str(tmp_path / "a"), str(tmp_path / "deep")])
    told = compare.compare(runs)
    assert f"table      {tmp_path / 'compare.md'}" in told
    assert (tmp_path / "compare.png").exists()


@pytest.mark.parametrize("verb", ["encode", "decode", "denoise", "sample", "compare", "export"])
@pytest.mark.parametrize("output", ["~nobody-of-this-name/out.npz", "x" * 300 + ".npz"])
def test_a_name_that_cannot_be_gets_one_line(verb, output, run_of, aside, monkeypatch):
    monkeypatch.setattr(exporting, "_compare", lambda *_: {"keras": {"encode": 0.0}})
    monkeypatch.chdir(aside)
    run = run_of("vae", "npz_vectors")
    call = {
        "encode": lambda: encode(str(run), "rows.npy", output),
        "decode": lambda: decode(str(run), "codes.npy", output),
        "denoise": lambda: denoise(str(run), "rows.npy", output),
        "sample": lambda: sample(str(run), 2, output=output),
        "compare": lambda: compared(run, output, overwrite=False),
        "export": lambda: export(str(run), output, formats=["keras"]),
    }[verb]
    with refused("nobody" if "~" in output else "cannot be looked for: File name too long", aside):
        call()
