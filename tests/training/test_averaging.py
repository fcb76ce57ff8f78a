"""A run that averages its weights trains as one that does not; what uses it gets the average."""

import keras
import numpy as np
import pytest

from tests.runs import assert_a_stop_changes_no_bit, final_state, logged
from trainer.distribution.inference import map_batches
from trainer.models.base import Autoencoder
from trainer.run import restore
from trainer.serving import export as exporting
from trainer.serving.export import export
from trainer.serving.stream import encode
from trainer.training.train import train

AVERAGE = "average/"


@pytest.mark.parametrize("key", ["decay", "last_share"])
def test_a_stop_changes_no_bit_of_the_average_and_an_average_none_of_the_weights(
    digits_config, digits_run, tmp_path, monkeypatch, key
):
    digits_config.averaging[key] = 0.6
    losses = assert_a_stop_changes_no_bit(digits_config, tmp_path, monkeypatch, calls=4, step=7)
    (_, plain), (_, state) = final_state(digits_run), final_state(tmp_path / "alone")
    averages = {path for path in state if path.startswith(AVERAGE)}
    assert {path.replace(AVERAGE, "model/") for path in averages} == {
        path for path in plain if path.startswith("model/")
    }
    assert state.keys() - plain.keys() == {*averages, "averaged_steps"}
    assert state["averaged_steps"] == (10 if key == "decay" else 6)
    for path, array in plain.items():
        assert state[path].tobytes() == array.tobytes(), path
    run = restore.load(tmp_path / "alone")
    images = run.dataset.validation.read()[0] / np.float32(255)
    error = np.mean(np.square(map_batches(run.model, images) - images))
    assert losses["loss"] == pytest.approx(error, rel=1e-5)
    assert losses["loss"] != pytest.approx(logged(digits_run)[-1]["loss"], rel=1e-3)


def test_a_longer_run_begins_its_uniform_average_anew(digits_config, tmp_path):
    digits_config.averaging.last_share = 0.4
    train(digits_config, str(tmp_path))
    assert final_state(tmp_path)[1]["averaged_steps"] == 4
    digits_config.num_epochs = 20 * 64 / 1366
    train(digits_config, str(tmp_path))
    assert final_state(tmp_path)[1]["averaged_steps"] == 8


def test_the_average_decides_whether_a_run_has_converged(digits_config, tmp_path, monkeypatch):
    digits_config.averaging.decay = 0.9
    seen: list[dict[str, np.ndarray]] = []

    def has_converged(model):
        seen.append({variable.path: variable.numpy() for variable in model.trainable_variables})
        return False

    monkeypatch.setattr(Autoencoder, "has_converged", has_converged)
    train(digits_config, str(tmp_path))
    _, state = final_state(tmp_path)
    for path, array in seen[-1].items():
        np.testing.assert_array_equal(array, state[AVERAGE + path])


def test_a_trained_model_an_export_and_encode_hold_the_average(
    digits_config, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    digits_config.averaging.decay = 0.9
    train(digits_config, str(run))
    last = final_state(run)[1]
    model = restore.load_model(run).model
    for variable in model.variables:
        average = last[AVERAGE + variable.path]
        assert variable.numpy().tobytes() == average.tobytes()
        assert not np.array_equal(average, last[f"model/{variable.path}"])
    monkeypatch.setattr(exporting, "compare", lambda *_: {"keras": {"encode": 0.0}})
    export(str(run), str(tmp_path / "export"), formats=["keras"])
    encode(str(run), "test", str(tmp_path / "codes.npy"))
    codes = np.load(tmp_path / "codes.npy")
    images = restore.load(run).dataset.test.read()[0]
    np.testing.assert_allclose(
        map_batches(model.encode, images / np.float32(255)), codes, rtol=1e-5, atol=1e-5
    )
    encoder = keras.models.load_model(next((tmp_path / "export").glob("encoder*.keras")))
    np.testing.assert_allclose(encoder(images).numpy(), codes, rtol=1e-4, atol=1e-4)
