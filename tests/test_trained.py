"""A trained model is read from its workdir, or what is wrong there is told."""

import json

import pytest

from trainer import files, trained, workdir
from trainer.errors import UserError
from trainer.train import train

MALFORMED = [
    *({}, [], 5, {"image_shape": None}, {"image_shape": []}, {"image_shape": ["8", 8, 1]}),
    *({"image_shape": [8, 8]}, {"image_shape": [-8, 8, 1]}, {"image_shape": [8.0, 8, 1]}),
    *({"mean": [0.0]}, {"mean": 0.0, "deviation": [1.0]}, {"fill": ["a"]}, {"fill": {}}),
    *({"feature_names": 5}, {"feature_names": ["a"]}, {"mean": None, "deviation": None}),
]


def test_malformed_inputs_are_refused_in_one_line(digits_config, tmp_path):
    train(digits_config, str(tmp_path))
    run = workdir.read(tmp_path)
    for inputs in MALFORMED:
        whole = inputs
        if inputs and isinstance(inputs, dict):
            whole = dict(run.inputs or {}) | inputs
        description = json.loads((tmp_path / workdir.CONFIG).read_text())
        files.write_json(tmp_path / workdir.CONFIG, description | {"inputs": whole})
        with pytest.raises(UserError, match="its inputs are none that a training writes") as told:
            trained.load_model(tmp_path)
        assert "\n" not in str(told.value), inputs
    train(digits_config, str(tmp_path))  # which notes them anew
    assert trained.load_model(tmp_path).step == 10
