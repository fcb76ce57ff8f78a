"""Draws examples as columns: their originals, codes and reconstructions below each other."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainer.monitoring import figures

_MAX_TITLE = 12  # characters above a column
_CELL = 1.0  # inches of an image's longer side
_CELL_GAP = 0.08  # inches
_LINE = 0.2  # inches of a line of text
_AXES_LABEL = "across: features, or values of the code; rows of one length share a scale"
_AXES_LABEL_WIDTH = 4.6  # inches
_MAX_WRITTEN = 3  # values of a code that are written below it


def draw(
    rows: Mapping[str, np.ndarray], titles: Sequence[str] = (), notes: Sequence[str] = ()
) -> np.ndarray:
    """Draws labelled rows of images [N, H, W, C] in [0, 1] and of codes [N, K], as RGB [H, W, 3].

    A code is drawn as a rectangle as near to a square as K allows, its minimum black and its
    maximum white; codes of up to 3 values share their limits, and the values are written below. If
    the first row holds vectors [N, D], every vector and code is drawn as a line plot; rows of the
    same shape share their limits. The columns have `titles` [N] above and `notes` [N] below, if
    there are any.

    Returns uint8.
    """
    first = next(iter(rows.values()))
    are_vectors = first.ndim == 2
    below = {
        title: [_written(code) for code in row]
        for title, row in rows.items()
        if row.ndim == 2 and row.shape[1] <= _MAX_WRITTEN and not are_vectors
    }
    bottom = [max((note.count("\n") + 1 for note in notes), default=0), int(are_vectors)]
    count = (len(titles) > 0) + len(below) + sum(bottom)
    pitch = _CELL + _CELL_GAP
    width = max(_LINE + len(first) * pitch, are_vectors * _AXES_LABEL_WIDTH)
    canvas = _Canvas(width, len(rows) * pitch + count * _LINE + _CELL_GAP)
    lefts = [_LINE + column * pitch for column in range(len(first))]
    top = _CELL_GAP + _LINE * (len(titles) > 0)
    for left, title in zip(lefts, titles, strict=False):
        canvas.text(left + _CELL / 2, _CELL_GAP / 2, figures.shortened(title, _MAX_TITLE))
    for title, row in rows.items():
        canvas.text(_LINE / 2, top + _CELL / 2, title, rotation=90, va="center")
        same_shape = np.stack([other for other in rows.values() if other.shape == row.shape])
        bottom_of_row = top + _CELL
        drawn = row if row.ndim > 2 or are_vectors else _code_pixels(row)
        for left, values in zip(lefts, drawn, strict=True):
            if are_vectors:
                canvas.plot(left, top, values, _limits(same_shape))
            else:
                bottom_of_row = canvas.image(left, top, _image_pixels(values))
        for left, text in zip(lefts, below.get(title, ()), strict=False):
            canvas.text(left + _CELL / 2, bottom_of_row + _CELL_GAP / 2, text)
        top += _CELL + _CELL_GAP + _LINE * (title in below)
    for left, note in zip(lefts, notes, strict=False):
        canvas.text(left + _CELL / 2, top, note)
    if are_vectors:
        canvas.text(width / 2, top + bottom[0] * _LINE, _AXES_LABEL)
    return figures.render(canvas.figure)


class _Canvas:
    """Draws in one pair of axes, whose unit is an inch from the upper left corner.

    One pair of axes for each image takes several times as long.
    """

    def __init__(self, width: float, height: float):
        self.figure = figures.new_figure(width, height, constrained=False)
        self._axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        self._axes.set_axis_off()
        self._axes.set_autoscale_on(False)

    def text(self, x: float, y: float, text: str, **look: Any) -> None:
        default = {"va": "top", "ha": "center", "fontsize": "small", "parse_math": False}
        self._axes.text(x, y, text, **{**default, **look})

    def image(self, left: float, top: float, pixels: np.ndarray) -> float:
        """Draws pixels, grey [H, W] or [H, W, C], as large as a cell allows, in its centre.

        Returns where the image ends.
        """
        height, width = (_CELL * side / max(pixels.shape[:2]) for side in pixels.shape[:2])
        left, top = left + (_CELL - width) / 2, top + (_CELL - height) / 2
        extent = (left, left + width, top + height, top)
        look: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1, "interpolation": "nearest"}
        self._axes.imshow(pixels, extent=extent, aspect="auto", **look)
        self._frame(left, top, width, height)
        return top + height

    def plot(
        self, left: float, top: float, values: np.ndarray, limits: tuple[float, float]
    ) -> None:
        """Draws a line through values [D] in a cell that spans the limits."""
        lowest, highest = limits
        x = left + _CELL * (np.arange(len(values)) + 0.5) / len(values)
        y = top + _CELL * (highest - values) / (highest - lowest)
        self._axes.plot(x, y, drawstyle="steps-mid", color="black", linewidth=0.8)
        self._frame(left, top, _CELL, _CELL)

    def _frame(self, left: float, top: float, width: float, height: float) -> None:
        from matplotlib.patches import Rectangle

        self._axes.add_patch(Rectangle((left, top), width, height, fill=False, linewidth=0.8))


def _written(code: np.ndarray) -> str:
    return ", ".join(f"{value:z.1f}" for value in code)


def _limits(values: np.ndarray) -> tuple[float, float]:
    """Returns the minimum and the maximum with a margin above 0."""
    lowest, highest = float(values.min()), float(values.max())
    margin = 0.05 * (highest - lowest) or 1.0
    return lowest - margin, highest + margin


def _image_pixels(image: np.ndarray) -> np.ndarray:
    """Returns the pixels to draw, [H, W] of grey images and codes, [H, W, C] of RGB and RGBA."""
    clipped = np.clip(image, 0, 1)
    return clipped if image.shape[-1] in (3, 4) else clipped[..., 0]


def _code_pixels(codes: np.ndarray) -> np.ndarray:
    """Returns codes [N, K] as images [N, H, W, 1] in [0, 1]."""
    count, size = codes.shape
    height = max(d for d in range(1, math.isqrt(size) + 1) if size % d == 0)
    share_limits = size <= _MAX_WRITTEN
    scaled = figures.scale_each(codes[np.newaxis] if share_limits else codes)
    return scaled.reshape(count, height, -1, 1)
