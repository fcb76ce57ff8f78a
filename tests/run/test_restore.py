"""A trained model is restored from its workdir, or the fault there is named."""

import json
import shutil

import numpy as np
import pytest

from trainer.config import load_config
from trainer.errors import UserError
from trainer.run import restore, workdir
from trainer.training.train import train

MALFORMED = [
    *({}, [], 5, {"image_shape": None}, {"image_shape": []}, {"image_shape": ["8", 8, 1]}),
    *({"image_shape": [8, 8]}, {"image_shape": [-8, 8, 1]}, {"image_shape": [8.0, 8, 1]}),
    *({"mean": [0.0]}, {"mean": 0.0, "std": [1.0]}, {"fill": ["a"]}, {"fill": {}}),
    *({"feature_names": 5}, {"feature_names": ["a"]}, {"mean": None, "std": None}),
]


@pytest.fixture
def run(digits_run, tmp_path):
    return shutil.copytree(digits_run, tmp_path / "run")


def test_malformed_inputs_are_refused_in_one_line(run):
    path = run / workdir.CONFIG
    description = json.loads(path.read_text())
    for inputs in MALFORMED:
        whole = inputs
        if inputs and isinstance(inputs, dict):
            whole = description["inputs"] | inputs
        path.write_text(json.dumps(description | {"inputs": whole}))
        with pytest.raises(UserError, match=r"^.*config\.json (is damaged|cannot be read).*$"):
            restore.load_model(run)


def test_a_config_of_another_version_is_refused_with_the_file_that_holds_it(run):
    path = run / workdir.CONFIG
    description = json.loads(path.read_text())
    lacking = r"lacks model.hidden_units; add it .* \(the default is \[128, 64\]\)$"
    for group, key, value, message in (
        ("data", "since_then", 1, "'data.since_then' is not a key of the config; .*allowed: "),
        ("model", "hidden_units", None, lacking),
        ("data", "fit", 3, "data.fit=3 is not allowed"),
    ):
        section = {k: v for k, v in description["config"][group].items() if k != key}
        section |= {} if value is None else {key: value}
        changed = description | {"config": description["config"] | {group: section}}
        path.write_text(json.dumps(changed))
        line = f"{path} is damaged, of another version, or of a kind that is not installed: "
        with pytest.raises(UserError, match=f"^{line}.*{message}"):
            restore.load(run)
    for damaged in ("[" * 10**5, "{", '{"config": 5}'):
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"config\.json cannot be read"):
            restore.load_model(run)


def test_data_are_found_from_another_folder_and_where_they_moved(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path)
    np.save("own/rows.npy", np.random.default_rng(0).random((20, 3)))
    config = load_config("linear")
    config.data.name, config.model.code_size, config.quiet = "arrays:own/rows.npy", 2, True
    config.num_epochs = 1e-6
    train(config, "runs/a")
    assert str(tmp_path) not in (tmp_path / "runs/a/config.json").read_text()
    monkeypatch.chdir("/")
    run = tmp_path / "runs" / "a"
    before = restore.load(run).dataset.fingerprint()
    (tmp_path / "own").rename(tmp_path / "moved")
    with pytest.raises(UserError, match="give their new place with --data"):
        restore.load(run)
    for moved_to in (f"{tmp_path}/moved/rows.npy", f"arrays:{tmp_path}/moved/rows.npy"):
        assert restore.load(run, data_name=moved_to).dataset.fingerprint() == before
    with pytest.raises(UserError, match="arrays:PATH"):
        restore.load(run, data_name="digits")
    moved = workdir.config_of(run, f"{tmp_path}/moved/rows.npy")
    assert moved.data.name == f"arrays:{tmp_path}/moved/rows.npy"
