"""The schema of the config: what is taken, what is refused, and what a resume may change."""

import dataclasses
import importlib
import json
import sys
import typing
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from docs import configuration
from tests.hostile.corpus import assert_one_line
from trainer import models
from trainer.config import (
    EXECUTIONS,
    Augment,
    Averaging,
    Config,
    LossSpikes,
    Optimizer,
    Pretrain,
    Stop,
    defaults,
    defaults_of,
    differences,
    flat,
    hyperparameters,
    keys,
    kind_settings,
    kinds,
    parse,
    require_key,
    source_settings,
)
from trainer.distribution import optimizers, strategy
from trainer.errors import UserError, printable
from trainer.models.settings import ACTIVATIONS

NAME_OF = {
    source: importlib.import_module(f"trainer.data.sources.{source}").EXAMPLE
    for source in source_settings()
}
FEW = settings(max_examples=100, deadline=None, derandomize=True, database=None)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9)


def config_of(kind="dense", source="digits"):
    config = defaults(kind)
    config.data.name = NAME_OF[source]
    return config


def groups(kind, source):
    """The groups of a config's keys, by their prefix."""
    return {
        "": Config,
        "optimizer.": Optimizer,
        "averaging.": Averaging,
        "spikes.": LossSpikes,
        "stop.": Stop,
        "augment.": Augment,
        "pretrain.": Pretrain,
        "data.": source_settings()[source],
        "model.": kind_settings(kind),
    }


def keys_of(kind, source):
    """The type and the `Key` of each key, by its dotted name."""
    return {
        prefix + name: known
        for prefix, group in groups(kind, source).items()
        for name, known in keys(group).items()
    }


def changed(config, changes):
    """A copy of a config as nested dicts, with other values of dotted keys."""
    tree = json.loads(json.dumps(config.to_dict()))
    for name, value in changes.items():
        group, _, last = name.rpartition(".")
        (tree[group] if group else tree)[last] = value
    return tree


PAIRS = [*((kind, "digits") for kind in kinds()), *(("dense", source) for source in NAME_OF)]
ALL_KEYS = [(kind, source, name) for kind, source in PAIRS for name in keys_of(kind, source)]
NAMED = (  # whose values have a meaning of their own
    *("data.name", "model.name", "strategy", "profile"),
    *("optimizer.boundaries_epochs", "optimizer.boundary_factors"),
)


def limits(kind, key):
    lowest = key.at_least if key.at_least is not None else key.above
    highest = key.at_most if key.at_most is not None else key.below
    return lowest, highest if kind is float or highest is not None else 2**63 - 1


def possible(kind, key):
    """Values of a key's type and within its range."""
    if key.choices:
        return st.sampled_from(key.choices)
    if kind in (bool, str):
        return st.booleans() if kind is bool else TEXTS
    if kind is float:
        return st.floats(
            *limits(kind, key),
            exclude_min=key.above is not None,
            exclude_max=key.below is not None,
            allow_nan=False,
            allow_infinity=False,
        )
    if typing.get_args(kind)[:1] == (str,):
        return st.lists(st.uuids().map(str), max_size=2).map(tuple)  # no column is named twice
    numbers = st.integers(*limits(kind, key))
    return st.lists(numbers, max_size=4).map(tuple) if typing.get_origin(kind) else numbers


def impossible(kind, key):
    """Values of another type, out of the range or not among the choices."""
    others: list[Any] = [None, {}, ["a"]]
    if kind is bool:
        return st.sampled_from([*others, 0, 1, "true"])
    if kind is str:
        texts = TEXTS.filter(lambda text: text not in key.choices) if key.choices else st.nothing()
        return st.sampled_from([*others, 5, True, "a\0b"]) | texts
    if typing.get_args(kind)[:1] == (str,):
        return st.sampled_from([None, {}, 5, "a", (5,), ("a", None), ("a\0b",)])
    if typing.get_args(kind)[:1] == (float,):
        return st.sampled_from([*others, 5.0, "5", (-1.0, 2.0), (-1,), (True,), ("a",)])
    if typing.get_origin(kind):
        return st.sampled_from([*others, 5, "5", (0,), (-1, 2), (1.5,), (True,), (2**63,)])
    others += [1.5] if kind is int else [float("nan"), float("inf"), 10**400]
    outside = [st.sampled_from([*others, "1", True])]
    if key.choices:
        outside += [st.integers().filter(lambda number: number not in key.choices)]
    number = st.integers if kind is int else st.floats
    lowest, highest = limits(kind, key)
    if lowest is not None:
        below = number(max_value=lowest)
        outside += [below.filter(lambda n: n < lowest or key.above is not None)]
    if highest is not None:
        above = number(min_value=highest)
        outside += [above.filter(lambda n: n > highest or key.below is not None)]
    return st.one_of(outside)


