import importlib

import pytest

from configs import base
from tests.all_configs import CONFIGS, KINDS, load_config
from trainer.config import defaults, flat, parse


def test_a_config_has_the_keys_of_its_kind_and_says_its_command_and_its_result():
    for name in CONFIGS:
        config = load_config(name)
        assert flat(config.to_dict()).keys() == flat(defaults(config.model.name).to_dict()).keys()
        assert parse(config)
        text = importlib.import_module(f"configs.{name}").__doc__ or ""
        assert f"--config=configs/{name}.py" in text
        assert "test mse" in text, name


def test_every_kind_has_a_config():
    assert {load_config(name).model.name for name in CONFIGS} == set(KINDS)


def test_a_misspelt_key_in_a_config_file_is_refused():
    config = base.get_config()
    for group in (config, config.model, config.data, config.optimizer):
        with pytest.raises(AttributeError):
            group.num_epoch = 3.0
