"""Every verb on every kind and on every source of data: it does its work, or says why not."""

import json

import keras
import numpy as np
import pytest
from matplotlib.image import imread

from tests.all_configs import CONVOLUTIONAL
from tests.runs import final_state, report
from tests.verbs.refusals import refused
from tests.verbs.sources import (
    CONFIG_OF,
    FINETUNING,
    SOURCES,
    config_of,
    pixels,
    vectors,
)
from trainer.data import describe
from trainer.evaluation import compare
from trainer.evaluation.classifier import FineTuning, finetune
from trainer.evaluation.evaluate import evaluate
from trainer.run import workdir
from trainer.serving import export as exporting
from trainer.serving import model_card
from trainer.serving.export import export
from trainer.serving.prior_samples import sample
from trainer.serving.stream import decode, denoise, encode
from trainer.train import train

# Every kind on one source of images and one of vectors, and every source with one kind.
WALKS = [
    *((kind, "npz_images") for kind in CONFIG_OF),
    *((kind, "npz_vectors") for kind in CONFIG_OF if kind not in CONVOLUTIONAL),
    *(("vae", source) for source in SOURCES if not source.startswith("npz")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "source"), WALKS)
def test_a_kind_learns_from_a_source_is_measured_encodes_and_decodes(
    kind, source, source_of, run_of, tmp_path
):
    run, source = str(run_of(kind, source)), source_of(source)
    codes, decoded, cleaned = (
        str(tmp_path / name) for name in ("codes.npz", "decoded.npz", "cleaned.npz")
    )
    metrics = evaluate(run)
    count = encode(run, "test", codes, errors=True)
    assert decode(run, codes, decoded) == denoise(run, "test", cleaned) == count
    assert metrics["test_images"] == count
    with np.load(codes) as written:
        assert written["codes"].shape == (count, metrics["code_size"])
        assert ("labels" in written) == source.labelled
        if not source.settings.get("standardise"):
            assert np.mean(written["errors"]) == pytest.approx(metrics["mse"], rel=1e-3)
    with np.load(decoded) as back, np.load(cleaned) as at_once:
        name = "vectors" if source.of_vectors else "images"
        assert back[name].shape == (count, *source.shape)
        assert np.isfinite(back[name]).all()
        np.testing.assert_allclose(back[name], at_once[name], rtol=1e-4, atol=1e-5)


def walk_resume(run, kind, source, aside):
    del aside
    config = config_of(kind, source)
    config.num_epochs = 1.0
    before, _ = final_state(run)
    train(config, str(run))
    assert final_state(run)[0] > before


def walk_like(run, kind, source, aside):
    """What is handed over is read as the training's own was."""
    del kind
    count = encode(str(run), source.like, str(aside / "codes.tsv"))
    assert denoise(str(run), source.like, str(aside / "clean.npy")) == count
    assert np.load(aside / "clean.npy").shape == (count, *source.shape)
    if source.of_vectors:
        assert decode(str(run), str(aside / "codes.tsv"), str(aside / "back.csv")) == count
    else:
        assert decode(str(run), str(aside / "codes.tsv"), f"{aside}/back/") == count
        assert len(list((aside / "back").rglob("*.png"))) == count


def walk_sample(run, kind, source, aside):
    if kind != "vae":
        with refused(f"holds a '{kind}', which has no prior to sample", run, aside):
            sample(str(run), 3, output=str(aside / "samples"))
        return
    sample(str(run), 3, output=str(aside))
    with np.load(aside / "samples.npz") as drawn:
        rows = drawn["vectors" if source.of_vectors else "images"]
    assert rows.shape == (3, *source.shape)
    if source.settings.get("standardise"):
        assert 2 < rows.mean() < 8  # in the user's units, around 5
    assert imread(aside / "samples.png").ndim == 3


def walk_finetune(run, kind, source, aside):
    del kind, aside
    if not source.labelled:
        with refused("has no labels from 0 up to learn from", run):
            finetune(str(run), FineTuning(**FINETUNING))
        return
    metrics = finetune(str(run), FineTuning(**FINETUNING))
    assert json.loads((run / "finetuned.json").read_text()) == metrics
    assert 0 <= metrics["finetuned_test_error"] <= 1


def walk_export(run, kind, source, aside):
    card = export(str(run), str(aside / "out"), formats=["keras"])
    assert card["kind"] == kind
    encoder, decoder = (
        keras.models.load_model(aside / "out" / name) for name in model_card.FILES["keras"]
    )
    rows = vectors() if source.of_vectors else pixels(source.shape)
    np.save(aside / "rows.npy", rows)
    encode(str(run), str(aside / "rows.npy"), str(aside / "codes.npy"))
    codes = np.load(aside / "codes.npy")
    # Of a k-sparse code rounding may change which units are kept.
    told = np.isclose(encoder.predict(rows, verbose=0), codes, rtol=1e-3, atol=1e-3)
    assert np.mean(told) > 0.99 if kind == "sparse" else told.all()
    assert decoder.predict(codes, verbose=0).shape == rows.shape


def walk_compare(run, kind, source, aside):
    del source
    if workdir.read_metrics(run) is None:
        evaluate(str(run))
    assert f"| {kind} " in compare.compare([run], str(aside))
    assert imread(aside / compare.FIGURE).ndim == 3


def walk_prepare(run, kind, source, aside):
    """What is told of the data is what the run was trained on."""
    settings = config_of(kind, source).data
    sheet = "" if source.of_vectors else str(aside / "sheet.png")
    told = describe.prepare(settings, contact_sheet=sheet)
    assert workdir.read(run).data_fingerprint in told
    assert "x".join(map(str, source.shape)) in told


def walk_verify(run, kind, source, aside):
    del kind, source, aside
    lines, damaged = report(run)
    assert damaged == 0
    assert all(line.startswith("whole ") for line in lines)


VERBS = [
    *(walk_resume, walk_like, walk_sample, walk_finetune),
    *(walk_export, walk_compare, walk_prepare, walk_verify),
]


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__.removeprefix("walk_"))
@pytest.mark.parametrize(("kind", "source"), WALKS)
def test_a_verb_does_its_work_or_says_why_not(
    verb, kind, source, run_of, source_of, tmp_path, monkeypatch
):
    def compared(made, reference, formats, aside):
        del made, reference, aside
        return {name: {"encode": 0.0} for name in formats}

    monkeypatch.setattr(exporting, "_compare", compared)  # in a process of its own: test_export.py
    verb(run_of(kind, source), kind, source_of(source), tmp_path)
