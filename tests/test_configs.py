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
    lines = [
        line.strip()
        for line in Path(base.__file__).read_text().splitlines()
        if line.strip().startswith(("config.", "model."))
    ]
    assert all("  # " in line for line in lines if not line.endswith("= ConfigDict()"))
    commented = {line.split("#")[1] for line in lines if "#" in line}
    assert len(commented) >= len(list(keys(base.get_config())))
