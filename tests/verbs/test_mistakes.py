"""Bad data and a bad workdir are refused by every verb, in one line."""

import functools
import shutil

import numpy as np
import pytest

from tests.verbs.refusals import refused
from tests.verbs.sources import FINETUNING, SOURCES, classes, config_of, vectors
from tests.verbs.verbs import VERBS
from trainer.config import make_data
from trainer.data import describe
from trainer.evaluation.classifier import FineTuning, finetune
from trainer.evaluation.evaluate import evaluate
from trainer.run import workdir
from trainer.serving.stream import denoise, encode
from trainer.train import train

# What is wrong with data, for every verb that reads a run's own; tests/data has more faults.


def unreadable_image(folder):
    (folder / "own" / "03.png").write_bytes(b"no image")


def missing_file(folder):
    (folder / "own.csv").unlink()


def other_width(folder):
    np.savez(folder / "own.npz", train=vectors(), test=vectors()[:, :4])


def other_data(folder):
    np.savez(folder / "own.npz", train=vectors(seed=7), train_labels=classes())


FAULTS = {  # what is done to which source, and the line
    unreadable_image: ("grey_images", "03.png cannot be read as an image"),
    missing_file: ("csv", "own.csv cannot be read: No such file or directory"),
    other_width: ("npz_vectors", "has rows of 4 numbers, 'train' of 5"),
}


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    """Spoils a source after a run was trained on it; returns the folder of both, and the source."""

    def make(fault, name):
        folder = tmp_path_factory.mktemp(fault.__name__)
        source = SOURCES[name](folder)
        train(config_of("linear", source), str(folder / "run"))
        fault(folder)
        return folder, source

    return functools.cache(make)


def resume(folder, source):
    config = config_of("linear", source)
    config.num_epochs = 1.0
    train(config, str(folder / "run"))


def prepare(folder, source):
    describe.prepare(make_data(**source.settings), contact_sheet=str(folder / "sheet.png"))


OF_DATA = {
    "train": lambda folder, source: train(config_of("linear", source), str(folder / "another")),
    "resume": resume,
    "prepare": prepare,
    "evaluate": lambda folder, _: evaluate(str(folder / "run")),
    "finetune": lambda folder, _: finetune(str(folder / "run"), FineTuning(**FINETUNING)),
    "encode": lambda folder, _: encode(str(folder / "run"), "test", f"{folder}/new/codes.npz"),
    "denoise": lambda folder, _: denoise(str(folder / "run"), "test", f"{folder}/new/clean.npz"),
}


@pytest.mark.parametrize("verb", OF_DATA)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_bad_data_are_refused_by_every_verb_that_reads_them(verb, fault, spoilt):
    name, message = FAULTS[fault]
    folder, source = spoilt(fault, name)
    with refused(message, folder):
        OF_DATA[verb](folder, source)


@pytest.mark.parametrize("verb", [verb for verb in OF_DATA if verb not in ("train", "prepare")])
def test_other_data_than_the_runs_are_refused(verb, spoilt):
    folder, source = spoilt(other_data, "npz_vectors")
    message = "holds a run on other data" if verb == "resume" else "was trained on other data"
    with refused(message, folder):
        OF_DATA[verb](folder, source)


# What is wrong with a workdir, for every verb that reads one.

NO_RUNS = {
    "missing": lambda _: None,
    "empty": lambda place: place.mkdir(),
    "file": lambda place: place.write_text("no folder"),
    "broken": lambda place: (place.mkdir(), (place / workdir.CONFIG).write_text("{")),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_workdir_that_holds_no_run_is_named_by_every_verb(verb, tmp_path, inputs):
    (tmp_path / "runs").mkdir()
    for name, make in NO_RUNS.items():
        place = tmp_path / "runs" / name
        make(place)
        with refused(str(place), tmp_path):
            VERBS[verb].call(place, inputs, tmp_path / "new")


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("compare", "verify")])
def test_a_run_without_a_whole_checkpoint_is_refused_by_every_verb(verb, run_of, tmp_path, inputs):
    run = tmp_path / "run"
    shutil.copytree(run_of("vae", "npz_vectors"), run)
    for state in run.glob("checkpoints/*/state.npz"):
        state.write_bytes(b"")
    with refused("is whole; put one back from a copy", tmp_path):
        VERBS[verb].call(run, inputs, tmp_path / "new")
    shutil.rmtree(run / "checkpoints")
    with refused("holds no checkpoint", tmp_path):
        VERBS[verb].call(run, inputs, tmp_path / "new")
