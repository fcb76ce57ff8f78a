"""Sets runs beside each other and beside PCA, by what their workdirs say: a table and a plot.

Needs no TensorFlow: it reads what training and evaluation have written.
"""

import dataclasses
import io
import itertools
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import UserError, require
from trainer.run import workdir
from trainer.run.metrics_log import training_seconds
from trainer.storage import atomic, paths

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

TABLE = "compare.md"
PICTURE = "compare.png"
_FINGERPRINT_DIGITS = 8  # shown
_MARKERS = "os^Dv*PX"  # a new one for each ten runs
_COLOURS = [f"C{number}" for number in range(10)]
_LEGEND_LINES = 30  # in a column
_LEGEND_LINE_INCHES = 0.21
_LETTER_INCHES = 0.085
_MOST_TICKS = 8  # code sizes that fit below a plot
_FAR_APART = 5  # times


@dataclasses.dataclass(frozen=True)
class Run:
    """A run by its config and its log; what they do not say is NaN."""

    workdir: Path
    name: str  # that tells it from those beside it
    kind: str
    data: str
    data_fingerprint: str
    devices: str
    last_step: int  # logged; 0: none
    validation_loss: float
    images_per_second: float
    training_seconds: float


@dataclasses.dataclass(frozen=True)
class MeasuredRun(Run):
    """A run that is evaluated, with what of its metrics is compared."""

    step: int
    code_size: int
    test_images: int
    mse: float
    pca_mse: float = math.nan
    mse_to_pca: float = math.nan
    probe_accuracy: float = math.nan
    pca_probe_accuracy: float = math.nan
    knn_accuracy: float = math.nan