@settings(FEW, max_examples=50)
@given(data=st.data())
def test_any_config_within_its_ranges_is_taken(data):
    kind, source = data.draw(st.sampled_from(kinds())), data.draw(st.sampled_from(sorted(NAME_OF)))
    drawn = {}
    for prefix, group in groups(kind, source).items():
        drawn[prefix] = {
            name: data.draw(st.just(default) | possible(*keys(group)[name]))
            for name, default in defaults_of(group).items()
            if prefix + name not in NAMED
        }
    drawn["data."]["name"], drawn["model."]["name"] = NAME_OF[source], kind
    if not (module := importlib.import_module(f"trainer.data.sources.{source}")).RESIZES:
        drawn["data."]["image_size"] = 0
    if not module.STAYS_IN_FILES:
        drawn["data."]["placement"] = "auto"
    drawn[""] |= {"strategy": "cpu:2", "profile": "3:5"}
    if drawn["optimizer."]["name"] != "sgd":
        drawn["optimizer."]["momentum"] = 0.0
    if kind != "dense":
        drawn["pretrain."]["epochs_per_layer"] = 0.0
    made = {
        prefix.removesuffix("."): group(**drawn[prefix])
        for prefix, group in groups(kind, source).items()
        if prefix
    }
    config = Config(**drawn[""], **made)
    try:
        for group in (config, *made.values()):
            group.check()
    except UserError:
        assume(False)
    assert parse(config.to_dict()) == config
    assert parse(json.loads(json.dumps(config.to_dict()))) == config


@FEW
@given(data=st.data())
def test_one_bad_value_of_any_key_is_refused_with_the_key_and_the_value(data):
    kind, source, name = data.draw(st.sampled_from(ALL_KEYS))
    bad = data.draw(impossible(*keys_of(kind, source)[name]))
    with pytest.raises(UserError) as error:
        parse(changed(config_of(kind, source), {name: bad}))
    line = str(error.value)
    assert_one_line(line)
    assert f"{name}=" in line
    shown = {printable(repr(bad))}
    if type(bad) in (int, float) and abs(bad) < sys.float_info.max:
        shown.add(str(float(bad)))  # of a float key
    if isinstance(bad, tuple) and all(type(number) in (int, float) for number in bad):
        shown.add(str(tuple(map(float, bad))))
    assert any(value in line for value in shown)


def test_a_key_that_is_missing_or_not_known_is_named():
    for prefix, group in groups("dense", "digits").items():
        name = next(iter(keys(group)))
        tree = changed(config_of(), {})
        del (tree[prefix[:-1]] if prefix else tree)[name]
        with pytest.raises(UserError, match=rf"the config lacks {prefix}{name}"):
            parse(tree)
        with pytest.raises(
            UserError,
            match=rf"'{prefix}mine' is not a key of the config; (did you mean .*)?allowed: \w",
        ):
            parse(changed(config_of(), {f"{prefix}mine": 1}))


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("model.los", "did you mean 'model.loss'? allowed: code_size, hidden_units, loss"),
        ("modle.loss", "did you mean 'model.loss'? allowed: model.KEY, stop.KEY, seed"),
        ("patience", "did you mean 'stop.patience'? allowed: seed"),
        ("model.xyz", "allowed: code_size, hidden_units, loss"),
        (3, "allowed: seed"),
    ],
)
def test_a_wrong_key_gets_a_close_one_and_the_keys_of_its_group(key, line):
    known = ["model.code_size", "model.hidden_units", "model.loss", "stop.patience", "seed"]
    with pytest.raises(UserError) as error:
        require_key(key, known)
    assert str(error.value) == f"{key!r} is not a key of the config; {line}"


