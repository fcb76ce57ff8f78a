"""Every verb on every kind and on every source of data: it does its work, or says why it does not.

A refusal is one line, and leaves nothing.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from matplotlib.image import imread
from PIL import Image

from tests.all_configs import CONFIGS, load_config
from tests.runs import final_state, report
from tests.test_compare import MEASURED, make_run
from tests.tiny_colour import TinyColour
from trainer import cards, comparison, exporting, pictures, preparation, workdir
from trainer.checkpoints.__main__ import main as verify
from trainer.encoding import decode, denoise, encode
from trainer.errors import UserError
from trainer.evaluation import evaluate
from trainer.exporting import export
from trainer.finetuning import finetune
from trainer.sampling import sample
from trainer.train import train

ROOT = Path(__file__).parent.parent
SIDE = 8  # of the images
FEATURES = 5  # of the vectors
EXAMPLES = 40
CLASSES = 2
CONFIG_OF = {load_config(name).model.name: name for name in reversed(CONFIGS)}  # one of each kind
SMALL: dict[str, dict[str, Any]] = {
    "linear": {"code_size": 3},
    "dense": {"code_size": 3, "hidden_units": (8,)},
    "conv": {"filters": 2},
    "deep_conv": {"code_size": 3, "stage_filters": (2, 3), "dense_units": 8},
    "denoising": {"network": "conv", "layer_sizes": (4, 2)},
    "sparse": {"code_size": 20, "active_units": 3, "first_active_units": 9},
    "contractive": {"code_size": 4},
    "concrete": {"code_size": 4, "hidden_units": (8,)},
    "vae": {"code_size": 2, "hidden_units": (8,), "nll_samples": 2},
}
OF_VECTORS: dict[str, dict[str, Any]] = {  # what they want besides
    "denoising": {"network": "dense", "loss": "mse"},
    "contractive": {"loss": "mse"},
    "vae": {"likelihood": "gaussian", "binarisation": "none"},
}
CONVOLUTIONAL = ("conv", "deep_conv")
FINETUNING: dict[str, Any] = {
    "num_epochs": 1,
    "batch_size": 10,
    "learning_rate": 1e-3,
    "schedule": "constant",
    "patience_epochs": 1,
}


@dataclasses.dataclass(frozen=True)
class Source:
    """Data to train on, and what the verbs take that are handed such."""

    settings: dict[str, Any]  # of the config's data
    shape: tuple[int, ...]
    labelled: bool
    like: str  # an input of this sort; or a part of the run's own data, where it has no files

    @property
    def of_vectors(self):
        return len(self.shape) == 1


def pixels(shape, count=EXAMPLES, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def vectors(count=EXAMPLES, seed=0):
    return np.random.default_rng(seed).normal(5, 2, (count, FEATURES))


def save_pictures(folder, images):
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:02}.png")


def write_table(path, rows, **others):
    table = pa.table({f"x{k}": column for k, column in enumerate(rows.T)} | others)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        pyarrow.csv.write_csv(table, path)


def classes(count=EXAMPLES):
    return np.arange(count) % CLASSES


# Each makes its files in an empty folder.


def digits(folder):
    del folder
    settings = {"name": "digits", "image_size": SIDE, "resplit_test": 0.5}  # a fifth of them
    return Source(settings, (SIDE, SIDE, 1), True, "validation")


def tfds(folder):
    TinyColour(data_dir=folder).download_and_prepare()
    name = TinyColour.name
    return Source({"name": name, "image_size": SIDE}, (SIDE, SIDE, 3), True, "validation")


def grey_images(folder):
    save_pictures(folder / "own", pixels((SIDE, SIDE)))
    return Source({"name": f"images:{folder / 'own'}"}, (SIDE, SIDE, 1), False, f"{folder}/own")


def colour_images(folder):
    for part in ("train", "test"):
        for number, name in enumerate("ab"):
            save_pictures(folder / part / name, pixels((SIDE, SIDE, 3), 20, number))
    return Source({"name": f"images:{folder}"}, (SIDE, SIDE, 3), True, f"{folder}/test")


def csv(folder):
    words = np.array(["iris", "rose"])[classes()]
    write_table(folder / "own.csv", vectors(), kind=words)
    settings = {"name": f"table:{folder / 'own.csv'}", "label_column": "kind"}
    return Source(settings | {"standardise": True}, (FEATURES,), True, str(folder / "own.csv"))


def parquet(folder):
    for seed, part in enumerate(("train", "test")):
        rows = vectors(seed=seed)
        rows[3, 1] = np.nan
        write_table(folder / f"{part}.parquet", rows, kind=classes())
    train, test = (folder / f"{part}.parquet" for part in ("train", "test"))
    settings = {"name": f"table:{train},{test}", "label_column": "kind", "impute": "mean"}
    return Source(settings, (FEATURES,), True, str(test))


def npz_vectors(folder):
    rows = {"train": vectors(), "test": vectors(20, seed=1)}
    labels = {"train_labels": classes(), "test_labels": classes(20)}
    np.savez(folder / "own.npz", **rows, **labels)
    np.savez(folder / "like.npz", rows=vectors())
    return Source({"name": f"arrays:{folder / 'own.npz'}"}, (FEATURES,), True, f"{folder}/like.npz")


def npz_images(folder):
    shape = (SIDE, SIDE, 3)
    images = {"train": pixels(shape), "test": pixels(shape, 20, seed=1)}
    labels = {"train_labels": classes(), "test_labels": classes(20)}
    np.savez(folder / "own.npz", **images, **labels)
    np.savez(folder / "like.npz", rows=pixels(shape))
    return Source({"name": f"arrays:{folder / 'own.npz'}"}, shape, True, f"{folder}/like.npz")


def npy(folder):
    path = folder / "own.npy"
    np.save(path, pixels((SIDE, SIDE)) / 255)
    return Source({"name": f"arrays:{path}"}, (SIDE, SIDE, 1), False, str(path))


SOURCES = {
    make.__name__: make
    for make in (
        *(digits, tfds, grey_images, colour_images),
        *(csv, parquet, npz_vectors, npz_images, npy),
    )
}


@pytest.fixture(scope="module")
def source_of(tmp_path_factory):
    """Makes a source by its name, once."""

    def make(name):
        folder = tmp_path_factory.mktemp(name)
        if name == "tfds":
            os.environ["TFDS_DATA_DIR"] = str(folder)
        return SOURCES[name](folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", "none")  # and as it was, in the end
        yield functools.cache(make)


@pytest.fixture(autouse=True)
def few_columns(monkeypatch):
    """Saves a quarter of the time that so small a run takes to be measured."""
    monkeypatch.setattr(pictures, "COLUMNS", 2)


def config_of(kind, source):
    """One step of a small net of a kind."""
    config = load_config(CONFIG_OF[kind])
    config.model.update(SMALL[kind])
    if source.of_vectors:
        config.model.update(OF_VECTORS.get(kind, {}))
        if "output_activation" in config.model:
            config.model.output_activation = "linear"
    config.data.update({"resplit_test": 0.0, **source.settings})
    config.batch_size = 10
    config.num_epochs = 1e-6
    config.execution = "graph"
    config.strategy = "cpu:1"
    config.pictures = False
    config.quiet = True
    return config


@contextlib.contextmanager
def refused(message, *folders):
    """Expects one line, and the folders as they were."""
    before = [contents(folder) for folder in folders]
    with pytest.raises(UserError) as error:
        yield
    told = str(error.value)
    assert message in told
    assert len(told.splitlines()) == 1
    assert [contents(folder) for folder in folders] == before


def contents(folder):
    """The digest of every file there is, by its path, and every folder; but for empty locks."""
    return {
        str(path.relative_to(folder)): path.is_file()
        and hashlib.sha256(path.read_bytes()).hexdigest()
        for path in Path(folder).rglob("*")
        if path.name != ".lock" and path.name != ".decoded"
    }


@pytest.fixture(scope="module")
def run_of(source_of, tmp_path_factory):
    """Trains a kind on a source, once; the folder."""

    def make(kind, source):
        folder = tmp_path_factory.mktemp("runs") / f"{kind}-{source}"
        train(config_of(kind, source_of(source)), str(folder))
        return folder

    return functools.cache(make)


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("kind", CONFIG_OF)
def test_a_kind_learns_from_a_source_is_measured_encodes_and_decodes(
    kind, source, source_of, run_of, tmp_path
):
    if kind in CONVOLUTIONAL and source_of(source).of_vectors:
        with refused("convolutions need images", tmp_path):
            train(config_of(kind, source_of(source)), str(tmp_path / "run"))
        return
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


# The verbs beside these, each on every kind and on every source.
WALKED_SOURCE, WALKED_KIND = "npz_images", "vae"
WALKS = [
    *((kind, WALKED_SOURCE) for kind in CONFIG_OF),
    *((WALKED_KIND, source) for source in SOURCES if source != WALKED_SOURCE),
]


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
            finetune(str(run), **FINETUNING)
        return
    metrics = finetune(str(run), **FINETUNING)
    assert json.loads((run / "finetuned.json").read_text()) == metrics
    assert 0 <= metrics["finetuned_test_error"] <= 1


def walk_export(run, kind, source, aside):
    card = export(str(run), str(aside / "out"), formats=["keras"])
    assert card["kind"] == kind
    encoder, decoder = (
        keras.models.load_model(aside / "out" / name) for name in cards.FILES["keras"]
    )
    rows = vectors() if source.of_vectors else pixels(source.shape)
    np.save(aside / "rows.npy", rows)
    encode(str(run), str(aside / "rows.npy"), str(aside / "codes.npy"))
    codes = np.load(aside / "codes.npy")
    # Of a k-sparse code rounding may change which units are kept.
    told = np.isclose(encoder.predict(rows, verbose=0), codes, rtol=1e-3, atol=1e-3)
    assert np.mean(told) > 0.99
    assert decoder.predict(codes, verbose=0).shape == rows.shape


def walk_compare(run, kind, source, aside):
    del source
    if workdir.read_metrics(run) is None:
        evaluate(str(run))
    assert f"| {kind} " in comparison.compare([run], str(aside))
    assert imread(aside / comparison.PICTURE).ndim == 3


def walk_prepare(run, kind, source, aside):
    """What is told of the data is what the run was trained on."""
    settings = config_of(kind, source).data.to_dict()
    name = settings.pop("name")
    sheet = "" if source.of_vectors else str(aside / "sheet.png")
    told = preparation.prepare(name, contact_sheet=sheet, settings=settings)
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


# What is wrong with data, for every verb that reads a run's own.


def unreadable_image(folder):
    (folder / "own" / "03.png").write_bytes(b"no picture")


def mixed_sizes(folder):
    Image.fromarray(pixels((SIDE + 1, SIDE))[0]).save(folder / "own" / "03.png")


def mixed_channels(folder):
    Image.fromarray(pixels((SIDE, SIDE, 3))[0]).save(folder / "own" / "03.png")


def empty_folder(folder):
    for path in (folder / "own").glob("*.png"):
        path.unlink()


def missing_folder(folder):
    (folder / "own").rename(folder / "elsewhere")


def missing_number(folder):
    rows = (folder / "own.csv").read_text().splitlines()
    cells = rows[4].split(",")
    rows[4] = ",".join([cells[0], "", *cells[2:]])
    (folder / "own.csv").write_text("\n".join(rows))


def missing_file(folder):
    (folder / "own.csv").unlink()


def other_columns(folder):
    write_table(folder / "test.parquet", vectors()[:, :4], kind=classes())


def nan(folder):
    rows = vectors()
    rows[3, 1] = np.nan
    np.savez(folder / "own.npz", train=rows, test=vectors())


def other_width(folder):
    np.savez(folder / "own.npz", train=vectors(), test=vectors()[:, :4])


def other_data(folder):
    np.savez(folder / "own.npz", train=vectors(seed=7), train_labels=classes())


FAULTS = {  # what is done to which source, and the line
    unreadable_image: ("grey_images", "03.png cannot be read as an image"),
    mixed_sizes: ("grey_images", "differ in size: 00.png is 8x8 pixels, 03.png 9x8"),
    mixed_channels: ("grey_images", "00.png is grey, 03.png in colour; set data.channels"),
    empty_folder: ("grey_images", "holds no images: no file that ends in .png"),
    missing_folder: ("grey_images", "is no folder; data.name=images:DIR needs one"),
    missing_number: ("csv", "has no number in row 4, column 'x1'; in a training, data.impute"),
    missing_file: ("csv", "own.csv cannot be read: No such file or directory"),
    other_columns: ("parquet", "has 4 columns of numbers, where"),
    nan: ("npz_vectors", "holds nan in row 3, column 1, counted from 0; only finite"),
    other_width: ("npz_vectors", "has rows of 4 numbers, where 'train' has 5"),
}


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    """Has a source go wrong once a run has learnt from it: the folder of both, and the source."""

    def make(fault, name):
        folder = tmp_path_factory.mktemp(fault.__name__)
        source = SOURCES[name](folder)
        train(config_of("linear", source), str(folder / "run"))
        fault(folder)
        return folder, source

    return functools.cache(make)


def anew(folder, source):
    train(config_of("linear", source), str(folder / "another"))


def resumed(folder, source):
    config = config_of("linear", source)
    config.num_epochs = 1.0
    train(config, str(folder / "run"))


def prepared(folder, source):
    settings = dict(source.settings)
    preparation.prepare(
        settings.pop("name"), contact_sheet=str(folder / "sheet.png"), settings=settings
    )


OF_DATA = {
    "train": anew,
    "resume": resumed,
    "prepare": prepared,
    "evaluate": lambda folder, _: evaluate(str(folder / "run")),
    "finetune": lambda folder, _: finetune(str(folder / "run"), **FINETUNING),
    "encode": lambda folder, _: encode(str(folder / "run"), "test", f"{folder}/new/codes.npz"),
    "denoise": lambda folder, _: denoise(str(folder / "run"), "test", f"{folder}/new/clean.npz"),
}


@pytest.mark.parametrize("verb", OF_DATA)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_data_that_will_not_do_are_told_by_every_verb_that_reads_them(verb, fault, spoilt):
    name, message = FAULTS[fault]
    folder, source = spoilt(fault, name)
    with refused(message, folder):
        OF_DATA[verb](folder, source)


@pytest.mark.parametrize("verb", [verb for verb in OF_DATA if verb not in ("train", "prepare")])
def test_data_that_are_others_now_are_told(verb, spoilt):
    folder, source = spoilt(other_data, "npz_vectors")
    message = "holds a run on other data" if verb == "resume" else "are not those that"
    with refused(message, folder):
        OF_DATA[verb](folder, source)


# What is wrong with a workdir, for every verb that reads one; each is given all else that it needs.
OF_A_RUN = {
    "evaluate": lambda run, _: evaluate(str(run)),
    "finetune": lambda run, _: finetune(str(run), **FINETUNING),
    "encode": lambda run, aside: encode(str(run), f"{aside}/rows.npy", f"{aside}/new/codes.npz"),
    "decode": lambda run, aside: decode(str(run), f"{aside}/codes.npy", f"{aside}/new/back.npz"),
    "denoise": lambda run, aside: denoise(str(run), f"{aside}/rows.npy", f"{aside}/new/clean.npz"),
    "sample": lambda run, aside: sample(str(run), 2, output=f"{aside}/new/drawn"),
    "export": lambda run, aside: export(str(run), f"{aside}/new/out", formats=["keras"]),
    "compare": lambda run, _: comparison.compare(comparison.find([str(run)])[0]),
    "verify": lambda run, _: verify(["verify", str(run)]),
}
NO_RUNS = {
    "missing": lambda _: None,
    "empty": lambda place: place.mkdir(),
    "file": lambda place: place.write_text("no folder"),
    "broken": lambda place: (place.mkdir(), (place / workdir.CONFIG).write_text("{")),
}


@pytest.fixture
def aside(tmp_path):
    """A folder with vectors, and with codes of two numbers."""
    folder = tmp_path / "aside"
    folder.mkdir()
    np.save(folder / "rows.npy", vectors())
    np.save(folder / "codes.npy", vectors()[:, :2])
    return folder


@pytest.mark.parametrize("no_run", NO_RUNS)
@pytest.mark.parametrize("verb", OF_A_RUN)
def test_a_workdir_that_holds_no_run_is_told_by_every_verb(verb, no_run, tmp_path, aside):
    place = tmp_path / "runs" / "none"
    place.parent.mkdir()
    NO_RUNS[no_run](place)
    with refused(str(place), tmp_path):
        OF_A_RUN[verb](place, aside)


@pytest.mark.parametrize("verb", [verb for verb in OF_A_RUN if verb not in ("compare", "verify")])
def test_a_run_without_a_whole_checkpoint_is_told_by_every_verb(verb, run_of, tmp_path, aside):
    run = tmp_path / "run"
    shutil.copytree(run_of("vae", "npz_vectors"), run)
    for state in run.glob("checkpoints/*/state.npz"):
        state.write_bytes(b"")
    with refused("checkpoints is whole; put one back from a copy", tmp_path):
        OF_A_RUN[verb](run, aside)
    shutil.rmtree(run / "checkpoints")
    with refused("holds no checkpoint", tmp_path):
        OF_A_RUN[verb](run, aside)


# What is wrong with an input, where tests/test_encode.py asks no other verb than encode.


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        (
            "rows.csv",
            vectors()[:, :4],
            "has 4 columns of numbers, but the model takes vectors of 5",
        ),
        ("rows.npy", vectors()[:, :4], "has the shape (40, 4), but the model takes vectors of 5"),
        ("rows.csv", np.full((3, FEATURES), np.nan), "has no number in row 1, column 'x0'"),
        ("rows.npy", np.full((3, FEATURES), np.nan), "holds nan in row 0, column 0"),
        ("rows.csv", vectors(0), "has no row"),
    ],
)
def test_vectors_that_will_not_do_are_not_denoised(run_of, tmp_path, name, rows, message):
    source = tmp_path / name
    if source.suffix == ".npy":
        np.save(source, rows)
    else:
        write_table(source, rows)
    with refused(message, tmp_path):
        denoise(str(run_of("vae", "npz_vectors")), str(source), f"{tmp_path}/new/clean.npz")


@pytest.mark.parametrize(
    ("name", "codes", "message"),
    [
        ("codes.npy", np.full((3, 2), np.nan), "holds nan in row 0, column 0"),
        ("codes.csv", np.full((3, 2), np.nan), "has no number in row 1, column 'code_0'"),
        ("codes.npy", np.zeros((0, 2)), "in which there is no example"),
        ("codes.csv", np.zeros((0, 2)), "has no row"),
        ("codes.png", None, "is not known; allowed: a file of codes that ends in .npy"),
        ("folder", None, "is not known; allowed: a file of codes that ends in .npy"),
        ("none.npy", None, "none.npy' is not there"),
    ],
)
def test_codes_that_will_not_do_are_not_decoded(run_of, tmp_path, name, codes, message):
    source = tmp_path / name
    if source.suffix == ".npy" and codes is not None:
        np.save(source, codes)
    elif source.suffix == ".csv":
        pyarrow.csv.write_csv(pa.table({f"code_{k}": codes[:, k] for k in range(2)}), source)
    elif name == "codes.png":
        source.touch()
    elif name == "folder":
        source.mkdir()
    with refused(message, tmp_path):
        decode(str(run_of("vae", "npz_vectors")), str(source), f"{tmp_path}/new/back.npz")


# One rule for all outputs: what is there is replaced only where that is told.
def compared(run, output, overwrite):
    if workdir.read_metrics(run) is None:
        evaluate(str(run))
    return comparison.compare([run], str(output), overwrite=overwrite)


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
    "prepare": ("sheet.png", lambda _, aside, **over: preparation.prepare(
        "digits", contact_sheet=f"{aside}/sheet.png", **over
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
    runs, _ = comparison.find([str(tmp_path / "a"), str(tmp_path / "deep")])
    told = comparison.compare(runs)
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


# The commands themselves.
HELPFUL = [
    *("trainer", "trainer.evaluate", "trainer.finetune", "trainer.sample", "trainer.encode"),
    *("trainer.decode", "trainer.denoise", "trainer.export", "trainer.compare", "trainer.prepare"),
    *("trainer.checkpoints", "launch.local", "launch.slurm", "launch.kubernetes", "launch.sweep"),
]


def command(*words, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", *words],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("module", "flag"),
    [*((module, "--help") for module in HELPFUL), ("trainer", "--helpshort")],
)
def test_help_is_no_error(module, flag):
    done = command(module, flag)
    assert done.returncode == 0
    assert f"python -m {module}" in done.stdout
    assert "Try --helpfull" in done.stdout


STREAM = ("encode", "decode", "denoise")
MISTAKES = [  # each as it is typed, and the line
    *((f"{verb}", "--workdir=... is missing") for verb in ("evaluate", "finetune", "sample")),
    *((f"{verb} --workdir=none", "holds no run") for verb in ("evaluate", "finetune", "sample")),
    ("export --workdir=none --output=out", "holds no run"),
    *((f"{verb} --workdir=none --input=rows.npy --output=o", "holds no run") for verb in STREAM),
    *((f"{verb} --workdir=run --input=no.npy --output=o", "is not there") for verb in STREAM),
    *((f"{verb} --workdir=run --input=rows.npy --output=made", "is there;") for verb in STREAM),
    ("export --workdir=run --output=made", "is there;"),
    ("sample --workdir=run --output=made", "made/samples.npz is there;"),
    ("compare run --output=made", "made/compare.md is there;"),
    ("prepare --dataset=digits --contact_sheet=made/sheet.png", "is there;"),
    ("prepare", "one of --dataset=NAME and --config=FILE is to be given"),
]


@pytest.mark.parametrize(("typed", "message"), MISTAKES)
def test_a_plain_mistake_is_told_before_tensorflow_is_imported(typed, message, tmp_path):
    make_run(tmp_path / "run", MEASURED)
    np.save(tmp_path / "rows.npy", vectors())
    (tmp_path / "made").mkdir()
    for name in ("samples.npz", "compare.md", "sheet.png"):
        (tmp_path / "made" / name).touch()
    before = contents(tmp_path)
    done = command(*f"trainer.{typed}".split(), cwd=tmp_path)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    imports = [line for line in lines if line.startswith("import time:")]
    (told,) = [line for line in lines if line not in imports]
    assert message in told
    assert not [line for line in imports if "tensorflow" in line]
    assert contents(tmp_path) == before
