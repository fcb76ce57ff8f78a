"""Draws figures: plots, grids of images; writes PNG files."""

import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from trainer.errors import unwritable
from trainer.storage import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 10
_MAX_MARKERS = 50  # points of a line; more are drawn without markers
_RED = (0.9, 0.1, 0.1)
_MAX_NAME = 14  # characters of a class or a feature
_BAR_CHARACTERS = 85  # of a bar of length 1
_ALSO = "also "
STDS = "(+1): one standard deviation above the training mean"
_MAX_SHARES = 5  # features of a bar
_MIN_LABELLED_SHARE = 0.12  # in which a name can be read
_GAP = 2  # white pixels between images
_ENLARGEMENT = 8  # makes single pixels visible
_MIN_SIDE = 500  # pixels of the longer side of a labelled grid, about
_DPI = 100
_TEXT = 40  # pixels of a line of text and its margins
_MAX_CLASSES = 20  # with a colour each
_MAX_TICKS = 8  # texts beside a colour bar
_POINTS_AREA = 30_000  # of all points of a scatter plot, in square points of 1/72 inch


class _Labels(NamedTuple):
    """Holds what is written on the grid of a name."""

    title: str
    x: str = ""  # of the axes
    y: str = ""
    row: str = "vector"  # what a row of vectors is


_LABELS = {
    "filters": _Labels("weights of the first units", row="unit"),
    "interpolations": _Labels(
        "equal steps between the codes of two test examples, left and right",
        row="steps from an example to another, pair by pair",
    ),
    "manifold": _Labels(
        "codes at evenly spaced quantiles of the prior, decoded",
        x="first value of the code, ascending",
        y="second value of the code, ascending",
        row="code, the second value descending, then the first ascending",
    ),
    "prior_samples": _Labels("samples from the prior, decoded", row="sample"),
    "selected_pixels": _Labels("selected pixels (red) on the mean image"),
}


def shortened(text: str, length: int = _MAX_NAME) -> str:
    """Shortens a text to at most `length` characters, by an ellipsis in the middle."""
    end = length // 2
    return text if len(text) <= length else f"{text[: length - end - 1]}…{text[-end:]}"


def lines(
    x: Sequence[float],
    ys: Mapping[str, Sequence[float]],
    title: str,
    xlabel: str,
    ylabel: str,
    *,
    from_zero: bool = True,
) -> np.ndarray:
    """Plots series by label over `x`, by default the y axis from 0, as uint8 RGB [H, W, 3]."""
    figure = new_figure(6, 4)
    axis = figure.subplots()
    marker = "." if len(x) <= _MAX_MARKERS else ""
    for label, y in ys.items():
        axis.plot(x, y, label=label, marker=marker)
    axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
    if from_zero:
        axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    if len(ys) > 1:
        axis.legend()
    return render(figure)


def bars(
    edges: Sequence[float], counts: Sequence[float], title: str, xlabel: str, ylabel: str
) -> np.ndarray:
    """Plots a histogram of `counts` [N] in bins with `edges` [N + 1], as uint8 RGB [H, W, 3]."""
    figure = new_figure(6, 4)
    axis = figure.subplots()
    axis.stairs(counts, edges, fill=True)
    axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
    return render(figure)


