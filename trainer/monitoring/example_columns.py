"""Draws examples as columns: their originals, codes and reconstructions below each other."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainer.monitoring import figures

_MAX_TITLE = 12  # characters above a column
_CELL = 1.0  # inches of an image's longer side
_GAP = 0.08  # inches
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
    written = [
        title
        for title, row in rows.items()
        if not are_vectors and row.ndim == 2 and row.shape[1] <= _MAX_WRITTEN
    ]
    note_lines = max((note.count("\n") + 1 for note in notes), default=0)
    text_lines = (len(titles) > 0) + len(written) + note_lines + are_vectors
    pitch = _CELL + _GAP
    lefts = [_LINE + column * pitch for column in range(len(first))]
    width = _LINE + len(first) * pitch
    width = max(width, _AXES_LABEL_WIDTH) if are_vectors else width
    canvas = _Canvas(width, _GAP + len(rows) * pitch + text_lines * _LINE)

    canvas.texts(lefts, _GAP / 2, [figures.shortened(title, _MAX_TITLE) for title in titles])
    top = _GAP + _LINE * (len(titles) > 0)
    for title, row in rows.items():
        canvas.text(_LINE / 2, top + _CELL / 2, title, rotation=90, va="center")
        if are_vectors:
            same_shape = [other for other in rows.values() if other.shape == row.shape]
            canvas.plots(lefts, top, row, _limits(np.stack(same_shape)))
        else:
            end = canvas.images(lefts, top, _code_pixels(row) if row.ndim == 2 else row)
        top += pitch
        if title in written:
            canvas.texts(lefts, end + _GAP / 2, [_written(code) for code in row])
            top += _LINE
    canvas.texts(lefts, top, notes)
    if are_vectors:
        canvas.text(width / 2, top + note_lines * _LINE, _AXES_LABEL)
    return figures.render(canvas.figure)


class _Canvas:
    """Draws in one Matplotlib Axes, whose coordinates are inches from the upper left corner.

    An Axes for each image would take several times as long.
    """

    def __init__(self, width: float, height: float):
        self.figure = figures.new_figure(width, height, constrained=False)
        self._axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        self._axes.set_axis_off()
        self._axes.set_autoscale_on(False)

    def text(self, x: float, y: float, text: str, **look: Any) -> None:
        default = {"va": "top", "ha": "center", "fontsize": "small", "parse_math": False}
        self._axes.text(x, y, text, **{**default, **look})

    def texts(self, lefts: Sequence[float], top: float, texts: Sequence[str]) -> None:
        """Writes a text in the middle of each column, if there are any."""
        for left, text in zip(lefts, texts, strict=False):
            self.text(left + _CELL / 2, top, text)

    def images(self, lefts: Sequence[float], top: float, images: np.ndarray) -> float:
        """Draws images [N, H, W, C] as large as the cells allow, in their centres.

        Returns where the images end.
        """
        height, width = (_CELL * side / max(images.shape[1:3]) for side in images.shape[1:3])
        top += (_CELL - height) / 2
        look: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1, "interpolation": "nearest"}
        for left, image in zip(lefts, images, strict=True):
            start = left + (_CELL - width) / 2
            extent = (start, start + width, top + height, top)
            self._axes.imshow(_pixels(image), extent=extent, aspect="auto", **look)
            self._frame(start, top, width, height)
        return top + height

    def plots(
        self, lefts: Sequence[float], top: float, vectors: np.ndarray, limits: tuple[float, float]
    ) -> None:
        """Draws vectors [N, D] as steps in cells that span the limits."""
        lowest, highest = limits
        for left, values in zip(lefts, vectors, strict=True):
            edges = left + _CELL * np.arange(len(values) + 1) / len(values)
            y = top + _CELL * (highest - values) / (highest - lowest)
            self._axes.stairs(y, edges, baseline=None, color="black", linewidth=0.8)
            self._frame(left, top, _CELL, _CELL)

    def _frame(self, left: float, top: float, width: float, height: float) -> None:
        from matplotlib.patches import Rectangle

        self._axes.add_patch(Rectangle((left, top), width, height, fill=False, linewidth=0.8))


def _written(code: np.ndarray) -> str:
    return ", ".join(f"{value:z.2g}" for value in code)


def _limits(values: np.ndarray) -> tuple[float, float]:
    """Returns the minimum and the maximum with a margin above 0."""
    lowest, highest = float(values.min()), float(values.max())
    margin = 0.05 * (highest - lowest) or 1.0
    return lowest - margin, highest + margin


def _pixels(image: np.ndarray) -> np.ndarray:
    """Returns the pixels to draw, [H, W] of grey images, [H, W, C] of RGB and RGBA."""
    clipped = np.clip(image, 0, 1)
    return clipped if image.shape[-1] in (3, 4) else clipped[..., 0]


def _code_pixels(codes: np.ndarray) -> np.ndarray:
    """Returns codes [N, K] as images [N, H, W, 1] in [0, 1]."""
    count, size = codes.shape
    height = max(d for d in range(1, math.isqrt(size) + 1) if size % d == 0)
    share_limits = size <= _MAX_WRITTEN
    scaled = figures.scale_each(codes[np.newaxis] if share_limits else codes)
    return scaled.reshape(count, height, -1, 1)
