"""Bad data and a bad workdir are refused by every verb, in one line."""

import shutil

import numpy as np
import pytest

from tests.verbs.refusals import refused
from tests.verbs.sources import FINETUNING, SOURCES, classes, config_of, vectors
from tests.verbs.verbs import VERBS
from trainer.config import make_data
from trainer.data import describe
from trainer.errors import UserError
from trainer.evaluation.evaluate import evaluate
from trainer.evaluation.finetuning import finetune
from trainer.evaluation.finetuning_options import FineTuning
from trainer.run import workdir
from trainer.serving.stream import denoise, encode
from trainer.training.train import train

# What is wrong with data, for every verb that reads a run's own; tests/data has more faults.


def unreadable_image(folder):
    (folder / "own" / "03.png").write_bytes(b"no image")


def missing_file(folder):
    (folder / "own.csv").unlink()


def other_width(folder):
    np.savez(folder / "own.npz", train=vectors(), test=vectors()[:, :4])


def other_data(folder):
    np.savez(folder / "own.npz", train=vectors(seed=7), train_labels=classes())


FAULTS = [  # what is done to which source, and the line
    (unreadable_image, "grey_images", "03.png: cannot identify image file"),
    (missing_file, "csv", "own.csv cannot be read: No such file or directory"),
    (other_width, "npz_vectors", "has rows of 4 numbers"),
    (other_data, "npz_vectors", "on other data"),  # than the run's
]


def resume(folder, source):
    config = config_of("linear", source)
    config.num_epochs = 1.0
    train(config, str(folder / "run"))


def prepare(folder, source):
    describe.prepare(make_data(**source.settings), contact_sheet=str(folder / "sheet.png"))


OF_DATA = {
    "train": lambda folder, source: train(config_of("linear", source), str(folder / "another")),
    "prepare": prepare,
    "resume": resume,
    "evaluate": lambda folder, _: evaluate(str(folder / "run")),
    "finetune": lambda folder, _: finetune(str(folder / "run"), FineTuning(**FINETUNING)),
    "encode": lambda folder, _: encode(str(folder / "run"), "test", f"{folder}/new/codes.npz"),
    "denoise": lambda folder, _: denoise(str(folder / "run"), "test", f"{folder}/new/clean.npz"),
}


@pytest.mark.parametrize(("fault", "name", "line"), FAULTS)
def test_bad_data_are_refused_by_every_verb_that_reads_them(fault, name, line, tmp_path):
    source = SOURCES[name](tmp_path)
    train(config_of("linear", source), str(tmp_path / "run"))
    fault(tmp_path)
    if fault is unreadable_image:
        with pytest.raises(UserError):
            prepare(tmp_path, source)  # decodes the others, once
    for verb, call in OF_DATA.items():
        if fault is not other_data or verb not in ("train", "prepare"):
            with refused(line, tmp_path):
                call(tmp_path, source)


# What is wrong with a workdir, for every verb that reads one.

NO_RUNS = {
    "missing": lambda _: None,
    "empty": lambda place: place.mkdir(),
    "file": lambda place: place.write_text("no folder"),
    "broken": lambda place: (place.mkdir(), (place / workdir.CONFIG).write_text("{")),
}


@pytest.mark.parametrize("name", NO_RUNS)
def test_a_workdir_that_holds_no_run_is_named_by_every_verb(name, tmp_path, inputs):
    place = tmp_path / name
    NO_RUNS[name](place)
    for verb in VERBS.values():
        with refused(str(place), tmp_path):
            verb.call(place, inputs, tmp_path / "new")


def test_a_run_without_a_whole_checkpoint_is_refused_by_every_verb(home, tmp_path, inputs):
    run = tmp_path / "run"
    shutil.copytree(home / "run", run)
    for state in run.glob("checkpoints/*/state.npz"):
        state.write_bytes(b"")
    for line in ("is whole; put one back from a copy", "holds no checkpoint"):
        for name, verb in VERBS.items():
            if name not in ("compare", "verify"):
                with refused(line, tmp_path):
                    verb.call(run, inputs, tmp_path / "new")
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