OF_A_KIND: dict[str, list[dict[str, Any]]] = {
    "contractive": [
        {"jacobian": "closed_form", "code_activation": "sigmoid"},
        {"jacobian": "closed_form", "hidden_units": ()},
    ],
    "concrete": [{"first_temperature": 0.001}],
    "deep_conv": [{"stage_filters": ()}],
    "denoising": [{"layer_sizes": ()}],
    "dense": [
        {"loss": "bce", "output_activation": "linear"},
        {"start": "pca", "output_activation": "sigmoid"},
    ],
    "sparse": [
        *({"active_units": 101}, {"first_active_units": 1001}, {"sparsity": "kl"}),
        *({"alpha": 0.9}, {"alpha": 40.1}, {"sparsity": "batch_topk", "alpha": 3.0}),
    ],
    "vae": [
        *({"likelihood": "gaussian"}, {"binarisation": "static"}),
        *({"objective": "iwae", "beta": 0.5}, {"objective": "iwae", "beta_warmup_share": 0.5}),
    ],
}
OF_A_SOURCE = [
    *(("digits", "placement", "records"), ("digits", "fit", "crop"), ("digits", "impute", "mean")),
    *(("images", "fit", "crop"), ("memory", "image_size", 8)),  # a crop needs data.image_size
]
TWO_BOUNDARIES = {"schedule": "step", "boundaries_epochs": (1.0, 4.5), "boundary_factors": (0.5, 0)}
SCHEDULES: list[dict[str, Any]] = [
    *({"schedule": "constant", "final_share": 0.1}, {"schedule": "step", "final_share": 0.1}),
    *({"schedule": "exponential", "final_share": 0.0}, {"boundaries_epochs": (1.0,)}),
    *({"boundary_factors": (0.5,)}, {"schedule": "step"}),
    *({"boundaries_epochs": (float("nan"),)}, {"boundaries_epochs": (float("inf"),)}),
]
OF_STEPS: list[dict[str, Any]] = [{"boundary_factors": (0.5,)}, {"boundaries_epochs": (4.5, 4.5)}]
OTHERS: list[dict[str, Any]] = [
    *({"batch_size": 0}, {"num_epochs": 0.0}),
    *({"spikes.loss_ratio": 1.0}, {"profile": "7:7"}, {"profile": "x"}, {"strategy": "cpu:0"}),
    *({"averaging.decay": 0.9, "averaging.last_share": 0.5}, {"optimizer.momentum": 0.9}),
    *({"strategy": "gpu"}, {"strategy": "cpu:x"}, {"strategy": "mirrored:2"}),
    *({"data": 5}, {"optimizer": "adam"}, {"model": None}),
]


def test_keys_that_contradict_each_other_are_named():
    contradictions = [(config_of(), changes) for changes in OTHERS]
    contradictions += [(config_of("vae"), {"data.binarise": True})]
    for schedule in SCHEDULES:
        contradictions += [(config_of(), {f"optimizer.{k}": v for k, v in schedule.items()})]
    for steps in OF_STEPS:
        stepping = config_of()
        stepping.optimizer.update(TWO_BOUNDARIES)
        contradictions += [(stepping, {f"optimizer.{k}": v for k, v in steps.items()})]
    contradictions += [(config_of("dense", of), {f"data.{k}": v}) for of, k, v in OF_A_SOURCE]
    for kind, some in OF_A_KIND.items():
        contradictions += [
            (config_of(kind), {f"model.{key}": changes[key] for key in changes}) for changes in some
        ]
    for config, changes in contradictions:
        with pytest.raises(UserError) as error:
            parse(changed(config, changes))
        assert_one_line(str(error.value))
        assert all(name in str(error.value) for name in changes), changes


def test_what_contradictions_leave_is_taken():
    parse(changed(config_of("sparse"), {"model.sparsity": "l1", "model.active_units": 101}))
    parse(changed(config_of("sparse"), {"model.alpha": 40}))
    steps = {f"optimizer.{key}": value for key, value in TWO_BOUNDARIES.items()}
    assert parse(changed(config_of(), steps)).optimizer.boundary_factors == (0.5, 0.0)
    parse(changed(config_of(), {"optimizer.schedule": "linear", "optimizer.final_share": 0.1}))
    parse(changed(config_of("vae"), {"data.binarise": True, "model.binarisation": "static"}))
    parse(changed(config_of("dense", "images"), {"data.fit": "crop", "data.image_size": 8}))
    parse(changed(config_of("dense", "table"), {"data.impute": "mean"}))


