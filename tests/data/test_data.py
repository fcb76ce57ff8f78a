from pathlib import Path

import numpy as np
import pytest

from tests.runs import final_state
from tests.tiny_colour import TinyColour
from trainer import data, positions
from trainer.config import make_data
from trainer.data.batches import training_batches
from trainer.data.dataset import Records, to_unit
from trainer.data.files import tfds_prepare
from trainer.errors import UserError
from trainer.train import train


def load(name="digits", image_size=0, validation_fraction=0.05, **settings):
    common = {"image_size": image_size, "validation_fraction": validation_fraction}
    return data.load(make_data(name, **common, **settings))


def test_digits_are_split_into_three_parts_that_share_no_image():
    digits = load()
    parts = (digits.train, digits.validation, digits.test)
    assert sum(map(len, parts)) == 1797
    assert digits.image_shape == (28, 28, 1)
    rows = np.concatenate([part.images.reshape(len(part), -1) for part in parts])
    assert len(np.unique(rows, axis=0)) == 1797


def test_digits_can_have_another_size():
    assert load(image_size=14).image_shape == (14, 14, 1)


def test_a_split_is_the_same_each_time_and_its_labels_go_along():
    first, second = load(), load()
    assert first.fingerprint() == second.fingerprint()
    np.testing.assert_array_equal(first.validation.labels, second.validation.labels)
    assert load(validation_fraction=0.1).fingerprint() != first.fingerprint()


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1e-9])
def test_a_split_with_an_empty_part_is_refused(fraction):
    with pytest.raises(UserError, match=str(fraction)):
        load(validation_fraction=fraction)


@pytest.mark.parametrize("numbers", [True, False])
def test_batches_hold_the_examples_of_their_positions(numbers):
    images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    ranges = [(0, 3), (3, 4)]
    drawn = training_batches(images, ranges, max_steps=3, batch_size=4, seed=7, as_indices=numbers)
    elements = list(drawn.as_numpy_iterator())
    assert [(first, count) for first, count, _ in elements] == [(0, 3), (3, 1)]
    assert {rows.shape for *_, rows in elements} == {(3, 4) if numbers else (3, 4, 1, 1, 1)}
    used = np.concatenate([rows[:count].ravel() for _, count, rows in elements])
    np.testing.assert_array_equal(used, positions.examples(7, 0, 16, 10))


@pytest.mark.parametrize("workers", [2, 4])
def test_the_workers_together_draw_each_position_once(workers):
    images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    size = 4 // workers
    shares = []
    for worker in range(workers):
        drawn = training_batches(
            images,
            [(0, 3)],
            max_steps=3,
            batch_size=4,
            seed=7,
            as_indices=True,
            local_rows=slice(worker * size, (worker + 1) * size),
        )
        shares.append(next(drawn.as_numpy_iterator())[2])
    np.testing.assert_array_equal(np.hstack(shares).ravel(), positions.examples(7, 0, 12, 10))


def test_unit_images_lie_between_0_and_1_and_floats_stay():
    grey = np.array([0, 51, 255], np.uint8)
    np.testing.assert_allclose(to_unit(grey), [0, 0.2, 1], rtol=1e-6)
    np.testing.assert_array_equal(to_unit(np.array([0.25])), [0.25])


@pytest.mark.parametrize("name", ["mnist:9.9.9", "huggingface:foo", "", "a b"])
def test_a_name_that_is_no_name_gets_one_line(name):
    with pytest.raises(UserError) as error:
        load(name)
    assert "\n" not in str(error.value)


def test_an_unknown_data_set_is_named_with_its_neighbours():
    with pytest.raises(UserError, match="'mnits' is no data set of TFDS; did you mean mnist"):
        load("mnits")


def test_a_data_set_that_cannot_be_had_says_what_to_do(monkeypatch, tmp_path):
    def refuse(url):
        raise OSError(f"{url}: no network")

    monkeypatch.setattr(tfds_prepare, "_reach", refuse)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match=f"not in {tmp_path}.*set TFDS_DATA_DIR") as error:
        load("fashion_mnist")
    assert "\n" not in str(error.value)


