"""Draws the plots of `trainer.compare`: error and accuracy by code size, and speed."""

import io
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

    from trainer.evaluation.compare import ComparedRun

_MARKERS = "os^Dv*PX"  # a new marker for each ten runs
_COLOURS = [f"C{number}" for number in range(10)]
_LEGEND_LINES = 30  # in a column
_LEGEND_LINE_INCHES = 0.21
_LETTER_INCHES = 0.085
_MAX_TICKS = 8  # code sizes that fit below a plot
_LOG_RATIO = 5  # of the largest value to the smallest, from which on a scale is logarithmic


def draw(groups: Sequence[tuple[str, Sequence["ComparedRun"]]]) -> bytes:
    """Draws a row of plots for each group of runs, under its heading; returns a PNG."""
    # Imported here, since a message about a mistake should not wait a second for matplotlib.
    from matplotlib.figure import Figure

    entries = [len(group) + 1 for _, group in groups]
    heights = [max(4.2, 1 + _LEGEND_LINE_INCHES * min(count, _LEGEND_LINES)) for count in entries]
    longest = max(len(run.name) for _, group in groups for run in group)
    legend_width = (0.8 + _LETTER_INCHES * longest) * _legend_columns(max(entries))
    size = (15 + legend_width, sum(heights))
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    rows = figure.subfigures(len(groups), 1, squeeze=False, height_ratios=heights)
    for row, (heading, group) in zip(rows[:, 0], groups, strict=True):
        draw_row(row, heading, group)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def draw_row(row: "SubFigure", heading: str, group: Sequence["ComparedRun"]) -> None:
    """Draws the three plots of a group and their legend."""
    error, accuracy, speed = row.subplots(1, 3)
    handles = []
    looks = itertools.cycle(itertools.product(_MARKERS, _COLOURS))
    for run, (marker, colour) in zip(group, looks, strict=False):
        look: dict[str, Any] = {"marker": marker, "color": colour, "linestyle": "none"}
        size = run.metric("code_size")
        handles += error.plot(size, run.metric("mse"), **look)
        on_rim = look | {"clip_on": False, "zorder": 3}  # draws markers at 100 % whole
        accuracy.plot(size, run.metric("probe_accuracy"), **on_rim)
        accuracy.plot(size, run.metric("knn_accuracy"), markerfacecolor="none", **on_rim)
        speed.plot(run.training_seconds, run.images_per_second, **look)
    names = [run.name for run in group]
    with_pca = {run.components: run for run in group if "pca_mse" in run.metrics}
    if with_pca:
        names.append("PCA")
        look = {"color": "black", "marker": ".", "zorder": 1}
        for axes, metric in ((error, "pca_mse"), (accuracy, "pca_probe_accuracy")):
            values = [run.metric(metric) for run in with_pca.values()]
            lines = axes.plot(list(with_pca), values, **look)
            handles += lines if axes is error else []

    row.suptitle(heading).set_parse_math(False)
    error.set(title="error", ylabel="mean squared error, test")
    accuracy.set(title="accuracy of classifiers on codes", ylabel="test accuracy (hollow: 5-NN)")
    speed.set(title="speed", xlabel="training, seconds", ylabel="examples per second")
    for axes in (error, accuracy, speed):
        axes.margins(0.1)
        axes.grid(alpha=0.3)
    for axes in (error, accuracy):
        sizes = {run.metric("code_size") for run in group} | with_pca.keys()
        _set_code_axis(axes, sorted(map(int, sizes)), with_pca=bool(with_pca))
    errors = [run.metric(metric) for run in group for metric in ("mse", "pca_mse")]
    _set_scale(error, "y", errors)
    _set_scale(speed, "x", [run.training_seconds for run in group])
    _set_scale(speed, "y", [run.images_per_second for run in group])
    _set_accuracy_axis(accuracy, any("probe_accuracy" in run.metrics for run in group))
    columns = _legend_columns(len(handles))
    legend = row.legend(handles, names, loc="outside right upper", ncols=columns)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a folder's name may hold dollars


def _legend_columns(entries: int) -> int:
    return math.ceil(entries / _LEGEND_LINES)


def _set_accuracy_axis(axes: "Axes", has_labels: bool) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.set_ylim(top=min(axes.get_ylim()[1], 1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    if not has_labels:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no labels", ha="center", transform=axes.transAxes)


def _set_code_axis(axes: "Axes", sizes: Sequence[int], *, with_pca: bool) -> None:
    """Labels the sizes, in ascending order, whose labels do not overlap."""
    nearest = (sizes[-1] / sizes[0]) ** (1 / _MAX_TICKS)
    ticks = [sizes[0]]
    for size in sizes[1:]:
        if size > ticks[-1] * nearest:
            ticks.append(size)
    margin = (sizes[-1] / sizes[0]) ** 0.1 if len(sizes) > 1 else 2
    limits = (sizes[0] / margin, sizes[-1] * margin)
    label = "values of the code" + (", components of PCA" if with_pca else "")
    axes.set(xscale="log", xlabel=label, xlim=limits)
    axes.set_xticks(ticks, [str(size) for size in ticks])
    axes.set_xticks([], minor=True)


def _set_scale(axes: "Axes", direction: str, values: Iterable[float]) -> None:
    """Sets a logarithmic scale, marked at 1, 2, 5, 10, for values that are far apart."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis = {"x": axes.xaxis, "y": axes.yaxis}[direction]
    known = [value for value in values if not math.isnan(value)]
    if known and 0 < min(known) <= max(known) / _LOG_RATIO:
        axes.set(**{f"{direction}scale": "log"})
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter("{x:,.10g}")
