"""The article's picture: originals, codes and reconstructions in rows."""

import math
from collections.abc import Mapping

import numpy as np

COLUMNS = 10


def reconstructions(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """Draws rows of images [N, H, W, C] in [0, 1], and of codes [N, K], as uint8 RGB [H, W, 3].

    A code is drawn as a rectangle as near to a square as K allows, black its least number and
    white its largest.
    """
    # Here, since they take a second that the start of a training does not need.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = len(next(iter(rows.values())))
    figure = Figure(figsize=(1 + columns, 1.1 * len(rows)), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, (title, row) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(title)
        for axis, picture in zip(line, row, strict=True):
            pixels = _code_pixels(picture) if picture.ndim == 1 else _pixels(picture)
            axis.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Images [N, H, W, C] in [0, 1] side by side in rows of so many, as uint8 RGB [H', W', 3].

    What is missing of the last row is black.
    """
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    cells = np.zeros((rows * columns, height, width, 3), np.uint8)
    colours = images[..., :3] if channels >= 3 else images[..., :1]
    cells[:count] = np.round(255 * np.clip(colours, 0, 1))
    lines = cells.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    return lines.reshape(rows * height, columns * width, 3)


def _pixels(image: np.ndarray) -> np.ndarray:
    """[H, W] for grey, [H, W, 3] for colour."""
    clipped = np.clip(image, 0, 1)
    return clipped if image.shape[-1] in (3, 4) else clipped[..., 0]


def _code_pixels(code: np.ndarray) -> np.ndarray:
    spread = np.ptp(code)
    level = (code - code.min()) / (spread if spread > 0 else 1)
    height = max(d for d in range(1, math.isqrt(len(code)) + 1) if len(code) % d == 0)
    return level.reshape(height, -1)
