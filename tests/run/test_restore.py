"""A trained model is restored from its workdir, or the fault there is named."""

import json

import pytest

from trainer.errors import UserError
from trainer.run import restore, workdir
from trainer.storage import atomic
from trainer.train import train

MALFORMED = [
    *({}, [], 5, {"image_shape": None}, {"image_shape": []}, {"image_shape": ["8", 8, 1]}),
    *({"image_shape": [8, 8]}, {"image_shape": [-8, 8, 1]}, {"image_shape": [8.0, 8, 1]}),
    *({"mean": [0.0]}, {"mean": 0.0, "std": [1.0]}, {"fill": ["a"]}, {"fill": {}}),
    *({"feature_names": 5}, {"feature_names": ["a"]}, {"mean": None, "std": None}),
]


def test_malformed_inputs_are_refused_in_one_line(digits_config, tmp_path):
    train(digits_config, str(tmp_path))
    run = workdir.read(tmp_path)
    for inputs in MALFORMED:
        whole = inputs
        if inputs and isinstance(inputs, dict):
            whole = dict(run.inputs) | inputs
        description = json.loads((tmp_path / workdir.CONFIG).read_text())
        atomic.write_json(tmp_path / workdir.CONFIG, description | {"inputs": whole})
        with pytest.raises(UserError, match=r"config\.json (is damaged|cannot be read)") as told:
            restore.load_model(tmp_path)
        assert "\n" not in str(told.value), inputs


OTHER_VERSIONS: list[tuple[dict[str, object], str]] = [
    ({"data.since_then": 1}, "has a key data.since_then that is not known"),
    ({"data.image_size": None}, "has no data.image_size"),
    ({"data.fit": 3}, "data.fit=3 is not allowed"),
    ({"model.since_then": 1}, "has a key model.since_then that is not known"),
    ({"precision": None}, "has no precision"),
    ({"seed": "0"}, "seed='0' is not allowed"),
]


def test_a_config_of_another_version_is_refused_with_the_file_that_holds_it(
    digits_config, tmp_path
):
    train(digits_config, str(tmp_path))
    path = tmp_path / workdir.CONFIG
    whole = path.read_text()
    for changes, message in OTHER_VERSIONS:
        description = json.loads(whole)
        for key, value in changes.items():
            *groups, name = key.split(".")
            section = description["config"]
            for group in groups:
                section = section[group]
            section.pop(name, None)
            section |= {} if value is None else {name: value}
        atomic.write_json(path, description)
        with pytest.raises(UserError) as error:
            restore.load(tmp_path)
        told = str(error.value)
        assert told.startswith(f"{path} is damaged or of another version: "), changes
        assert message in told, changes
    for damaged in ("[" * 10**5, "{", '{"config": 5}'):
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"config\.json cannot be read"):
            restore.load_model(tmp_path)
