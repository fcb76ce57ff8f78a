"""The transformer behaves as scikit-learn's users expect."""

import copy
import gc
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from tensorflow.python.framework.func_graph import FuncGraph

import trainer
from tests.runs import assert_same_bits, stop_after
from tests.verbs.refusals import contents, refused
from trainer import AutoencoderDetector, AutoencoderTransformer
from trainer.distribution.inference import map_batches
from trainer.run import restore, workdir

SHORT: dict[str, Any] = {"hidden_units": (8,), "batch_size": 16, "num_epochs": 4, "random_state": 0}
# Compilation takes longer than these trainings; a constant rate suits trainings of any length.
PLAIN: dict[str, Any] = {
    "execution": "graph",
    "optimizer.schedule": "constant",
    "steps_per_call": 1,
    "figures": False,
}


def vectors(count=40, features=5):
    return np.random.default_rng(0).normal(50, 3, (count, features))


def short(**settings):
    overrides = PLAIN | settings.pop("overrides", {})
    return AutoencoderTransformer(**SHORT | settings, overrides=overrides)


@pytest.fixture(scope="module")
def fitted():
    return short().fit(vectors())


@pytest.mark.slow
def test_scikit_learns_own_checks_pass():
    overrides = {"execution": "graph", "figures": False}
    check_estimator(AutoencoderTransformer(hidden_units=(), num_epochs=2, overrides=overrides))


def test_the_package_has_no_other_names():
    with pytest.raises(AttributeError, match="'AutoencoderTransformers'"):
        trainer.AutoencoderTransformers  # noqa: B018


def test_codes_have_names(fitted):
    names = [f"autoencodertransformer{number}" for number in range(2)]
    assert fitted.get_feature_names_out().tolist() == names
    assert fitted.transform(vectors()).shape == (40, 2)


def test_a_fit_builds_its_model_once_and_copies_build_their_own(monkeypatch):
    builds: list[Any] = []
    build = trainer.sklearn.build_autoencoder

    def counted(*arguments):
        builds.append(arguments)
        return build(*arguments)

    monkeypatch.setattr(trainer.sklearn, "build_autoencoder", counted)
    transformer = short().fit(vectors())
    codes = transformer.transform(vectors(600))
    transformer.inverse_transform(codes)
    transformer.score(vectors())
    assert len(builds) == 1
    for copied in (copy.deepcopy(transformer), pickle.loads(pickle.dumps(transformer))):  # noqa: S301
        np.testing.assert_array_equal(copied.transform(vectors(600)), codes)
    assert len(builds) == 3
    transformer.set_params(random_state=1).fit(vectors())
    assert not np.allclose(transformer.transform(vectors(600)), codes)
    assert len(builds) == 4


@pytest.mark.slow
def test_a_process_that_unpickles_an_estimator_prints_nothing():
    for estimator in (AutoencoderTransformer(), AutoencoderDetector()):
        unpickle = [sys.executable, "-c", "import pickle, sys; pickle.load(sys.stdin.buffer)"]
        done = subprocess.run(
            unpickle, input=pickle.dumps(estimator), capture_output=True, check=True
        )
        assert done.stdout == done.stderr == b""


def test_a_fit_leaves_no_graph_in_memory():
    counts = []
    for seed in range(3):
        transformer = short(random_state=seed)  # of silu units
        transformer.fit(vectors()).transform(vectors())
        del transformer
        gc.collect()
        counts.append(sum(isinstance(one, FuncGraph) for one in gc.get_objects()))
    assert counts[2] == counts[1]


def test_codes_become_rows_in_the_units_of_the_data():
    # A plane in 6 dimensions, far from 0 and of unequal scales, which a code of two can represent.
    plane = np.random.default_rng(0).normal(size=(200, 2))
    rows = (plane @ np.random.default_rng(1).normal(size=(2, 6)) + 3) * (1e-3, 1, 10, 1, 1, 1e3)
    transformer = AutoencoderTransformer(
        "linear", num_epochs=300, batch_size=50, learning_rate=1e-2, random_state=0
    ).fit(rows)
    rebuilt = transformer.inverse_transform(transformer.transform(rows))
    assert np.all(np.abs(rebuilt - rows).max(axis=0) < 0.05 * rows.std(axis=0))
    assert transformer.score(rows) == pytest.approx(-np.square(rebuilt - rows).mean())


