import numpy as np
import pytest

from trainer.monitoring import example_columns

PITCH, LEFT, TOP, SIDE, LINE = 108, 20, 8, 100, 20  # pixels


def cell(shown, row, column):
    """The pixels inside the frame of a cell, without a line of texts in between."""
    top, left = TOP + PITCH * row, LEFT + PITCH * column
    return shown[top + 3 : top + SIDE - 3, left + 3 : left + SIDE - 3, 0].astype(int)


def has_text(pixels):
    return (pixels < 128).any()


def wide(*values):
    """Constant grey images, twice as wide as high."""
    return np.array(values, np.float32)[:, None, None, None] + np.zeros((2, 2, 4, 1), np.float32)


def test_each_image_is_in_its_cell_with_its_proportions():
    shown = example_columns.draw({"original": wide(0.2, 0.8), "reconstruction": wide(0.8, 0.2)})
    for place, value in (((0, 0), 51), ((0, 1), 204), ((1, 0), 204), ((1, 1), 51)):
        pixels = cell(shown, *place)
        assert (pixels[25:69] == value).all()
        assert (pixels[:19] == 255).all()  # above an image of half the height


def test_titles_are_above_and_notes_below_the_columns():
    rows = {"original": wide(0.2, 0.8)}
    plain = example_columns.draw(rows)
    shown = example_columns.draw(rows, titles=["a", "b"], notes=["first\nof two", "second"])
    assert shown.shape[0] == len(plain) + 3 * LINE
    assert has_text(shown[: TOP + LINE - 4, LEFT : LEFT + SIDE])
    assert has_text(shown[: TOP + LINE - 4, LEFT + PITCH :])
    assert has_text(shown[-2 * LINE :, LEFT : LEFT + SIDE])
    assert has_text(shown[-2 * LINE :, LEFT + PITCH :])


def test_small_codes_share_their_limits_and_are_written_below():
    codes = np.array([[0.0, 1.0], [-0.001, 4.0]])
    shown = example_columns.draw({"original": wide(0.2, 0.8), "code": codes})
    first, second = (cell(shown, 1, column)[47] for column in (0, 1))
    assert first[70] < second[70] == 255
    assert first[20] <= 1 and second[20] == 0
    below = shown[TOP + PITCH + SIDE - 25 : TOP + PITCH + SIDE]
    assert has_text(below[:, LEFT : LEFT + SIDE]) and has_text(below[:, LEFT + PITCH :])


@pytest.mark.parametrize("size", [1, 2, 30])
def test_vectors_and_their_codes_are_lines_across_their_cells(size):
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(2, 30))
    shown = example_columns.draw({"original": vectors, "code": generator.normal(size=(2, size))})
    assert shown.shape[1] >= 460  # the label below is longer than two columns
    for place in np.ndindex(2, 2):
        is_dark = (cell(shown, *place) < 128).any(axis=0)
        assert is_dark[:3].any() and is_dark[-3:].any() and is_dark[40:54].any()
