"""The article's picture: originals, codes and reconstructions in three rows."""

import math

import numpy as np

COLUMNS = 10


def reconstructions(images: np.ndarray, codes: np.ndarray, rebuilt: np.ndarray) -> np.ndarray:
    """Draws images and reconstructions [N, H, W, C] in [0, 1] and codes [N, K] as uint8 RGB.

    A code is drawn as a rectangle as near to a square as K allows, black its least number and
    white its largest.
    """
    # Here, since they take a second that the start of a training does not need.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = {
        "original": [_pixels(image) for image in images],
        "code": [_code_pixels(code) for code in codes],
        "reconstruction": [_pixels(image) for image in rebuilt],
    }
    figure = Figure(figsize=(1 + len(images), 3.3), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(images), squeeze=False)
    for line, (title, pictures) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(title)
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _pixels(image: np.ndarray) -> np.ndarray:
    """[H, W] for grey, [H, W, 3] for colour."""
    clipped = np.clip(image, 0, 1)
    return clipped if image.shape[-1] in (3, 4) else clipped[..., 0]


def _code_pixels(code: np.ndarray) -> np.ndarray:
    spread = np.ptp(code)
    level = (code - code.min()) / (spread if spread > 0 else 1)
    height = max(d for d in range(1, math.isqrt(len(code)) + 1) if len(code) % d == 0)
    return level.reshape(height, -1)