def test_a_resume_may_change_length_cadence_devices_and_where_the_data_lie():
    before = parse(config_of("dense", "images"))
    free = {
        *("num_epochs", "strategy", "startup_timeout_seconds", "profile", "steps_per_call"),
        *("log_every_steps", "validate_every_steps", "checkpoint_every_steps", "keep_checkpoints"),
        *("stop.patience_validations", "stop.min_delta", "checkpoint"),
        *("histograms", "figures", "tensorboard", "quiet", "data.placement", "data.memory_gib"),
        *("data.cache_dir", "spikes.loss_ratio", "spikes.skip_steps", "spikes.max_rollbacks"),
    }
    known = keys_of("dense", "images")
    assert {name for name in known if known[name][1].may_change} == free
    other = {"num_epochs": 3.0, "log_every_steps": 7, "data.name": "images:elsewhere"}
    assert differences(before, parse(changed(before, other))) == {}
    other |= {"batch_size": 64, "optimizer.name": "sgd", "model.hidden_units": (8,)}
    assert differences(before, parse(changed(before, other))) == {
        "batch_size": (128, 64),
        "model.hidden_units": ((128, 64), (8,)),
        "optimizer.name": ("adam", "sgd"),
    }


def test_of_another_kind_or_source_the_name_is_the_difference():
    before = parse(config_of("dense", "digits"))
    assert differences(before, parse(config_of("vae", "table"))) == {
        "data.name": ("digits", NAME_OF["table"]),
        "model.name": ("dense", "vae"),
    }
    noise = parse(changed(config_of(), {"data.name": "noise:10"}))
    assert differences(parse(config_of("dense", "noise")), noise).keys() == {"data.name"}


def test_hyperparameters_are_what_the_weights_depend_on():
    config = parse(config_of("linear"))
    left_out = flat(config.to_dict()).keys() - hyperparameters(config).keys()
    assert {"num_epochs", "spikes.loss_ratio", "model.code_size"} <= hyperparameters(config).keys()
    assert {"quiet", "strategy", "data.placement", "log_every_steps"} <= left_out


def test_the_values_are_typed():
    config = parse(changed(config_of(), {"num_epochs": 3, "model.hidden_units": [8, 4]}))
    assert type(config.num_epochs) is float
    assert config.to_dict()["model"]["hidden_units"] == (8, 4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1  # type: ignore[misc]


def test_a_choice_is_one_that_tensorflow_and_keras_know():
    for name in ACTIVATIONS:
        assert keras.activations.get(name)(np.zeros((2, 4), np.float32)).shape == (2, 4)
    for name in keys(Optimizer)["name"][1].choices:
        assert optimizers.create(Optimizer(name=name)).name.lower() == name
    assert keys(Config)["precision"][1].choices == strategy.PRECISIONS
    assert keys(Config)["execution"][1].choices == ("auto", "measure", *EXECUTIONS)
    assert set(NAME_OF) == set(source_settings())


def test_the_documented_tables_are_current():
    page = configuration.page()
    assert configuration.PAGE.read_text() == page, "renew it by python -m docs.configuration"


def test_a_kind_is_a_package_and_nothing_more(tmp_path, monkeypatch):
    (tmp_path / "cubist").mkdir()
    (tmp_path / "cubist" / "__init__.py").write_text(
        "import dataclasses\n"
        "from trainer.config import key\n"
        "from trainer.models import settings\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Settings(settings.CodeSize):\n"
        "    code_size: int = 7\n"
        "    cubes: int = key(3, 'Cubes in a picture.', at_least=1)\n"
    )
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    config = parse(defaults("cubist"))
    model = config.to_dict()["model"]
    assert (model["name"], model["code_size"], model["cubes"]) == ("cubist", 7, 3)
    with pytest.raises(UserError, match=r"model\.cubes=0 is not allowed; it must be at least 1"):
        parse(changed(config, {"model.cubes": 0}))
    assert "`model.cubes`" in configuration.page()