def test_codes_of_another_size_and_numbers_beyond_float32_are_refused(fitted):
    with pytest.raises(ValueError, match="X has 3 features"):
        fitted.inverse_transform(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="float32"):
        fitted.transform(np.full((1, 5), 1e300))


def test_a_fit_leaves_the_global_random_states_alone_and_prints_only_if_asked(capfd):
    states = random.getstate(), np.random.get_state()
    expected = random.random(), np.random.random()
    random.setstate(states[0])
    np.random.set_state(states[1])
    short().fit(vectors()).transform(vectors())
    assert (random.random(), np.random.random()) == expected
    assert capfd.readouterr() == ("", "")
    short(verbose=1).fit(vectors())
    assert "finished at step" in capfd.readouterr().out


def test_without_a_random_state_each_fit_has_another_seed():
    unseeded = short(random_state=None)
    seeds = [unseeded.fit(vectors()).config_.seed for _ in range(2)]
    assert seeds[0] != seeds[1]


def test_another_default_type_of_keras_changes_nothing_and_stays(fitted):
    keras.config.set_floatx("float64")
    try:
        codes = clone(fitted).fit(vectors()).transform(vectors())
        assert keras.config.floatx() == "float64"
    finally:
        keras.config.set_floatx("float32")
    np.testing.assert_array_equal(codes, fitted.transform(vectors()))


