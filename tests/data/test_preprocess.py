"""Splits, binarisation and standardisation are the same in every run, and fitted in training."""

import dataclasses

import numpy as np
import pytest

from tests.data.conftest import FEATURES, sizes_of, splits_of, vectors
from tests.verbs.sources import write_table
from trainer.config import make_data
from trainer.data.dataset import Split, to_unit
from trainer.data.preprocess import make_dataset
from trainer.data.sources import Splits
from trainer.errors import UserError


def images_of(dataset):
    return [split.read()[0] for split in splits_of(dataset)]


def test_the_splits_share_no_image_and_are_the_same_each_time(load):
    digits, again = load("digits"), load("digits")
    assert sizes_of(digits) == [1366, 72, 359]
    rows = np.concatenate([images.reshape(len(images), -1) for images in images_of(digits)])
    assert len(np.unique(rows, axis=0)) == 1797
    assert digits.fingerprint() == again.fingerprint()
    other = load("digits", validation_fraction=0.1)
    assert other.fingerprint() != digits.fingerprint()
    assert other.fingerprint(["test"]) == digits.fingerprint(["test"])


def test_labels_go_along_and_the_order_of_the_kept_rows_stays(load, save):
    labels = np.arange(60)
    name = save(train=np.repeat(labels[:, np.newaxis], 2, axis=1), train_labels=labels)
    own = load(name, validation_fraction=0.1)
    assert sizes_of(own) == [43, 5, 12]
    for split in splits_of(own):
        np.testing.assert_array_equal(split.images[:, 1], split.labels)
    assert (np.diff(own.train.labels) > 0).all()


def test_a_resplit_uses_the_test_split_alone(load, save):
    arrays = {"train": vectors(), "test": np.arange(20.0)[:, np.newaxis].repeat(FEATURES, axis=1)}
    own = load(save(**arrays), resplit_test=0.25, validation_fraction=0.2)
    assert sizes_of(own) == [12, 3, 5]
    assert sorted(np.concatenate(images_of(own))[:, 0].tolist()) == list(range(20))


def test_a_binary_image_is_the_same_in_every_load_whatever_split_it_is_in(load):
    binary_of = []
    for fraction in (0.05, 0.3):
        grey, binary = (
            images_of(load("digits", validation_fraction=fraction, binarise=binarise))
            for binarise in (False, True)
        )
        assert [images.dtype for images in binary] == [np.uint8] * 3
        pairs = zip(np.concatenate(grey), np.concatenate(binary), strict=True)
        binary_of.append({image.tobytes(): drawn.tobytes() for image, drawn in pairs})
    assert binary_of[0] == binary_of[1]


@pytest.mark.parametrize(
    ("train", "test", "settings", "named"),
    [
        (1, 0, {}, "a test split of 0.2 of 1 examples leaves an empty split; add examples, or"),
        (9, 9, {}, "data.validation_fraction=0.05 of 9 examples leaves an empty split; add"),
        (9, 2, {"resplit_test": 0.1}, "data.resplit_test=0.1 of 2 examples leaves an empty split"),
    ],
)
def test_too_few_examples_are_refused_with_the_key(
    load, save, refused, train, test, settings, named
):
    arrays = {"train": vectors(train)} | ({"test": vectors(test)} if test else {})
    name = save(**arrays)
    message = refused(load, name, **settings)
    assert f"{name!r} has too few examples: {named}" in message


def test_a_binary_pixel_is_white_as_often_as_it_is_bright(load, save):
    pixels = np.array([0, 1, 25, 128, 254, 255], np.uint8).reshape(1, 2, 3, 1)
    count = 20_000
    images = np.tile(pixels, (count, 1, 1, 1))
    of_bytes, of_floats = (
        images_of(load(save(train=given, test=given), binarise=True))
        for given in (images, images / 255)
    )
    for drawn, others in zip(of_bytes, of_floats, strict=True):
        assert set(np.unique(drawn)) == {0, 255}
        np.testing.assert_array_equal(drawn, others)
    share = pixels.ravel() / 255
    error = 4 * np.sqrt(share * (1 - share) / count)
    rows = of_bytes[2].reshape(count, 6) / 255
    assert (np.abs(rows.mean(axis=0) - share) <= error).all()
    # Images are drawn independently, and so are splits: equal pixels agree by chance alone.
    between_images = np.mean(rows[1:, 3] == rows[:-1, 3])
    between_splits = np.mean(rows[: len(of_bytes[0]), 3] == of_bytes[0][:, 1, 0, 0] / 255)
    for agreement in (between_images, between_splits):
        assert agreement == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(len(of_bytes[0])))


