"""Runs are trained and used from Python, on arrays, data frames and files alike."""

import json
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

import trainer
from trainer.config import load_config
from trainer.errors import UserError
from trainer.serving import stream
from trainer.serving.options import StreamOptions

ROWS = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32) * [1, 10, 100]


def small(config):
    config.num_epochs, config.batch_size, config.quiet, config.figures = 2, 16, True, False
    config.model.hidden_units, config.execution = (8,), "graph"
    config.optimizer.warmup_steps = 0
    return config


@pytest.fixture(scope="module")
def frame():
    columns = {name: ROWS[:, place] for place, name in enumerate("abc")}
    return pd.DataFrame(columns | {"colour": ["red", "green", "blue"] * 20, "id": range(60)})


@pytest.fixture(scope="module")
def run(frame, tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    frame.to_csv(folder / "own.csv")
    config = small(load_config("dense"))
    config.data.name = f"table:{folder / 'own.csv'}"
    config.data.categorical, config.data.id_columns = "onehot", ("id",)
    config.data.standardise = True
    config.model.code_size, config.model.output_activation = 2, "linear"
    return trainer.train(config, folder / "run")


def test_a_frame_an_array_and_a_file_get_the_same_codes(run, frame, tmp_path):
    names = ["a", "b", "c", "colour=blue", "colour=green", "colour=red"]
    assert run.feature_names == tuple(names)
    codes = run.encode(frame)
    assert codes.shape == (60, 2)
    hot = np.array([[colour == name[7:] for name in names[3:]] for colour in frame.colour])
    np.testing.assert_array_equal(run.encode(np.hstack([ROWS, hot])), codes)
    np.testing.assert_array_equal(run.encode(frame[["colour", "c", "b", "a"]]), codes)
    frame.to_parquet(tmp_path / "own.parquet")
    np.testing.assert_array_equal(run.encode(tmp_path / "own.parquet"), codes)
    np.testing.assert_array_equal(trainer.load(run.workdir).encode(frame), codes)


def test_reconstructions_are_decoded_codes_and_their_errors_count_every_column(run, frame):
    rebuilt = run.reconstruct(frame)
    np.testing.assert_array_equal(run.decode(run.encode(frame)), rebuilt)
    rows = np.hstack([ROWS, pd.get_dummies(frame.colour).to_numpy(np.float32)])
    stds = json.loads((run.workdir / "config.json").read_text())["inputs"]["std"]
    expected = np.square((rebuilt - rows) / stds).mean(axis=1)
    np.testing.assert_allclose(run.errors(frame), expected, rtol=1e-3)
    assert run.errors("train").shape == (46,)
    scores = run.scores(frame, squared_errors=True)
    np.testing.assert_array_equal(scores["errors"], run.errors(frame))
    np.testing.assert_allclose(
        scores["squared_errors"], np.square((rebuilt - rows) / stds), rtol=1e-3, atol=1e-6
    )
    assert run.evaluate(error_quantile=0.9)["code_size"] == 2


def test_what_does_not_fit_gets_one_line(run, frame):
    for wrong, named in (
        (np.zeros((3, 5)), r"\[3, 5\].*vectors of 6"),
        (np.full((3, 6), np.nan), "not finite"),
        (frame.drop(columns="a"), "'a'"),
        (frame.rename(columns={"a": "aa"}), "no column 'a'; did you mean 'aa'"),
        (frame.assign(colour="pink"), "'pink'.* --unknown_categories"),
        (frame[:0], "no row"),
        (pd.concat([frame, frame[["a"]]], axis=1), "the same name: 'a'"),
        (frame.assign(a=[{}, 1] * 30), "a column of the data frame cannot be read"),
        (frame.to_numpy(), "a ndarray is no array of numbers"),
        ([[1.0], [1.0, 2.0]], "a list is no array of numbers"),
        (scipy.sparse.eye_array(6), "toarray"),
        ("tset", "'tset'.* did you mean 'test'.* allowed: train, validation, test, a folder"),
        (Path("test"), "'test'.* allowed: train"),
        ("none.csv", r"'none\.csv' does not exist"),
        (".", "holds images, but the model takes vectors of 6"),
    ):
        with pytest.raises(UserError, match=named):
            run.encode(wrong)
    with pytest.raises(UserError, match="checkpoint='bestt' is not known; did you mean best"):
        trainer.load(run.workdir, "bestt")
    workdir: Any
    for workdir in ("", 5):
        with pytest.raises(UserError, match=f"workdir={workdir!r} is not allowed"):
            trainer.load(workdir)
        with pytest.raises(UserError, match=f"workdir={workdir!r} is not allowed"):
            trainer.train("dense", workdir)
    with pytest.raises(UserError, match="config=None is not allowed"):
        trainer.train(None, run.workdir)
    with pytest.raises(UserError, match="no prior"):
        run.sample(3)
    for codes, named in (
        (np.zeros((3, 5)), r"\[3, 5\].*codes of 2"),
        (np.zeros((0, 2)), "no code"),
    ):
        with pytest.raises(UserError, match=named):
            run.decode(codes)


def test_a_pickled_run_loads_its_checkpoint_again(run, frame):
    copied = pickle.loads(pickle.dumps(run))  # noqa: S301
    np.testing.assert_array_equal(copied.encode(frame), run.encode(frame))


def test_an_array_of_objects_that_are_numbers_is_encoded_as_numbers(run, frame):
    numbers = frame[["a", "b", "c"]].astype(object).join(pd.get_dummies(frame.colour))
    np.testing.assert_array_equal(run.encode(numbers.to_numpy()), run.encode(frame))


def test_a_training_leaves_the_random_states_of_the_caller_alone(run):
    np.random.seed(1)
    random.seed(1)
    expected = np.random.random(), random.random()
    np.random.seed(1)
    random.seed(1)
    trainer.train(run.config, run.workdir).evaluate()
    assert (np.random.random(), random.random()) == expected


def test_unknown_texts_are_none_of_the_known_ones_if_the_user_says_so(run, frame, tmp_path, capsys):
    strange = frame.assign(colour=["pink", "red", "blue"] * 20)
    line = r"unknown texts: column 'colour' in 20 rows, such as 'pink'"
    with pytest.warns(UserWarning, match=line) as warned:
        codes = run.encode(strange, unknown_categories=True)
    assert warned[0].filename == __file__
    with pytest.warns(UserWarning, match=line) as warned:
        run.scores(strange, unknown_categories=True)
    assert warned[0].filename == __file__
    hot = np.array(
        [[colour == name[7:] for name in run.feature_names[3:]] for colour in strange.colour]
    )
    np.testing.assert_array_equal(codes, run.encode(np.hstack([ROWS, hot])))
    strange.to_csv(tmp_path / "strange.csv")
    with pytest.warns(UserWarning, match=line):
        from_file = run.encode(tmp_path / "strange.csv", unknown_categories=True)
    np.testing.assert_array_equal(from_file, codes)
    options = StreamOptions(unknown_categories=True)
    stream.encode(str(run.workdir), str(tmp_path / "strange.csv"), str(tmp_path / "a.npy"), options)
    assert "column 'colour' in 20 rows, such as 'pink'" in capsys.readouterr().out
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), codes)
    np.testing.assert_array_equal(run.encode(frame, unknown_categories=True), run.encode(frame))
    with pytest.raises(UserError, match="unknown_categories=True is not for input='test'"):
        run.encode("test", unknown_categories=True)


