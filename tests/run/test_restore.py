"""A trained model is read from its workdir, or what is wrong there is told."""

import json

import pytest

from trainer.errors import UserError
from trainer.evaluation.evaluate import evaluate
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
            whole = dict(run.inputs or {}) | inputs
        description = json.loads((tmp_path / workdir.CONFIG).read_text())
        atomic.write_json(tmp_path / workdir.CONFIG, description | {"inputs": whole})
        with pytest.raises(UserError, match="its inputs are none that a training writes") as told:
            restore.load_model(tmp_path)
        assert "\n" not in str(told.value), inputs
    train(digits_config, str(tmp_path))  # which notes them anew
    assert restore.load_model(tmp_path).step == 10


OTHER_VERSIONS: list[tuple[dict[str, object], str]] = [
    ({"data.since_then": 1}, "has a key data.since_then, of which configs/base.py knows none"),
    ({"data.image_size": None}, "has no data.image_size"),
    ({"data.fit": 3}, "data.fit=3 is not allowed; it takes a value of type str"),
    ({"model.since_then": 1}, "takes the keys"),
    ({"precision": None}, "there is no precision in it"),
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


def test_a_run_from_before_an_option_of_the_data_is_measured_as_it_was(digits_config, tmp_path):
    train(digits_config, str(tmp_path))
    description = json.loads((tmp_path / workdir.CONFIG).read_text())
    for name in ("memory_gib", "placement", "binarise"):
        del description["config"]["data"][name]
    atomic.write_json(tmp_path / workdir.CONFIG, description)
    assert evaluate(str(tmp_path))["step"] == 10
