"""Every verb on every kind and on every source of data: it does its work, or says why not.

What a verb does for a kind depends on no source, so one run of each is walked over.
"""

import json

import keras
import numpy as np
import pytest
from matplotlib.image import imread

from tests.all_configs import CONFIG_OF
from tests.runs import final_state, report
from tests.verbs.refusals import refused
from tests.verbs.sources import FINETUNING, SOURCES, config_of, pixels, vectors
from trainer.data import describe
from trainer.evaluation import compare
from trainer.evaluation.evaluate import evaluate
from trainer.evaluation.finetuning import finetune
from trainer.evaluation.finetuning_options import FineTuning
from trainer.positions import Noise
from trainer.run import restore, workdir
from trainer.serving import model_card
from trainer.serving.code_map import draw_map
from trainer.serving.export import export
from trainer.serving.options import StreamOptions
from trainer.serving.prior_samples import sample
from trainer.serving.stream import decode, denoise, encode
from trainer.training.train import train

SOURCE_OF = {  # with labels; of other kinds: npz_images
    "contractive": "parquet",
    "conv": "colour_images",
    "deep_conv": "tfds",
    "dense": "digits",
    "sparse": "npz_vectors",
    "vae": "csv",
}
# What these kinds draw, or how they add noise, is another thing on the other shape.
CASES = [("concrete", "npz_vectors"), ("denoising", "npz_vectors"), ("vae", "npz_images")]
CASES += [(kind, SOURCE_OF.get(kind, "npz_images")) for kind in CONFIG_OF]
CASES += [("vae", source) for source in SOURCES if source not in dict(CASES).values()]


@pytest.mark.slow
@pytest.mark.usefixtures("uncompared")
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_every_verb_does_its_work_or_says_why_not(kind, name, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    source = SOURCES[name](tmp_path / "data")
    config, run = config_of(kind, source), tmp_path / "run"
    train(config, str(run))
    splits_are_streamed(str(run), source, tmp_path, evaluate(str(run)))
    an_input_is_read_as_the_training_read_its_own(str(run), source, tmp_path)
    an_export_computes_what_encode_does(str(run), source, tmp_path, kind)
    codes_are_drawn(run, source, tmp_path)
    a_prior_is_sampled_or_there_is_none(run, source, tmp_path, kind)
    a_classifier_is_fine_tuned_or_there_are_no_labels(run, source)
    assert f"| {kind} " in compare.compare([run], str(tmp_path))
    assert imread(tmp_path / compare.FIGURE).ndim == 3
    sheet = "" if source.of_vectors else str(tmp_path / "sheet.png")
    description = describe.prepare(config.data, contact_sheet=sheet)
    assert workdir.read(run).data_fingerprint in description
    assert "x".join(map(str, source.shape)) in description
    a_training_goes_on(config, run)


def splits_are_streamed(run, source, folder, metrics):
    codes, decoded, cleaned = (
        str(folder / name) for name in ("codes.npz", "decoded.npz", "cleaned.npz")
    )
    count = encode(run, "test", codes, StreamOptions(errors=True))
    assert decode(run, codes, decoded) == denoise(run, "test", cleaned) == count
    assert metrics["test_examples"] == count
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


def an_input_is_read_as_the_training_read_its_own(run, source, folder):
    codes = str(folder / "codes.tsv")
    count = encode(run, source.like, codes)
    assert denoise(run, source.like, str(folder / "clean.npy")) == count
    assert np.load(folder / "clean.npy").shape == (count, *source.shape)
    back = folder / ("back.csv" if source.of_vectors else "back")
    assert decode(run, codes, str(back)) == count
    assert source.of_vectors or len(list(back.rglob("*.png"))) == count


def an_export_computes_what_encode_does(run, source, folder, kind):
    card = export(run, str(folder / "out"), formats=["keras"])
    assert card["kind"] == kind
    encoder, decoder = (
        keras.models.load_model(folder / "out" / name) for name in model_card.FILES["keras"]
    )
    rows = vectors(features=source.shape[0]) if source.of_vectors else pixels(source.shape)
    np.save(folder / "rows.npy", rows)
    encode(run, str(folder / "rows.npy"), str(folder / "codes.npy"))
    codes = np.load(folder / "codes.npy")
    # Rounding may change which units of a k-sparse code are kept.
    equal = np.isclose(encoder.predict(rows, verbose=0), codes, rtol=1e-3, atol=1e-3)
    assert np.mean(equal) > 0.99 if kind == "sparse" else equal.all()
    assert decoder.predict(codes, verbose=0).shape == rows.shape


def codes_are_drawn(run, source, folder):
    draw_map(str(run), output=str(folder))
    table, figure = (folder / name for name in workdir.MAP)
    assert ("label" in table.read_text().splitlines()[0].split(",")) == source.labelled
    assert imread(figure).ndim == 3


def a_prior_is_sampled_or_there_is_none(run, source, folder, kind):
    if restore.load_model(run).model.prior_codes(Noise(0, 0, 3)) is None:
        assert kind != "vae"
        with refused(f"holds a '{kind}', which has no prior to sample", run, folder):
            sample(str(run), 3, output=str(folder / "samples"))
        return
    sample(str(run), 3, output=str(folder))
    with np.load(folder / "samples.npz") as samples:
        rows = samples["vectors" if source.of_vectors else "images"]
    assert rows.shape == (3, *source.shape)
    if source.settings.get("standardise"):
        assert 2 < rows.mean() < 8  # in the user's units, around 5
    assert imread(folder / "samples.png").ndim == 3


def a_classifier_is_fine_tuned_or_there_are_no_labels(run, source):
    if not source.labelled:
        with refused("has no labels from 0 up to learn from", run):
            finetune(str(run), FineTuning(**FINETUNING))
        return
    metrics = finetune(str(run), FineTuning(**FINETUNING))
    assert json.loads((run / "finetuned.json").read_text()) == metrics
    assert 0 <= metrics["finetuned_test_error"] <= 1


def a_training_goes_on(config, run):
    config.num_epochs = 1.0
    before, _ = final_state(run)
    train(config, str(run))
    assert final_state(run)[0] > before
    lines, damaged = report(run)
    assert damaged == 0
    assert all(line.startswith("whole ") for line in lines)
