import importlib
from pathlib import Path

import pytest

from configs import base
from tests.all_configs import CONFIGS, load_config
from trainer import models


def keys(tree, prefix=""):
    for key, value in tree.items():
        if hasattr(value, "items"):
            yield from keys(value, f"{prefix}{key}.")
        else:
            yield prefix + key


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_has_the_base_keys_and_those_of_its_kind(name):
    config = load_config(name)
    expected = base.get_config()
    expected.model = getattr(base, config.model.name)()
    assert set(keys(config)) == set(keys(expected))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_says_its_command_and_its_result(name):
    text = importlib.import_module(f"configs.{name}").__doc__ or ""
    assert f"--config=configs/{name}.py" in text
    assert "test mse" in text


def test_every_kind_has_a_config():
    assert {load_config(name).model.name for name in CONFIGS} == set(models.kinds())


def test_every_key_is_commented_once():
    lines = Path(base.__file__).read_text().splitlines()
    assigned = [line.split(" = ")[0].split(".", 1)[1] for line in lines if "  # " in line]
    expected = {key.removeprefix("model.") for name in CONFIGS for key in keys(load_config(name))}
    sections = {"model"}
    assert sorted(assigned) == sorted(expected | sections)


@pytest.mark.parametrize("section", [None, "model", "data", "optimizer"])
def test_a_misspelt_key_in_a_config_file_is_refused(section):
    config = base.get_config()
    with pytest.raises(AttributeError):
        (config[section] if section else config).num_epoch = 3.0