def feature_shares(
    parts: np.ndarray,
    feature_names: Sequence[Sequence[str]],
    labels: Sequence[str],
    title: str,
    xlabel: str,
) -> np.ndarray:
    """Draws which features make up a sum of each vector, as uint8 RGB [H, W, 3].

    Takes the parts [N, D] of the sums, such as squared errors, and their names [N][D]. Each
    example, called by its label [N], is a bar of length 1, parted into the features with the
    largest shares and the rest. The names of features whose bars are too short for them follow
    after the last bar, as far as there is room.
    """
    shares = parts / np.maximum(parts.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    figure = new_figure(9, 0.8 + 0.42 * len(parts))
    axis = figure.subplots()
    look: dict[str, Any] = {"size": 7, "parse_math": False}
    for row, each in enumerate(np.nan_to_num(shares)):
        left, unlabelled = 0.0, []
        for number, feature in enumerate(np.argsort(-each, kind="stable")[:_MAX_SHARES]):
            grey = 0.55 + 0.08 * number
            axis.barh(row, each[feature], left=left, color=(grey, grey, grey), edgecolor="white")
            if each[feature] >= _MIN_LABELLED_SHARE:
                name = shortened(feature_names[row][feature], int(each[feature] * _BAR_CHARACTERS))
                place = left + each[feature] / 2, row
                axis.text(*place, name, ha="center", va="center", **look)
            elif each[feature] > 0:
                unlabelled.append(shortened(feature_names[row][feature]))
            left += each[feature]
        also = _joined(unlabelled, int((1 - left) * _BAR_CHARACTERS) - len(_ALSO))
        if also:
            axis.text(left + 0.01, row, _ALSO + also, ha="left", va="center", **look)
    axis.set(title=title, xlim=(0, 1), xlabel=xlabel, yticks=range(len(labels)))
    axis.set_yticklabels(labels, fontsize="small", parse_math=False)
    axis.invert_yaxis()
    return render(figure)


def _joined(names: Sequence[str], length: int) -> str:
    """Joins as many of the first names as `length` characters allow."""
    ends = itertools.accumulate(len(name) + 2 for name in names)
    return ", ".join(name for name, end in zip(names, ends, strict=True) if end <= length)


def scatter(
    points: np.ndarray, values: np.ndarray, title: str, axes: tuple[str, str], values_label: str
) -> np.ndarray:
    """Plots points [N, 2] coloured by their values [N], as uint8 RGB [H, W, 3].

    Up to 20 whole numbers or texts get a colour each and a legend. Other values get a colour bar,
    which ends at the quantiles of 1 and 99 %; texts are on it in alphabetical order.
    """
    figure = new_figure(8, 6)
    axis = figure.subplots()
    order = np.random.default_rng(0).permutation(len(points))  # no class covers another
    (x, y), values = points[order].T, values[order]
    look: dict[str, Any] = {"linewidths": 0, "s": np.clip(_POINTS_AREA / len(points), 4, 30)}
    names, ranks = np.unique(values, return_inverse=True)
    if values.dtype.kind != "f" and len(names) <= _MAX_CLASSES:
        palette = _palette(len(names))
        axis.scatter(x, y, color=palette[ranks], **look)
        handles = [axis.scatter([], [], color=colour) for colour in palette]
        shown = [shortened(str(name)) for name in names]
        legend = figure.legend(handles, shown, title=values_label, loc="outside right upper")
        for text in legend.get_texts():
            text.set_parse_math(False)  # a class may hold dollars
    else:
        is_text = values.dtype.kind == "U"
        numbers = ranks if is_text else values.astype(float)
        low, high = np.nanquantile(numbers, (0, 1) if is_text else (0.01, 0.99))
        drawn = axis.scatter(x, y, c=numbers, vmin=low, vmax=high, plotnonfinite=True, **look)
        bar = figure.colorbar(drawn, label=values_label, extend="neither" if is_text else "both")
        if is_text:
            ticks = np.linspace(low, high, _MAX_TICKS).astype(int)
            labels = [shortened(name) for name in names[ticks]]
            bar.set_ticks(ticks.tolist(), labels=labels, parse_math=False)
    axis.set(title=title, xlabel=axes[0], ylabel=axes[1])
    return render(figure)


def _palette(count: int) -> np.ndarray:
    """Returns colours that can be told apart, RGBA [count, 4], of at most 20."""
    from matplotlib import colormaps

    return colormaps["tab10" if count <= 10 else "tab20"](np.arange(count))


def png(pixels: np.ndarray) -> bytes:
    """Encodes uint8 pixels, [H, W, 1] grey or [H, W, C] RGB or RGBA, as PNG."""
    content = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(content, "PNG")
    return content.getvalue()


def write_png(path: str | Path, pixels: np.ndarray) -> None:
    """Writes uint8 pixels [H, W, 3] to a PNG file, whole or not at all.

    Raises:
      UserError: the file cannot be written.
      StorageError: the disk is full.
    """
    try:
        atomic.write_bytes(Path(path), png(pixels))
    except OSError as error:
        raise unwritable(path, error) from error


def new_figure(width: float, height: float, constrained: bool = True) -> "Figure":
    """Returns an empty figure of a size in inches; `constrained` leaves room for the labels."""
    # Imported here, since the import would delay the start of a training by a second.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained" if constrained else None)


def render(figure: "Figure") -> np.ndarray:
    """Returns the pixels of a figure, uint8 RGB [H, W, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def labelled_grid(
    name: str,
    images: np.ndarray,
    columns: int,
    gap: int = _GAP,
    stretch: bool = False,
    marks: np.ndarray | None = None,
) -> np.ndarray:
    """Draws `grid` enlarged, with a title and the axes of a figure's name, as uint8 RGB [H, W, 3].

    Vectors [N, D] of any range become a heat map with a row each.
    """
    labels = _LABELS.get(name, _Labels(name.replace("_", " ")))
    if images.ndim == 2:
        return _heat_map(images, labels)
    title = labels.title + (", each scaled from black to white" if stretch else "")
    pixels = grid(images, columns, gap, stretch, marks)
    factor = max(1, _MIN_SIDE // max(pixels.shape[:2]))
    pixels = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = pixels.shape[:2]
    left, below = (_TEXT if text else _TEXT // 4 for text in (labels.y, labels.x))
    # Room for the title, whatever the width of the images.
    whole_width = max(left + width + _TEXT // 4, _MIN_SIDE)
    whole_height = below + height + _TEXT
    figure = new_figure(whole_width / _DPI, whole_height / _DPI, constrained=False)
    place = left / whole_width, below / whole_height, width / whole_width, height / whole_height
    axis = figure.add_axes(place)
    axis.imshow(pixels, interpolation="nearest", aspect="auto")
    axis.set(xticks=[], yticks=[], xlabel=labels.x, ylabel=labels.y, frame_on=False)
    figure.text(left / whole_width, 1 - 0.6 * _TEXT / whole_height, title)
    return render(figure)


def grid(
    images: np.ndarray,
    columns: int,
    gap: int = _GAP,
    stretch: bool = False,
    marks: np.ndarray | None = None,
) -> np.ndarray:
    """Draws images [N, H, W, C] in [0, 1] in rows of `columns`, as uint8 RGB [H', W', 3].

    The `gap` pixels between images and the missing images of the last row are white. `stretch`
    scales each image so that its values span [0, 1]. `marks` [N, H, W] draws the images in grey,
    the marked pixels in red, and each pixel as a square of 8 x 8.
    """
    if stretch:
        images = scale_each(images)
    if marks is not None:
        images = _mark(images, marks)
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    down, across = height + gap, width + gap
    cells = np.full((rows * columns, down, across, 3), 255, np.uint8)
    colours = images[..., :3] if channels >= 3 else images[..., :1]
    cells[:count, :height, :width] = np.round(255 * np.clip(colours, 0, 1))
    lines = cells.reshape(rows, columns, down, across, 3).swapaxes(1, 2)
    whole = lines.reshape(rows * down, columns * across, 3)
    return whole[: len(whole) - gap, : columns * across - gap]


def scale_each(images: np.ndarray) -> np.ndarray:
    """Scales each image or vector [N, ...] so that its values span [0, 1]."""
    axes = tuple(range(1, images.ndim))
    lowest, highest = images.min(axes, keepdims=True), images.max(axes, keepdims=True)
    return (images - lowest) / np.maximum(highest - lowest, np.finfo(images.dtype).tiny)


def _mark(images: np.ndarray, marks: np.ndarray) -> np.ndarray:
    rgb = np.clip(images.mean(axis=-1, keepdims=True), 0, 1).repeat(3, axis=-1)
    rgb[marks] = _RED
    return rgb.repeat(_ENLARGEMENT, axis=1).repeat(_ENLARGEMENT, axis=2)


def _heat_map(vectors: np.ndarray, labels: _Labels) -> np.ndarray:
    figure = new_figure(7, 5)
    axis = figure.subplots()
    image = axis.imshow(vectors, cmap="gray", aspect="auto", interpolation="nearest")
    axis.set(title=labels.title, xlabel="feature", ylabel=labels.row)
    figure.colorbar(image, label="value, as the model sees it")
    return render(figure)
