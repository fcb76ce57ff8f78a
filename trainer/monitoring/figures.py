"""The article's picture, of originals, codes and reconstructions in rows; and plots."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from trainer.errors import UserError
from trainer.storage import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 10
_MARKED_POINTS = 50  # at most, or their marks run together
_MARK = (0.9, 0.1, 0.1)  # red
_GAP = 2  # white pixels between images
_ENLARGED = 8  # times, so that single pixels are seen


def reconstructions(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """Draws rows of images [N, H, W, C] in [0, 1], and of codes [N, K], as uint8 RGB [H, W, 3].

    A code is drawn as a rectangle as near to a square as K allows, black its least number and
    white its largest. Where the first row is of vectors [N, D], each vector and each code is drawn
    as a line of its numbers; rows of equally many share their limits.
    """
    first = next(iter(rows.values()))
    columns = len(first)
    figure = _figure(1 + columns, 1.1 * len(rows))
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, (title, row) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(title)
        alike = np.stack([other for other in rows.values() if other.shape == row.shape])
        for axis, picture in zip(line, row, strict=True):
            axis.set(xticks=[], yticks=[])
            if first.ndim == 2:
                axis.plot(picture, drawstyle="steps-mid", color="black", linewidth=0.8)
                axis.set_ylim(*_limits(alike))
            else:
                pixels = _code_pixels(picture) if picture.ndim == 1 else _pixels(picture)
                axis.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    return _drawn(figure)


def lines(
    x: Sequence[float], ys: Mapping[str, Sequence[float]], xlabel: str, ylabel: str
) -> np.ndarray:
    """Plots each of some series over x, by their labels, from 0 up, as uint8 RGB [H, W, 3]."""
    figure = _figure(6, 4)
    axis = figure.subplots()
    marker = "." if len(x) <= _MARKED_POINTS else ""
    for label, y in ys.items():
        axis.plot(x, y, label=label, marker=marker)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend()
    return _drawn(figure)


def bars(edges: Sequence[float], counts: Sequence[float], xlabel: str, ylabel: str) -> np.ndarray:
    """A histogram of counts between each two of the edges, as uint8 RGB [H, W, 3]."""
    figure = _figure(6, 4)
    axis = figure.subplots()
    axis.stairs(counts, edges, fill=True)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    return _drawn(figure)


def png(pixels: np.ndarray) -> bytes:
    """Pixels, uint8 [H, W, 1] of grey or [H, W, C] of RGB or RGBA, as the content of a PNG file."""
    content = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(content, "PNG")
    return content.getvalue()


def write_picture(path: str | Path, pixels: np.ndarray) -> None:
    """Writes pixels, uint8 [H, W, 3], to a PNG file, whole or not at all.

    Raises:
      UserError: it cannot be written.
    """
    try:
        atomic.write_bytes(Path(path), png(pixels))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def _figure(width: float, height: float) -> "Figure":
    # Here, since it takes a second that the start of a training does not need.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def _drawn(figure: "Figure") -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def grid(
    images: np.ndarray,
    columns: int,
    gap: int = _GAP,
    stretch: bool = False,
    marks: np.ndarray | None = None,
) -> np.ndarray:
    """Draws images [N, H, W, C] in [0, 1] in rows of `columns`, as uint8 RGB [H', W', 3].

    Two images are `gap` white pixels apart; what is missing of the last row is white. `stretch`
    draws the least number of each image black and its largest white. `marks` [N, H, W] draws the
    images in grey, the marked pixels red, and each pixel as a square of 8 x 8. Vectors [N, D] of
    any numbers become one map instead, a line each.
    """
    if images.ndim == 2:
        return _map(images)
    if stretch:
        images = _stretched(images)
    if marks is not None:
        images = _marked(images, marks)
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    down, across = height + gap, width + gap
    cells = np.full((rows * columns, down, across, 3), 255, np.uint8)
    colours = images[..., :3] if channels >= 3 else images[..., :1]
    cells[:count, :height, :width] = np.round(255 * np.clip(colours, 0, 1))
    lines = cells.reshape(rows, columns, down, across, 3).swapaxes(1, 2)
    whole = lines.reshape(rows * down, columns * across, 3)
    return whole[: len(whole) - gap, : columns * across - gap]


def _stretched(images: np.ndarray) -> np.ndarray:
    axes = tuple(range(1, images.ndim))
    lowest, highest = images.min(axes, keepdims=True), images.max(axes, keepdims=True)
    return (images - lowest) / np.maximum(highest - lowest, np.finfo(images.dtype).tiny)


def _marked(images: np.ndarray, marks: np.ndarray) -> np.ndarray:
    marked = np.clip(images.mean(axis=-1, keepdims=True), 0, 1).repeat(3, axis=-1)
    marked[marks] = _MARK
    return marked.repeat(_ENLARGED, axis=1).repeat(_ENLARGED, axis=2)


def _map(vectors: np.ndarray) -> np.ndarray:
    figure = _figure(6, 4)
    axis = figure.subplots()
    drawn = axis.imshow(vectors, cmap="gray", aspect="auto", interpolation="nearest")
    axis.set(xlabel="feature", ylabel="vector")
    figure.colorbar(drawn)
    return _drawn(figure)


def _limits(numbers: np.ndarray) -> tuple[float, float]:
    """The least and the largest, with a margin that is never empty."""
    lowest, highest = float(numbers.min()), float(numbers.max())
    margin = 0.05 * (highest - lowest) or 1.0
    return lowest - margin, highest + margin


def _pixels(image: np.ndarray) -> np.ndarray:
    """[H, W] for grey, [H, W, 3] for colour."""
    clipped = np.clip(image, 0, 1)
    return clipped if image.shape[-1] in (3, 4) else clipped[..., 0]


def _code_pixels(code: np.ndarray) -> np.ndarray:
    spread = np.ptp(code)
    level = (code - code.min()) / (spread if spread > 0 else 1)
    height = max(d for d in range(1, math.isqrt(len(code)) + 1) if len(code) % d == 0)
    return level.reshape(height, -1)
