import numpy as np
import pytest
from google.protobuf import text_format
from matplotlib.image import imread
from tensorboard.plugins.projector import ProjectorConfig

from trainer.monitoring import projector


def written(folder):
    """The projector's config and the numbers of the points that a folder holds."""
    config = text_format.Parse((folder / projector.CONFIG).read_text(), ProjectorConfig())
    (embedding,) = config.embeddings
    return embedding, np.loadtxt(folder / embedding.tensor_path, ndmin=2)


def random_codes(count, size):
    return np.random.default_rng(0).normal(size=(count, size)).astype(np.float32)


def test_each_code_has_its_label_its_error_and_its_number(tmp_path):
    codes, images = random_codes(5, 4), np.zeros((5, 6, 4, 1), np.float32)
    labels, errors = np.array([3, 1, 3, 0, 9]), np.linspace(0, 1, 5)
    projector.write(tmp_path / "test", codes, images, {"label": labels, "mse": errors})
    embedding, points = written(tmp_path / "test")
    assert points == pytest.approx(codes, rel=1e-5)
    assert list(embedding.tensor_shape) == [5, 4]
    names, *rows = (tmp_path / "test" / embedding.metadata_path).read_text().splitlines()
    assert names == "label\tmse\tnumber"
    assert rows == ["3\t0\t0", "1\t0.25\t1", "3\t0.5\t2", "0\t0.75\t3", "9\t1\t4"]
    # Five images want a sheet of 3 x 3, each 6 pixels high and 4 wide.
    assert list(embedding.sprite.single_image_dim) == [4, 6]
    assert imread(tmp_path / "test" / embedding.sprite.image_path).shape[:2] == (18, 12)


def test_vectors_have_no_sprite_and_unlabelled_ones_no_label(tmp_path):
    projector.write(tmp_path / "test", random_codes(3, 4), np.zeros((3, 9)), {"mse": np.ones(3)})
    embedding, _ = written(tmp_path / "test")
    assert not embedding.HasField("sprite")
    assert not (tmp_path / "test" / projector.SPRITE).exists()
    assert (tmp_path / "test" / projector.METADATA).read_text().startswith("mse\tnumber\n")


def test_codes_too_small_for_the_projectors_pca_get_zeros(tmp_path):
    codes = random_codes(4, 2)
    projector.write(tmp_path / "test", codes, np.zeros((4, 9)), {"mse": np.ones(4)})
    embedding, points = written(tmp_path / "test")
    assert list(embedding.tensor_shape) == [4, 3]
    assert points[:, :2] == pytest.approx(codes, rel=1e-5)
    assert not points[:, 2].any()


@pytest.mark.parametrize(("size", "points"), [(3, 10_000), (1000, 2000)])
def test_no_more_points_are_written_than_a_browser_takes(tmp_path, size, points):
    count = 10_050
    codes = np.repeat(np.arange(count, dtype=np.float32)[:, None], size, axis=1)
    projector.write(tmp_path / "test", codes, np.zeros((count, 9)), {"mse": np.zeros(count)})
    _, shown = written(tmp_path / "test")
    numbers = np.loadtxt(tmp_path / "test" / projector.METADATA, skiprows=1)[:, 1]
    assert len(shown) == len(numbers) == points
    assert (shown[:, 0] == numbers).all()
    assert (numbers[0], numbers[-1]) == (0, count - 1)


def test_a_grey_image_is_drawn_in_the_colour_of_its_label_on_white():
    images = np.zeros((4, 2, 2, 1), np.float32)
    images[:, 0] = 1
    sheet, height, width = projector.sprite(images, np.array([0, 1, 1, 0]))
    assert (height, width) == (2, 2)
    assert (sheet[[1, 3]] == 255).all()
    first, second, third, fourth = sheet[0, 0], sheet[0, 2], sheet[2, 0], sheet[2, 2]
    assert (first == fourth).all()
    assert (second == third).all()
    assert (first != second).any()


def test_a_colour_image_keeps_its_colours_in_a_frame_of_its_labels():
    images = np.full((1, 5, 5, 3), [0.2, 0.4, 0.6], np.float32)
    sheet, _, _ = projector.sprite(images, np.array([7]))
    assert (sheet[1:4, 1:4] == [51, 102, 153]).all()
    assert len(np.unique(np.concatenate([sheet[0], sheet[-1], sheet[:, 0]]), axis=0)) == 1
    assert (sheet[0, 0] != sheet[2, 2]).any()


def test_large_images_become_thumbnails_of_32_pixels():
    sheet, height, width = projector.sprite(np.ones((3, 100, 50, 1), np.float32), None)
    assert (height, width) == (32, 16)
    assert sheet.shape == (64, 32, 3)
