"""Samples of a prior: the same however many are drawn at a time, and no more than fit the disk."""

from pathlib import Path

import numpy as np
import pytest

from tests.verbs.refusals import refused
from tests.verbs.sources import SIDE, Source, config_of
from trainer.errors import StorageError
from trainer.positions import Noise
from trainer.run import restore, workdir
from trainer.serving.prior_samples import sample
from trainer.training.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae") / "run"
    source = Source({"name": "digits", "image_size": SIDE}, (SIDE, SIDE, 1), True, "")
    train(config_of("vae", source), str(folder))
    return str(folder)


def test_samples_are_those_of_their_positions(run, tmp_path):
    seed = workdir.read(Path(run)).config.seed
    few, many = (
        np.load(sample(run, n, output=f"{tmp_path}/{n}") / "samples.npz") for n in (9, 600)
    )
    codes = restore.load_model(run).model.prior_codes(Noise(seed, 0, 600, "evaluation"))
    assert codes is not None
    np.testing.assert_array_equal(many["codes"], codes)
    for name in ("codes", "images"):
        np.testing.assert_allclose(few[name], many[name][:9], rtol=1e-5)
    assert many["images"].shape == (600, SIDE, SIDE, 1)
    assert many["images"].dtype == np.float32
    assert 0 <= many["images"].min() < many["images"].max() <= 1
    assert many["codes"].std() == pytest.approx(1, abs=0.1)


def test_more_samples_than_the_disk_has_room_for_are_refused_in_one_line(run, tmp_path):
    for count in (10**12, 10**400):
        with refused(f"n={count} samples cannot be written", tmp_path, kind=StorageError):
            sample(run, count, output=str(tmp_path / "new" / "samples"))
