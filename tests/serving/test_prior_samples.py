"""Images drawn from a prior: the same however many are drawn at a time, and no more than fit."""

import numpy as np
import pytest

from configs import base
from tests.storage.test_atomic import full
from trainer.errors import UserError
from trainer.positions import Noise
from trainer.run import restore, workdir
from trainer.serving import prior_samples, writers
from trainer.serving.prior_samples import sample
from trainer.train import train


@pytest.fixture
def run(digits_config, tmp_path):
    digits_config.model = base.vae()
    digits_config.model.update({"code_size": 3, "hidden_units": (8,)})
    digits_config.num_epochs = 1e-6
    train(digits_config, str(tmp_path / "run"))
    return str(tmp_path / "run")


def test_images_are_those_of_their_positions_however_many_are_drawn_at_a_time(
    run, tmp_path, monkeypatch
):
    whole = np.load(sample(run, 40, output=str(tmp_path / "whole")) / "samples.npz")
    monkeypatch.setattr(prior_samples, "_AT_A_TIME", 16)
    monkeypatch.setattr(prior_samples, "_MOST_SHOWN", 4)
    parts = np.load(sample(run, 40, output=str(tmp_path / "parts")) / "samples.npz")
    model = restore.load_model(run).model
    codes = model.prior_codes(
        Noise(workdir.read(tmp_path / "run").config.seed, 0, 40, "evaluation")
    )
    for drawn in (whole, parts):
        np.testing.assert_array_equal(drawn["codes"], codes)
    np.testing.assert_allclose(parts["images"], whole["images"], rtol=1e-6)


@pytest.mark.parametrize("count", [10**12, 10**300])
def test_more_images_than_the_disk_has_room_for_are_refused_in_one_line(run, tmp_path, count):
    with pytest.raises(UserError, match=rf"n={count} is not allowed: it takes .* MiB, of which"):
        sample(run, count, output=str(tmp_path / "new" / "drawn"))
    assert not (tmp_path / "new").exists()


def test_a_disk_that_is_full_on_the_way_gets_one_line_and_keeps_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setattr(prior_samples, "_AT_A_TIME", 3)
    original, written = writers._GrowingArray.append, []

    def append(self, rows):
        written.append(len(rows))
        if len(written) > 2:
            full()
        original(self, rows)

    monkeypatch.setattr(writers._GrowingArray, "append", append)
    with pytest.raises(UserError, match="cannot be written: No space left"):
        sample(run, 8, output=str(tmp_path / "drawn"))
    assert written == [3, 3, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