@pytest.fixture
def tiny_colour(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    builder = TinyColour(data_dir=str(tmp_path))
    builder.download_and_prepare()
    return builder


@pytest.mark.usefixtures("tiny_colour")
def test_images_of_many_sizes_are_resized_and_a_test_part_is_cut():
    colour = load("tiny_colour", image_size=6, validation_fraction=0.25)
    assert colour.image_shape == (6, 6, 3)
    parts = (colour.train, colour.validation, colour.test)
    assert [len(part) for part in parts] == [12, 4, 4]
    for part in parts:
        assert part.labels is not None
        np.testing.assert_array_equal(part.images[:, 0, 0, 0], 10 * part.labels)


@pytest.mark.usefixtures("tiny_colour")
def test_images_of_many_sizes_need_a_size():
    with pytest.raises(UserError, match=r"set data\.image_size"):
        load("tiny_colour")


def test_a_damaged_data_set_is_named(tiny_colour):
    for path in Path(tiny_colour.data_path).glob("*.tfrecord*"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be read"):
        load("tiny_colour", image_size=6)


@pytest.fixture
def tiny_records(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    builder = TinyColour(data_dir=str(tmp_path), file_format="array_record")
    builder.download_and_prepare()


@pytest.mark.usefixtures("tiny_records")
@pytest.mark.parametrize("settings", [{"placement": "records"}, {"memory_gib": 1e-6}])
def test_a_set_larger_than_the_memory_stays_in_its_files_and_is_the_same(settings):
    memory = load("tiny_colour", image_size=6, validation_fraction=0.25)
    files = load("tiny_colour", image_size=6, validation_fraction=0.25, **settings)
    assert isinstance(memory.train.images, np.ndarray)
    assert isinstance(files.train.images, Records)
    assert files.fingerprint() == memory.fingerprint()
    chosen = np.array([[3, 1], [11, 3]])
    np.testing.assert_array_equal(files.train.images[chosen], memory.train.images[chosen])
    for ours, theirs in zip(
        (files.train, files.validation, files.test),
        (memory.train, memory.validation, memory.test),
        strict=True,
    ):
        assert ours.images.shape == theirs.images.shape
        for read, expected in zip(ours.read(most=3), theirs.read(most=3), strict=True):
            np.testing.assert_array_equal(read, expected)


@pytest.mark.usefixtures("tiny_records")
def test_training_from_files_is_the_same_bits(digits_config, tmp_path):
    digits_config.data.update({"name": "tiny_colour", "image_size": 6, "validation_fraction": 0.25})
    digits_config.update({"batch_size": 4, "num_epochs": 5.0})
    states = []
    for placement in ("device", "records"):
        digits_config.data.placement = placement
        train(digits_config, str(tmp_path / placement))
        _, state = final_state(tmp_path / placement)
        states.append({path: array.tobytes() for path, array in state.items()})
    assert states[0] == states[1]


@pytest.mark.usefixtures("tiny_records")
def test_files_are_not_binarised():
    with pytest.raises(UserError, match="'tiny_colour' stays in its files"):
        load("tiny_colour", image_size=6, placement="records", binarise=True)


@pytest.mark.usefixtures("tiny_colour")
@pytest.mark.parametrize("settings", [{"placement": "records"}, {"memory_gib": 1e-6}])
def test_a_set_larger_than_the_memory_needs_records(settings):
    with pytest.raises(UserError, match="--dataset=tiny_colour --records"):
        load("tiny_colour", image_size=6, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"placement": "gpu"},
            "placement='gpu' is not known; allowed: auto, device, host, records",
        ),
        ({"memory_gib": -1.0}, "memory_gib=-1.0"),
        ({"placement": "records"}, "'digits' has none"),
    ],
)
def test_a_wrong_placement_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        load(**settings)


def test_noise_is_as_large_as_it_is_asked_to_be():
    noise = load("noise:5000")
    assert [len(noise.train), len(noise.validation), len(noise.test)] == [4750, 250, 1000]
    with pytest.raises(UserError, match="noise:N takes a number"):
        load("noise:many")


def parts(dataset):
    return [part.read()[0] for part in (dataset.train, dataset.validation, dataset.test)]


def test_a_binary_image_is_the_same_in_every_load_whatever_part_it_is_in():
    drawn = []
    for fraction in (0.05, 0.05, 0.3):
        grey, binary = (
            parts(load(validation_fraction=fraction, binarise=b)) for b in (False, True)
        )
        pairs = zip(np.concatenate(grey), np.concatenate(binary), strict=True)
        drawn.append({image.tobytes(): drawing.tobytes() for image, drawing in pairs})
        assert [part.dtype for part in binary] == [np.uint8] * 3
    assert drawn[0] == drawn[1] == drawn[2]


def test_a_binary_pixel_is_white_as_often_as_it_is_bright(tmp_path):
    pixels = np.array([0, 1, 25, 128, 254, 255], np.uint8).reshape(1, 2, 3)
    count = 20_000
    images = np.tile(pixels, (count, 1, 1))
    np.savez(tmp_path / "bytes.npz", train=images, test=images)
    np.savez(tmp_path / "floats.npz", train=images / 255, test=images / 255)
    of_bytes, of_floats = (
        parts(load(f"arrays:{tmp_path / name}.npz", binarise=True)) for name in ("bytes", "floats")
    )
    for images, others in zip(of_bytes, of_floats, strict=True):
        assert set(np.unique(images)) == {0, 255}
        np.testing.assert_array_equal(images, others)
    share = pixels.ravel() / 255
    error = 4 * np.sqrt(share * (1 - share) / count)
    rows = of_bytes[2].reshape(count, 6) / 255
    assert (np.abs(rows.mean(axis=0) - share) <= error).all()
    # Each image is drawn for itself, and the parts are: equal pixels agree by chance alone.
    between_images = np.mean(rows[1:, 3] == rows[:-1, 3])
    between_parts = np.mean(rows[: len(of_bytes[0]), 3] == of_bytes[0][:, 1, 0, 0] / 255)
    for agreement in (between_images, between_parts):
        assert agreement == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(len(of_bytes[0])))


def test_the_binary_pixels_are_fixed_for_ever(tmp_path):
    # A change here would part the figures of static binarisation before it from those after it.
    grey = np.full((20, 1, 4), 128, np.uint8)
    np.savez(tmp_path / "grey.npz", train=grey, test=grey[:2])
    drawn = load(f"arrays:{tmp_path / 'grey.npz'}", binarise=True).test.read()[0]
    assert (drawn.ravel() // 255).tolist() == [1, 0, 1, 1, 0, 1, 0, 1]