def test_the_binary_pixels_are_fixed_for_ever(load, save):
    # A change here would part the figures of static binarisation before it from those after it.
    grey = np.full((20, 1, 4), 128, np.uint8)
    drawn = images_of(load(save(train=grey, test=grey[:2]), binarise=True))[2]
    assert (drawn.ravel() // 255).tolist() == [1, 0, 1, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("offset", [0, 1e6])
def test_features_are_standardised_by_the_training_split_alone(load, save, offset):
    raw, test = offset + vectors(5000), offset + 100 * vectors(7, seed=1)
    raw[:, 2] = 0.1  # no float32 is, so that a mean of many need not be exact
    name = save(train=raw, test=test)
    before, after = load(name), load(name, standardise=True)
    train = before.train.read()[0].astype(np.float64)
    mean, std = train.mean(axis=0), train.std(axis=0)
    std[2] = 1
    np.testing.assert_allclose(after.scaling.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(after.scaling.std, std, rtol=1e-9)
    for rows, expected in zip(images_of(after), images_of(before), strict=True):
        np.testing.assert_allclose(rows, (expected - mean) / std, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(after.scaling.undo(rows), expected, rtol=1e-5, atol=1e-4)
        np.testing.assert_array_equal(after.scaling.apply(expected), rows)
    np.testing.assert_allclose(after.train.images[:, 2], 0, atol=1e-6)


@pytest.mark.parametrize(("ratio", "is_said"), [(90, False), (110, True)])
def test_scales_that_differ_a_hundred_times_are_said_unless_standardised(
    load, save, ratio, is_said
):
    rows = np.tile([-1.0, 1.0], 30)[:, np.newaxis] * [1, 0, ratio]
    name = save(train=rows, test=rows, validation=rows)
    (note,) = load(name).notes or ("",)
    assert note.startswith(f"the std of features ranges from 1 (0) to {ratio} (2)") == is_said
    assert ("data.standardise=true" in note) == is_said
    assert load(name, standardise=True).notes == ()


@pytest.mark.parametrize(("offset", "is_said"), [(1e3, False), (1e6, True), (1e9, True)])
def test_digits_that_float32_loses_are_said(load, save, offset, is_said):
    rows = np.array([0, offset, 0]) + vectors(60)[:, :3]
    name = save(train=rows, test=rows, validation=rows)
    notes = load(name, standardise=True).notes
    assert [note.startswith("float32 rounds '1' to multiples of") for note in notes] == (
        [True] if is_said else []
    )


@pytest.mark.parametrize("standardise", [False, True])
def test_a_value_whose_square_float32_cannot_hold_is_refused(
    load, save, refused, tmp_path, standardise
):
    rows, test = vectors(60), vectors(5)
    test[3, 1] = 1e37
    name = save(train=rows, test=test)
    files = [tmp_path / f"{split}.parquet" for split in ("train", "test")]
    for file, split in zip(files, (rows, test), strict=True):
        write_table(file, split)
    for source, feature in ((name, "'1'"), (f"table:{files[0]},{files[1]}", "'x1'")):
        line = refused(load, source, standardise=standardise)
        assert f"feature {feature} has a value of" in line
        assert ("stds from its mean" in line) == standardise
        assert ("data.missing" in line) == source.startswith("table")


def test_another_number_or_label_is_another_data_set(load, save):
    arrays = {"train": vectors(), "test": vectors(10, 1), "train_labels": np.arange(60)}
    fingerprints = []
    for name in (None, None, *arrays):
        changed = {name: arrays[name].copy()} if name else {}
        for array in changed.values():
            array[3] += 1
        fingerprints.append(load(save(**arrays | changed), standardise=True).fingerprint())
    assert fingerprints[0] == fingerprints[1]
    assert len(set(fingerprints)) == 4


@pytest.mark.parametrize(("mode", "is_view"), [("r", False), ("r+", False), ("r+", True)])
@pytest.mark.parametrize("settings", [{"standardise": True}, {"binarise": True}])
def test_a_source_may_return_arrays_that_are_mapped_from_a_file(tmp_path, mode, is_view, settings):
    shape = (60, FEATURES) if "standardise" in settings else (60, 2, 3, 1)
    rows = np.random.default_rng(0).integers(0, 256, shape)
    rows = rows.astype(np.float32 if "standardise" in settings else np.uint8)
    files = {"images": tmp_path / "rows.npy", "labels": tmp_path / "labels.npy"}
    np.save(files["images"], rows)
    np.save(files["labels"], np.arange(60))
    before = [path.read_bytes() for path in files.values()]
    mapped = {name: np.load(path, mmap_mode=mode) for name, path in files.items()}
    if is_view:
        mapped = {name: np.asarray(array)[:] for name, array in mapped.items()}
    keys = make_data("noise:60", **settings)
    own, expected = (
        make_dataset(Splits(Split(**arrays)), keys)
        for arrays in (mapped, {"images": rows.copy(), "labels": np.arange(60)})
    )
    assert own.fingerprint() == expected.fingerprint()
    assert [path.read_bytes() for path in files.values()] == before
    small = dataclasses.replace(keys, memory_gib=1e-9)
    with pytest.raises(UserError, match=r"a copy of 'noise:60' takes .* of memory"):
        make_dataset(Splits(Split(**mapped)), small)


def test_vectors_are_not_binarised(load, save, refused):
    assert "data.binarise=True needs images" in refused(load, save(train=vectors()), binarise=True)


def test_unit_images_lie_between_0_and_1_and_floats_stay():
    np.testing.assert_allclose(to_unit(np.array([0, 51, 255], np.uint8)), [0, 0.2, 1], rtol=1e-6)
    np.testing.assert_array_equal(to_unit(np.array([0.25])), [0.25])
