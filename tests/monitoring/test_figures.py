import numpy as np
import pytest
from matplotlib import colormaps

from trainer.monitoring import figures


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_shows_each_image_in_its_place(channels):
    images = np.arange(5, dtype=np.float32)[:, None, None, None] / 5
    shown = figures.grid(np.broadcast_to(images, (5, 2, 3, channels)), columns=3)
    assert shown.shape == (4 + 2, 9 + 2 * 2, 3)
    assert shown.dtype == np.uint8
    assert shown[::4, ::5, 0].tolist() == [[0, 51, 102], [153, 204, 255]]
    assert (shown[2:4] == 255).all()  # between the rows
    close = figures.grid(np.broadcast_to(images, (5, 2, 3, channels)), columns=3, gap=0)
    assert close[::2, ::3, 0].tolist() == shown[::4, ::5, 0].tolist()


def test_stretched_images_reach_from_black_to_white_each():
    images = np.array([[0, 0, 1], [-1, 0, 0]], np.float32).reshape(2, 1, 3, 1)
    shown = figures.grid(images, columns=1, gap=0, stretch=True)
    assert shown[..., 0].tolist() == [[0, 0, 255], [0, 255, 255]]


def test_marked_pixels_are_red_squares_in_a_grey_image():
    marks = np.arange(6).reshape(1, 2, 3) == 5
    shown = figures.grid(np.full((1, 2, 3, 3), 0.2, np.float32), columns=1, gap=0, marks=marks)
    assert shown.shape == (16, 24, 3)
    coloured = np.ptp(shown.astype(int), axis=-1) > 0
    assert coloured[8:, 16:].all()
    assert coloured.sum() == 64
    assert (shown[~coloured] == 51).all()


@pytest.mark.parametrize("name", ["filters", "manifold", "of_my_own_kind"])
def test_a_labelled_grid_shows_whole_pixels_below_a_title(name):
    images = np.linspace(0, 1, 6, dtype=np.float32).reshape(6, 1, 1, 1) + np.zeros((1, 8, 8, 3))
    shown = figures.labelled_grid(name, images, columns=3, gap=0)
    plain = figures.grid(images, columns=3, gap=0)
    factor = 500 // 24
    height, width = (factor * side for side in plain.shape[:2])
    below, left = (40, 40) if name == "manifold" else (10, 10)
    grid = shown[40 : 40 + height, left : left + width]
    assert shown.shape[0] == 40 + height + below
    assert (grid[factor // 2 :: factor, factor // 2 :: factor] == plain).all()
    assert (shown[:40] < 128).any()  # the title
    assert (shown[:, :left] < 128).any() == (shown[-below:] < 128).any() == (name == "manifold")


@pytest.mark.parametrize("palette", ["tab10", "viridis"])
def test_points_of_a_scatter_plot_are_coloured_by_class_or_on_a_bar(palette):
    numbers = np.arange(30)
    classes = [numbers % 2, np.array(["$_", "_$"])[numbers % 2]]
    others = [numbers, numbers / 2, np.array([f"${k}$" for k in numbers])]
    colours = colormaps[palette]([0, 1 if palette == "tab10" else 255], bytes=True)[:, :3]
    for values in classes if palette == "tab10" else others:
        points = np.stack([numbers % 29, values == values[0]], axis=1)
        shown = figures.scatter(points, values, "title", ("x", "y"), "class")
        for colour in colours.astype(int):
            assert np.abs(shown[:, :550] - colour).max(axis=-1).min() <= 2  # rounding


def test_names_of_short_bars_follow_after_the_last_bar_where_there_is_room():
    names = [[f"feature {number}" for number in range(40)]]
    one, some, even = np.eye(40)[:1], np.zeros((1, 40)), np.ones((1, 40))
    some[0, :3] = 0.94, 0.03, 0.03
    texts = ["row 0"], "title", "share"
    drawn = [figures.feature_shares(parts, names, *texts) for parts in (one, some, even)]
    after = [(shown[30:60, 300:] < 60).any() for shown in drawn]
    whole = [(shown[30:60] < 60).sum() for shown in drawn]
    assert after[2] and whole[2] > whole[1]
    figures.feature_shares(np.full((1, 40), np.nan), names, *texts)  # of a diverged run