def test_a_random_state_decides_the_codes_in_a_thread_too(fitted):
    same, other = clone(fitted), clone(fitted).set_params(random_state=1)
    threads = [threading.Thread(target=each.fit, args=(vectors(),)) for each in (same, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    codes = fitted.transform(vectors())
    assert np.array_equal(same.transform(vectors()), codes)
    assert not np.allclose(other.transform(vectors()), codes)


def test_a_warm_start_goes_on_where_the_run_has_ended(tmp_path):
    longer = short(workdir=tmp_path / "longer", num_epochs=8).fit(vectors())
    twice = short(workdir=tmp_path / "twice", random_state=None, warm_start=True)
    twice.set_params(random_state=0).fit(vectors())
    twice.set_params(random_state=None, num_epochs=8).fit(vectors())
    assert_same_bits(tmp_path / "longer", tmp_path / "twice")
    assert np.array_equal(longer.transform(vectors()), twice.transform(vectors()))


def test_averaged_weights_are_those_that_transform(tmp_path):
    overrides = {"averaging.decay": 0.9}
    transformer = short(workdir=tmp_path, learning_rate=0.1, overrides=overrides).fit(vectors())
    start = workdir.read(tmp_path).checkpoints.find_before(0)  # at PCA
    assert start is not None
    first = start.state()
    for variable in restore.load_model(tmp_path).model.variables:
        path = variable.path
        assert np.array_equal(first[f"average/{path}"], first[f"model/{path}"])
        assert np.array_equal(transformer.weights_[f"model/{path}"], variable)


@pytest.mark.slow
def test_ctrl_c_ends_a_fit_that_a_warm_start_completes(tmp_path, monkeypatch):
    short(workdir=tmp_path / "alone").fit(vectors())
    stopped = short(workdir=tmp_path / "stopped", warm_start=True)
    with monkeypatch.context() as patch:
        stop_after(patch, 3, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt, match="stopped at step 3"):
            stopped.fit(vectors())
    stopped.fit(vectors())
    assert_same_bits(tmp_path / "alone", tmp_path / "stopped")


def test_the_commands_read_its_workdir_and_no_other_run_overwrites_it(tmp_path):
    transformer = short(workdir=tmp_path).fit(vectors())
    run = restore.load_model(tmp_path)
    assert run.scaling is not None
    codes = map_batches(run.model.encode, run.scaling.apply(vectors()))
    assert transformer.transform(vectors()) == pytest.approx(codes, abs=1e-5)
    with refused("'memory'", tmp_path):
        restore.load(tmp_path)
    before = contents(tmp_path)
    for settings, rows, named in (
        ({}, vectors(), "warm_start"),
        ({"warm_start": True}, vectors() ** 2, "other data"),
        ({"warm_start": True, "learning_rate": 0.1}, vectors(), r"optimizer\.learning_rate"),
    ):
        with pytest.raises(ValueError, match=named):
            short(workdir=tmp_path, **settings).fit(rows)
    assert contents(tmp_path) == before


def test_a_mistake_is_a_value_error_that_names_it():
    for settings, named in (
        ({"config": "base"}, "config='base'"),
        ({"config": "conv"}, "'model.hidden_units'"),
        ({"config": "conv", "hidden_units": None, "code_size": None}, "need images"),
        ({"code_size": 6}, "code_size=6"),
        ({"batch_size": 1.5}, "batch_size=1.5"),
        ({"config": "dense", "standardise": False}, r"\[0, 1\]"),
        ({"warm_start": True}, "workdir"),
        (
            {"overrides": {"model.los": "bce"}},
            r"'model\.los' is not a key of the config; did you mean 'model\.loss'\? allowed: ",
        ),
        ({"overrides": {"data.name": "mnist"}}, "data.name='mnist'"),
        ({"config": None}, "config=None is not allowed; it takes str or ConfigDict"),
        ({"standardise": "no"}, "data.standardise='no' is not allowed"),
        ({"workdir": ""}, "workdir='' is not allowed"),
        ({"workdir": 5}, "workdir=5 is not allowed"),
    ):
        with pytest.raises(ValueError, match=named):
            short(**settings).fit(vectors())
    with pytest.raises(ValueError, match=r"overrides=\['a'\] is not allowed; it takes Mapping"):
        short().set_params(overrides=["a"]).fit(vectors())


@pytest.mark.slow
def test_a_grid_search_over_its_parameters_works():
    pipeline = make_pipeline(StandardScaler(), short())
    step = "autoencodertransformer"
    grid = {
        f"{step}__code_size": np.array([1, 4]),
        f"{step}__learning_rate": np.array([1e-2]),
        f"{step}__num_epochs": [np.float64(20)],
    }
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(vectors())
    assert search.best_params_[f"{step}__code_size"] == 4
    assert search.transform(vectors()).shape == (40, 4)


@pytest.mark.slow
def test_every_kind_that_takes_vectors_can_be_fitted():
    for config in ("linear", "deep", "contractive", "sparse", "sdae", "concrete", "vae"):
        has_units = config not in ("linear", "contractive", "sparse")
        settings: dict[str, Any] = {} if has_units else {"hidden_units": None}
        settings |= {"code_size": 120} if config == "sparse" else {}
        transformer = short(config=config, **settings).fit(vectors())
        codes = transformer.transform(vectors())
        assert codes.shape == (40, transformer.code_size)
        assert len(transformer.get_feature_names_out()) == codes.shape[1]
        assert np.isfinite(transformer.inverse_transform(codes)).all(), config


def test_a_config_object_gives_what_its_name_and_parameters_give(fitted):
    config = fitted.config_.copy_and_resolve_references()
    other = AutoencoderTransformer(config, code_size=None, random_state=0).fit(vectors())
    assert np.array_equal(other.transform(vectors()), fitted.transform(vectors()))
    assert config == fitted.config_


@pytest.mark.slow
def test_logistic_regression_is_more_accurate_on_its_codes_than_on_pcas():
    images, labels = load_digits(return_X_y=True)
    train, test, train_labels, test_labels = train_test_split(
        images / 16, labels, test_size=0.3, random_state=10, stratify=labels
    )
    ours = AutoencoderTransformer(
        "dense",
        code_size=8,
        num_epochs=300,
        batch_size=64,
        standardise=False,  # the pixels are in [0, 1] already
        overrides={"model.loss": "bce"},
        random_state=0,
    )
    accuracies = []
    for reduction in (ours, PCA(8, random_state=0)):
        pipeline = make_pipeline(reduction, StandardScaler(), LogisticRegression(max_iter=2000))
        accuracies.append(pipeline.fit(train, train_labels).score(test, test_labels))
    assert accuracies[0] > accuracies[1] + 0.01, accuracies


def test_the_concrete_kind_names_and_marks_the_columns_that_it_selects():
    frame = pd.DataFrame(vectors(), columns=list("edcba"))
    selector = short(config="concrete", code_size=3, standardise=False).fit(frame)
    assert not hasattr(short().fit(frame), "get_support")
    indices = selector.get_support(indices=True)
    codes = selector.set_output(transform="pandas").transform(frame)
    assert (
        list(codes.columns)
        == list(selector.get_feature_names_out())
        == list(frame.columns[indices])
    )
    pd.testing.assert_frame_equal(codes, frame[list(codes.columns)], rtol=1e-6)
    assert sorted(np.flatnonzero(selector.get_support())) == sorted(indices)
