"""Whatever a config holds, it is taken, or refused in one line before anything is written."""

import pytest
from hypothesis import strategies as st

from tests.all_configs import CONFIG_OF, load_config
from tests.hostile.corpus import TEXTS, assert_one_line, few_or_many, try_many
from trainer.config import Data, flat, keys, source_settings
from trainer.distribution.step import Steps
from trainer.errors import UserError
from trainer.training.train import train

NUMBERS = st.sampled_from(
    [
        *(-1, 0, 1, 2, 3, 10**12, 2**63, 10**30, 0.0, -0.5, 0.5, 1.5, 1e-320, 1e300),
        *(float("nan"), float("inf"), float("-inf"), True, False, None),
    ]
)
VALUES = NUMBERS | TEXTS | st.lists(NUMBERS | TEXTS, max_size=3).map(tuple)
DEADLINE_SECONDS = 30  # TensorFlow waits for memory for ten, before it says that there is none


class BegunError(Exception):
    """A training would take its first step."""


def tiny_config(name):
    config = load_config(name)
    config.data.update({"name": "digits", "resplit_test": 0.0, "image_size": 8})
    config.num_epochs = 1e-6
    config.batch_size = 16
    config.execution = "graph"
    config.quiet = True
    for key, value in config.model.items():  # as small as they go
        if type(value) is int:
            config.model[key] = 16 if key == "code_size" else 4
        elif isinstance(value, tuple):
            config.model[key] = tuple(4 for _ in value)
    return config


CHANGES = [(name, key) for name in CONFIG_OF.values() for key in flat(tiny_config(name).to_dict())]

OF_OTHER_SOURCES = [
    ("drop", f"data.{key}")
    for group in source_settings().values()
    for key in keys(group).keys() - keys(Data).keys()
]


def change(config, key, what):
    """Gives a dotted key a value, of whatever kind; takes it away; or adds one beside it."""
    *groups, last = key.split(".")
    for group in groups:
        config = config[group]
    how, value = what
    with config.unlocked(), config.ignore_type():
        if how == "set":
            config[last] = value
        elif how == "drop":
            del config[last]
        else:
            config[f"{last}_of_mine"] = value


@pytest.fixture(autouse=True)
def begun(monkeypatch):
    """Has every training end where its first step would be."""

    def begin(*_):
        raise BegunError

    monkeypatch.setattr(Steps, "train", begin)


@pytest.mark.faults
@pytest.mark.parametrize("name", CONFIG_OF.values())
def test_what_is_changed_below_is_right_before(tmp_path, name):
    with pytest.raises(BegunError):
        train(tiny_config(name), str(tmp_path / "run"))


@few_or_many(400)
def test_any_value_of_any_key_is_taken_or_refused_in_one_line(tmp_path, monkeypatch, examples):
    monkeypatch.chdir(tmp_path)
    what = st.tuples(st.sampled_from(["set"] * 8 + ["drop", "add"]), VALUES)
    begun = set()

    def meet(drawn):
        (name, key), (how, value) = drawn
        config = tiny_config(name)
        try:
            change(config, key, (how, value))
        except (TypeError, ValueError):  # ml_collections tells them where the config is made
            return
        try:
            train(config, "run")
        except BegunError:
            assert how == "set" or (how, key) in OF_OTHER_SOURCES, f"{key} {how}"
            begun.add(name)
        except UserError as error:
            assert_one_line(str(error))
            assert list(tmp_path.iterdir()) == []
        for path in sorted(tmp_path.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()

    meet((("linear", "seed"), ("set", 3)))
    assert begun == {"linear"}
    try_many(examples, st.tuples(st.sampled_from(CHANGES), what), meet, DEADLINE_SECONDS)


@pytest.mark.parametrize("size", [10**12, 2**63 - 1])
@pytest.mark.parametrize(
    ("name", "key"), [("dense", "hidden_units"), ("conv", "filters"), ("vae", "code_size")]
)
def test_a_model_of_absurd_size_is_refused_before_it_is_built(tmp_path, name, key, size):
    config = tiny_config(name)
    config.model[key] = (size,) if isinstance(config.model[key], tuple) else size
    with pytest.raises(UserError, match=r"a model of at least .* parameters, .* GiB of memory; "):
        train(config, str(tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []
