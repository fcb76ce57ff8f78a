"""What is wrong with data, a workdir or an input is told by every verb, in one line."""

import functools
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from PIL import Image

from tests.verbs.refusals import refused
from tests.verbs.sources import (
    FEATURES,
    FINETUNING,
    SIDE,
    SOURCES,
    classes,
    config_of,
    pixels,
    vectors,
    write_table,
)
from trainer.checkpoints import main as verify
from trainer.config import make_data
from trainer.data import describe
from trainer.evaluation import compare
from trainer.evaluation.classifier import FineTuning, finetune
from trainer.evaluation.evaluate import evaluate
from trainer.run import workdir
from trainer.serving.export import export
from trainer.serving.prior_samples import sample
from trainer.serving.stream import decode, denoise, encode
from trainer.train import train

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
    describe.prepare(make_data(**source.settings), contact_sheet=str(folder / "sheet.png"))


OF_DATA = {
    "train": anew,
    "resume": resumed,
    "prepare": prepared,
    "evaluate": lambda folder, _: evaluate(str(folder / "run")),
    "finetune": lambda folder, _: finetune(str(folder / "run"), FineTuning(**FINETUNING)),
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
    "finetune": lambda run, _: finetune(str(run), FineTuning(**FINETUNING)),
    "encode": lambda run, aside: encode(str(run), f"{aside}/rows.npy", f"{aside}/new/codes.npz"),
    "decode": lambda run, aside: decode(str(run), f"{aside}/codes.npy", f"{aside}/new/back.npz"),
    "denoise": lambda run, aside: denoise(str(run), f"{aside}/rows.npy", f"{aside}/new/clean.npz"),
    "sample": lambda run, aside: sample(str(run), 2, output=f"{aside}/new/drawn"),
    "export": lambda run, aside: export(str(run), f"{aside}/new/out", formats=["keras"]),
    "compare": lambda run, _: compare.compare(compare.find([str(run)])[0]),
    "verify": lambda run, _: verify(["verify", str(run)]),
}
NO_RUNS = {
    "missing": lambda _: None,
    "empty": lambda place: place.mkdir(),
    "file": lambda place: place.write_text("no folder"),
    "broken": lambda place: (place.mkdir(), (place / workdir.CONFIG).write_text("{")),
}


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


# What is wrong with an input, where tests/serving/test_stream.py asks no other verb than encode.


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