@pytest.mark.parametrize("missing", [False, True])
def test_categories_that_pandas_reads_as_numbers_are_the_texts_of_the_table(missing, tmp_path):
    codes = ["1", "2", "x", ""] if missing else ["1", "2", "x"]
    frame = pd.DataFrame({"a": np.arange(60.0), "code": (codes * 20)[:60]})
    frame.to_csv(tmp_path / "own.csv", index=False)
    config = small(load_config("dense"))
    config.data.name = f"table:{tmp_path / 'own.csv'}"
    config.data.update({"categorical": "onehot", "impute": "mean" if missing else ""})
    config.model.update({"code_size": 2, "output_activation": "linear"})
    run = trainer.train(config, tmp_path / "run")
    texts = ["1", "2", None, "1"] if missing else ["1", "2", "2", "1"]
    few = pd.DataFrame({"a": np.arange(4.0), "code": texts})
    expected = run.encode(few)
    few.to_csv(tmp_path / "few.csv", index=False)
    np.testing.assert_array_equal(run.encode(tmp_path / "few.csv"), expected)
    few["code"] = few["code"].astype("category")
    few.to_parquet(tmp_path / "few.parquet")
    np.testing.assert_array_equal(run.encode(tmp_path / "few.parquet"), expected)
    few["code"] = few["code"].astype(float)
    np.testing.assert_array_equal(run.encode(few), expected)
    if not missing:
        np.testing.assert_array_equal(run.encode(few.astype({"code": int})), expected)
    with pytest.raises(UserError, match="'7' in row 1"):
        run.encode(few.assign(code=7))


def test_scores_of_another_checkpoint_than_the_evaluated_one_are_left_out_with_a_warning(
    run, frame, tmp_path
):
    other = trainer.load(shutil.copytree(run.workdir, tmp_path / "run"))
    other.evaluate(error_quantile=0.9)
    names = {"errors", "pca_errors", "is_anomaly", "distances", "is_anomaly_by_distance"}
    assert other.scores(frame).keys() == names
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    (tmp_path / "run" / "metrics.json").write_text(json.dumps(metrics | {"step": 0}))
    with pytest.warns(UserWarning, match="another checkpoint was evaluated"):
        scores = other.scores(frame)
    assert {"is_anomaly", "is_anomaly_by_distance"}.isdisjoint(scores)


def test_images_are_bytes_or_floats_and_a_vae_is_sampled(tmp_path):
    config = small(load_config("vae"))
    config.data.name, config.data.binarise = "digits", False
    run = trainer.train(config, tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
    codes = run.encode(images)
    np.testing.assert_array_equal(run.encode(images.astype(int)), codes)
    np.testing.assert_allclose(run.encode(images / 255), codes, rtol=1e-4, atol=1e-5)
    assert run.sample(5).shape == (5, 28, 28, 1)
    with pytest.raises(UserError, match="count=0"):
        run.sample(0)
    with pytest.raises(UserError, match=r"2\.0 to 2\.0"):
        run.encode(np.full((1, 28, 28, 1), 2.0))


def test_a_run_names_the_features_that_the_concrete_kind_selects(run, frame, tmp_path):
    frame = frame[["a", "b", "c"]]
    frame.to_csv(tmp_path / "own.csv", index=False)
    config = small(load_config("concrete"))
    config.data.name, config.model.code_size = f"table:{tmp_path / 'own.csv'}", 2
    selector = trainer.train(config, tmp_path / "run")
    chosen = selector.selected_features()
    np.testing.assert_array_equal(selector.encode(frame), frame[chosen].astype(np.float32))
    with pytest.raises(UserError, match="holds a 'dense', which selects no features"):
        run.selected_features()