def find(names: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """The workdirs that are named, or lie in the folders that are; and the other paths met.

    These are files that are named, but for an earlier comparison's, and folders without a run
    beside those with one.

    Raises:
      UserError: nothing has such a name, or there is no run where one is named.
    """
    require(bool(names), "name the workdirs to compare, or folders that hold them, as runs/*")
    runs: dict[Path, Path] = {}
    others = []
    for path in map(paths.path_of, names):
        require(path.exists(), f"{path} does not exist")
        if not path.is_dir():
            others += [path] if path.name not in (TABLE, PICTURE) else []
            continue
        folders = [path] if _is_run(path) else sorted(filter(Path.is_dir, path.iterdir()))
        found = {folder.resolve(): folder for folder in folders if _is_run(folder)}
        require(
            bool(found),
            f"{path} holds no run: there is no {workdir.CONFIG} in it, nor in the folders in it",
        )
        runs |= found
        others += [folder for folder in folders if not _is_run(folder)]
    require(bool(runs), f"none of these is a workdir: {', '.join(names)}")
    return list(runs.values()), others


def evaluate(workdirs: Iterable[Path]) -> int:
    """Has `trainer.evaluate` measure the runs that have not been, each in a process of its own.

    Returns 0, or the status of the first that failed, having said why.
    """
    failed = 0
    for folder in workdirs:
        if workdir.read_metrics(folder) is None:
            print(f"evaluating {folder}", flush=True)
            command = [sys.executable, "-m", "trainer.evaluate", f"--workdir={folder}"]
            done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
            failed = failed or done.returncode
    return failed


def place(workdirs: Sequence[Path], output: str = "", *, overwrite: bool = False) -> Path:
    """Where `compare.md` and `compare.png` go: the output, or the nearest folder of all runs.

    Raises:
      UserError: one of them is there.
    """
    return paths.check_output_files(
        output or _shared(workdirs), (TABLE, PICTURE), overwrite=overwrite
    )


def compare(workdirs: Sequence[Path], output: str = "", *, overwrite: bool = False) -> str:
    """Writes the table and the plots of runs, `compare.md` and `compare.png`, to a folder.

    Returns the table and where it is, to be printed. Runs on different data, or measured on
    another number of test images, have a table and a row of plots each.

    Raises:
      UserError: as `place`; a run cannot be read, none is evaluated, or the folder cannot be
        written.
    """
    folder = place(workdirs, output, overwrite=overwrite)
    runs = [_read(folder, name) for folder, name in zip(workdirs, _names(workdirs), strict=True)]
    groups = _groups(run for run in runs if isinstance(run, MeasuredRun))
    others = [run for run in runs if not isinstance(run, MeasuredRun)]
    require(
        bool(groups),
        f"no run is evaluated, which --evaluate does: {'; '.join(map(_progress, others))}",
    )
    text = _text(groups, others)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(folder / PICTURE, _plots(groups))
        atomic.write_text(folder / TABLE, f"# Runs beside PCA\n\n{text}\n![Plots]({PICTURE})\n")
    except OSError as error:
        raise UserError(f"output={str(folder)!r} cannot be written: {error.strerror}") from error
    return f"{text}\ntable      {folder / TABLE}\npicture    {folder / PICTURE}"


def _is_run(folder: Path) -> bool:
    return (folder / workdir.CONFIG).is_file()


def _names(workdirs: Sequence[Path]) -> list[str]:
    """The folders' paths from the nearest folder that holds all of them."""
    shared = _shared(workdirs)
    return [str(path.resolve().relative_to(shared)) for path in workdirs]


def _shared(workdirs: Sequence[Path]) -> Path:
    """The nearest folder that holds all of them."""
    return Path(os.path.commonpath([path.resolve().parent for path in workdirs]))


def _read(folder: Path, name: str) -> Run:
    described = workdir.read(folder)
    config, rows = described.config, described.log.rows()
    seconds = training_seconds(rows, config.batch_size)
    timed_steps = max((row["step"] for row in rows if row["split"] == "train"), default=0)
    losses = [row["loss"] for row in rows if row["split"] == "validation"]
    run = Run(
        workdir=folder,
        name=name,
        kind=config.model.name,
        data=config.data.name,
        data_fingerprint=described.data_fingerprint,
        devices=", ".join(described.executions),
        last_step=rows[-1]["step"] if rows else 0,
        validation_loss=losses[-1] if losses else math.nan,
        images_per_second=timed_steps * config.batch_size / seconds if seconds else math.nan,
        training_seconds=seconds if seconds else math.nan,
    )
    metrics = workdir.read_metrics(folder)
    return run if metrics is None else _measured(run, metrics)


def _measured(run: Run, metrics: Mapping[str, Any]) -> MeasuredRun:
    names = {field.name for field in dataclasses.fields(MeasuredRun)} - vars(run).keys()
    path = run.workdir / workdir.METRICS
    figures = {key: metrics[key] for key in sorted(names & metrics.keys())}
    for key, figure in figures.items():
        require(
            isinstance(figure, int | float) and figure >= (1 if key == "code_size" else 0),
            f"{path} is damaged: {key}={figure!r} is none that an evaluation writes",
        )
    try:
        return MeasuredRun(**vars(run), **figures)
    except TypeError as error:
        raise UserError(f"{path} lacks a figure that every evaluation writes") from error


def _groups(runs: Iterable[MeasuredRun]) -> list[list[MeasuredRun]]:
    """Together those that were measured on the same images, by the size of their codes."""
    groups: dict[tuple[str, int], list[MeasuredRun]] = {}
    for run in sorted(runs, key=lambda run: (run.code_size, run.mse)):
        groups.setdefault((run.data_fingerprint, run.test_images), []).append(run)
    return list(groups.values())


def _heading(group: Sequence[MeasuredRun]) -> str:
    names = ", ".join(sorted({run.data for run in group}))
    digits = group[0].data_fingerprint[:_FINGERPRINT_DIGITS]
    return f"{names}, {group[0].test_images:,} test images (data {digits})"


def _text(groups: Sequence[Sequence[MeasuredRun]], others: Sequence[Run]) -> str:
    """The tables, and what else is to be known of the runs, in Markdown."""
    lines = []
    if len(groups) > 1:
        lines += [f"These runs are on {len(groups)} different data: a table for each.", ""]
    for group in groups:
        lines += [f"## {_heading(group)}", "", *_table(group), ""]
        older = [run for run in group if run.step != run.last_step]
        lines += [
            f"- {run.workdir} is measured at step {run.step:,} of {run.last_step:,}; "
            f"python -m trainer.evaluate --workdir={run.workdir} measures the last"
            for run in older
        ]
        lines += [""] * bool(older)
    if others:
        lines += ["Not evaluated, which --evaluate does:", ""]
        lines += [*(f"- {_progress(run)}" for run in others), ""]
    return "\n".join(lines)


def _progress(run: Run) -> str:
    """How far a run is, by its log."""
    if not run.last_step:
        return f"{run.workdir}, which has logged nothing"
    loss = run.validation_loss
    validated = "not validated yet" if math.isnan(loss) else f"validation loss {loss:.5f}"
    return f"{run.workdir} at step {run.last_step:,}, {validated}"


def _table(group: Sequence[MeasuredRun]) -> Iterator[str]:
    """Lines of Markdown, their columns aligned for the terminal."""
    words = {
        "run": [run.name.replace("|", r"\|") for run in group],
        "kind": [run.kind for run in group],
        "on": [run.devices for run in group],
    }
    numbers = {
        "code": [str(run.code_size) for run in group],
        "mse": [_number(run.mse, ".5f") for run in group],
        "PCA's mse": [_number(run.pca_mse, ".5f") for run in group],
        "of PCA's": [_number(run.mse_to_pca, ".3f") for run in group],
        "probe": [_number(run.probe_accuracy, ".1%") for run in group],
        "PCA's probe": [_number(run.pca_probe_accuracy, ".1%") for run in group],
        "5 neighbours": [_number(run.knn_accuracy, ".1%") for run in group],
        "images/s": [_number(run.images_per_second, ",.0f") for run in group],
        "training, s": [_number(run.training_seconds, ",.1f") for run in group],
    }
    columns = [_column(name, cells, "<", "-") for name, cells in words.items()]
    columns[2:2] = [_column(name, cells, ">", ":") for name, cells in numbers.items()]
    return (f"| {' | '.join(cells)} |" for cells in zip(*columns, strict=True))


def _column(name: str, cells: Sequence[str], aligned: str, rule_end: str) -> list[str]:
    """A name, Markdown's rule and the cells, all of one width."""
    width = max(map(len, (name, *cells)))
    first, *rest = (format(cell, f"{aligned}{width}") for cell in (name, *cells))
    return [first, "-" * (width - 1) + rule_end, *rest]


def _number(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)


def _plots(groups: Sequence[Sequence[MeasuredRun]]) -> bytes:
    """A PNG with a row of plots for each group."""
    # Here, since it takes a second that a mistake should not wait for.
    from matplotlib.figure import Figure

    entries = [len(group) + 1 for group in groups]
    heights = [max(4.2, 1 + _LEGEND_LINE_INCHES * min(count, _LEGEND_LINES)) for count in entries]
    longest = max(len(run.name) for group in groups for run in group)
    legend_width = (0.8 + _LETTER_INCHES * longest) * _legend_columns(max(entries))
    size = (15 + legend_width, sum(heights))
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    rows = figure.subfigures(len(groups), 1, squeeze=False, height_ratios=heights)
    for row, group in zip(rows[:, 0], groups, strict=True):
        _plot(row, group)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _plot(row: "SubFigure", group: Sequence[MeasuredRun]) -> None:
    """Error and accuracy over the code's size, and speed."""
    from matplotlib.ticker import PercentFormatter

    error, accuracy, speed = row.subplots(1, 3)
    handles = []
    looks = itertools.cycle(itertools.product(_MARKERS, _COLOURS))
    for run, (marker, colour) in zip(group, looks, strict=False):
        look: dict[str, Any] = {"marker": marker, "color": colour, "linestyle": "none"}
        handles += error.plot(run.code_size, run.mse, **look)
        on_rim = {"clip_on": False, "zorder": 3}  # whole where it is at 100 %
        accuracy.plot(run.code_size, run.probe_accuracy, **look, **on_rim)
        accuracy.plot(run.code_size, run.knn_accuracy, markerfacecolor="none", **look, **on_rim)
        speed.plot(run.training_seconds, run.images_per_second, **look)
    names = [run.name for run in group]
    pca = {run.code_size: run.pca_mse for run in group if not math.isnan(run.pca_mse)}
    if pca:
        names.append("PCA")
        look = {"color": "black", "marker": ".", "zorder": 1}
        handles += error.plot(list(pca), list(pca.values()), **look)
        probes = {run.code_size: run.pca_probe_accuracy for run in group if run.code_size in pca}
        accuracy.plot(list(probes), list(probes.values()), **look)
    for axis in (error, accuracy, speed):
        axis.margins(0.1)
        axis.grid(alpha=0.3)

    row.suptitle(_heading(group)).set_parse_math(False)
    error.set(title="error", ylabel="mse of a pixel")
    accuracy.set(title="labels told from codes", ylabel="accuracy (hollow: by 5 neighbours)")
    speed.set(title="speed", xlabel="training, seconds", ylabel="images per second")
    for axis in (error, accuracy):
        _set_code_axis(axis, sorted({run.code_size for run in group}))
    _set_scale(error, "y", [*(run.mse for run in group), *pca.values()])
    _set_scale(speed, "x", [run.training_seconds for run in group])
    _set_scale(speed, "y", [run.images_per_second for run in group])
    accuracy.set_ylim(top=min(accuracy.get_ylim()[1], 1))
    accuracy.yaxis.set_major_formatter(PercentFormatter(1))
    if all(math.isnan(run.probe_accuracy) for run in group):
        accuracy.set_yticks([])
        accuracy.text(0.5, 0.5, "no labels", ha="center", transform=accuracy.transAxes)
    columns = _legend_columns(len(handles))
    legend = row.legend(handles, names, loc="outside right upper", ncols=columns)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a folder's name may hold dollars


def _legend_columns(entries: int) -> int:
    return math.ceil(entries / _LEGEND_LINES)


def _set_code_axis(axis: "Axes", sizes: Sequence[int]) -> None:
    """Marks those sizes, in ascending order, whose numbers do not touch each other."""
    nearest = (sizes[-1] / sizes[0]) ** (1 / _MOST_TICKS)
    ticks = [sizes[0]]
    for size in sizes[1:]:
        if size > ticks[-1] * nearest:
            ticks.append(size)
    margin = (sizes[-1] / sizes[0]) ** 0.1 if len(sizes) > 1 else 2
    limits = (sizes[0] / margin, sizes[-1] * margin)
    axis.set(xscale="log", xlabel="numbers in the code", xlim=limits)
    axis.set_xticks(ticks, [str(size) for size in ticks])
    axis.set_xticks([], minor=True)


def _set_scale(axes: "Axes", direction: str, values: Iterable[float]) -> None:
    """A logarithmic scale, marked at 1, 2, 5, 10, for values that are far apart."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis = {"x": axes.xaxis, "y": axes.yaxis}[direction]
    known = [value for value in values if not math.isnan(value)]
    if known and 0 < min(known) <= max(known) / _FAR_APART:
        axes.set(**{f"{direction}scale": "log"})
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter("{x:,.10g}")
