"""Every verb on every kind and on every source of data: it does its work, or says why not.

A verb meets every kind if the model decides what it does, and every source if the data do.
"""

import json

import keras
import numpy as np
import pytest
from matplotlib.image import imread

from tests.all_configs import CONFIG_OF, CONVOLUTIONAL
from tests.runs import final_state, report
from tests.verbs.refusals import refused
from tests.verbs.sources import FINETUNING, SOURCES, config_of, pixels, vectors
from trainer.data import describe
from trainer.evaluation import compare
from trainer.evaluation.classifier import FineTuning, finetune
from trainer.evaluation.evaluate import evaluate
from trainer.run import workdir
from trainer.serving import model_card
from trainer.serving.export import export
from trainer.serving.options import StreamOptions
from trainer.serving.prior_samples import sample
from trainer.serving.stream import decode, denoise, encode
from trainer.train import train

OF_IMAGES = [(kind, "npz_images") for kind in CONFIG_OF]
OF_VECTORS = [(kind, "npz_vectors") for kind in CONFIG_OF if kind not in CONVOLUTIONAL]
OF_SOURCES = [("vae", source) for source in SOURCES if not source.startswith("npz")]
EVERY_SOURCE = [*OF_SOURCES, ("vae", "npz_images"), ("vae", "npz_vectors")]


@pytest.fixture
def case(kind, source, run_of, source_of):
    """The workdir of a run of a kind on a source, and the source."""
    return run_of(kind, source), source_of(source)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "source"), [*OF_IMAGES, *OF_VECTORS, *OF_SOURCES])
def test_a_run_is_evaluated_encodes_decodes_and_denoises(case, tmp_path):
    run, source = str(case[0]), case[1]
    codes, decoded, cleaned = (
        str(tmp_path / name) for name in ("codes.npz", "decoded.npz", "cleaned.npz")
    )
    metrics = evaluate(run)
    count = encode(run, "test", codes, StreamOptions(errors=True))
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


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "source"), [*OF_IMAGES, *OF_SOURCES])
def test_a_training_goes_on(kind, case):
    run, source = case
    config = config_of(kind, source)
    config.num_epochs = 1.0
    before, _ = final_state(run)
    train(config, str(run))
    assert final_state(run)[0] > before
    lines, damaged = report(run)
    assert damaged == 0
    assert all(line.startswith("whole ") for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "source"), EVERY_SOURCE)
def test_an_input_is_read_as_the_training_read_its_own(case, tmp_path):
    run, source = str(case[0]), case[1]
    codes = str(tmp_path / "codes.tsv")
    count = encode(run, source.like, codes)
    assert denoise(run, source.like, str(tmp_path / "clean.npy")) == count
    assert np.load(tmp_path / "clean.npy").shape == (count, *source.shape)
    if source.of_vectors:
        assert decode(run, codes, str(tmp_path / "back.csv")) == count
    else:
        assert decode(run, codes, f"{tmp_path}/back/") == count
        assert len(list((tmp_path / "back").rglob("*.png"))) == count


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "source"), [*OF_IMAGES, ("vae", "npz_vectors"), ("vae", "csv")])
def test_a_prior_is_sampled_or_there_is_none(kind, case, tmp_path):
    run, source = case
    if kind != "vae":
        with refused(f"holds a '{kind}', which has no prior to sample", run, tmp_path):
            sample(str(run), 3, output=str(tmp_path / "samples"))
        return
    sample(str(run), 3, output=str(tmp_path))
    with np.load(tmp_path / "samples.npz") as samples:
        rows = samples["vectors" if source.of_vectors else "images"]
    assert rows.shape == (3, *source.shape)
    if source.settings.get("standardise"):
        assert 2 < rows.mean() < 8  # in the user's units, around 5
    assert imread(tmp_path / "samples.png").ndim == 3


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "source"), [*OF_IMAGES, *OF_SOURCES])
def test_a_classifier_is_fine_tuned_or_there_are_no_labels(case):
    run, source = case
    if not source.labelled:
        with refused("has no labels from 0 up to learn from", run):
            finetune(str(run), FineTuning(**FINETUNING))
        return
    metrics = finetune(str(run), FineTuning(**FINETUNING))
    assert json.loads((run / "finetuned.json").read_text()) == metrics
    assert 0 <= metrics["finetuned_test_error"] <= 1


@pytest.mark.slow
@pytest.mark.usefixtures("uncompared")
@pytest.mark.parametrize(("kind", "source"), [*OF_VECTORS, ("conv", "npz_images"), ("vae", "csv")])
def test_an_export_computes_what_encode_does(kind, case, tmp_path):
    run, source = case
    card = export(str(run), str(tmp_path / "out"), formats=["keras"])
    assert card["kind"] == kind
    encoder, decoder = (
        keras.models.load_model(tmp_path / "out" / name) for name in model_card.FILES["keras"]
    )
    rows = vectors() if source.of_vectors else pixels(source.shape)
    np.save(tmp_path / "rows.npy", rows)
    encode(str(run), str(tmp_path / "rows.npy"), str(tmp_path / "codes.npy"))
    codes = np.load(tmp_path / "codes.npy")
    # Rounding may change which units of a k-sparse code are kept.
    equal = np.isclose(encoder.predict(rows, verbose=0), codes, rtol=1e-3, atol=1e-3)
    assert np.mean(equal) > 0.99 if kind == "sparse" else equal.all()
    assert decoder.predict(codes, verbose=0).shape == rows.shape


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "source"), [*OF_IMAGES, ("vae", "npz_vectors")])
def test_a_run_is_compared(kind, case, tmp_path):
    run, _ = case
    if workdir.read_metrics(run) is None:
        evaluate(str(run))
    assert f"| {kind} " in compare.compare([run], str(tmp_path))
    assert imread(tmp_path / compare.FIGURE).ndim == 3


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "source"), EVERY_SOURCE)
def test_prepare_describes_the_data_that_a_run_is_trained_on(kind, case, tmp_path):
    run, source = case
    settings = config_of(kind, source).data
    sheet = "" if source.of_vectors else str(tmp_path / "sheet.png")
    description = describe.prepare(settings, contact_sheet=sheet)
    assert workdir.read(run).data_fingerprint in description
    assert "x".join(map(str, source.shape)) in description
