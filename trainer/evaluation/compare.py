"""Compares runs with each other and with PCA, in a table and plots.

Reads the files of training and evaluation in the workdirs, without TensorFlow.
"""

import dataclasses
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from trainer.errors import require, unwritable
from trainer.evaluation import compare_plots, evaluators
from trainer.run import workdir
from trainer.run.metrics_log import training_seconds, validations
from trainer.storage import atomic, paths

TABLE = "compare.md"
FIGURE = "compare.png"
_FINGERPRINT_DIGITS = 8  # shown
_FINGERPRINT = "test_fingerprint"
_REQUIRED = ("step", "code_size", "test_examples", "mse")  # numbers in every metrics.json
_OPTIONAL = ("pca_mse", "pca_components", "probe_accuracy", "pca_probe_accuracy", "knn_accuracy")


@dataclasses.dataclass(frozen=True)
class ComparedRun:
    """Describes a run by its config, log and metrics; missing values are NaN."""

    workdir: Path
    name: str  # the path from the nearest folder that holds all runs
    kind: str
    data: str
    test_fingerprint: str  # "" unless the run is evaluated
    devices: str
    last_step: int  # logged; 0: none
    validation_loss: float
    images_per_second: float
    training_seconds: float
    metrics: Mapping[str, float]  # only compared metrics; {} unless the run is evaluated

    def metric(self, name: str) -> float:
        """Returns a metric, or NaN."""
        return self.metrics.get(name, math.nan)

    @property
    def components(self) -> float:
        """Returns the number of PCA's components, at most the code's values; NaN without PCA."""
        if "pca_mse" not in self.metrics:
            return math.nan
        return self.metrics.get("pca_components", self.metric("code_size"))


def find(names: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Returns the workdirs among the named folders and their subfolders, and the other paths.

    The other paths are named files, except an earlier comparison's, and folders without a
    run next to folders with one.

    Raises:
      UserError: a path does not exist or holds no run.
    """
    require(bool(names), "name the workdirs to compare, or folders that hold them, as runs/*")
    runs: dict[Path, Path] = {}
    others = []
    for path in map(paths.path_of, names):
        require(path.exists(), f"{path} does not exist")
        if not path.is_dir():
            others += [path] if path.name not in (TABLE, FIGURE) else []
            continue
        folders = [path] if _is_run(path) else sorted(filter(Path.is_dir, path.iterdir()))
        found = {folder.resolve(): folder for folder in folders if _is_run(folder)}
        require(
            bool(found),
            f"{path} holds no run: there is no {workdir.CONFIG} in it, nor in its subfolders",
        )
        runs |= found
        others += [folder for folder in folders if not _is_run(folder)]
    require(bool(runs), f"none of these is a workdir: {', '.join(names)}")
    return list(runs.values()), others


def evaluate(workdirs: Iterable[Path]) -> int:
    """Runs `trainer.evaluate` on the runs that are not evaluated, each in a process of its own.

    Returns 0, or the exit status of the first evaluation that failed, which has printed why.
    """
    failed = 0
    for folder in workdirs:
        if workdir.read_metrics(folder) is None:
            print(f"evaluating {folder}", flush=True)
            command = [sys.executable, "-m", "trainer.evaluate", f"--workdir={folder}"]
            done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
            failed = failed or done.returncode
    return failed


def output_folder(workdirs: Sequence[Path], output: str = "", *, overwrite: bool = False) -> Path:
    """Returns the folder of `compare.md` and `compare.png`, by default the one that holds all runs.

    An earlier comparison is replaced.

    Raises:
      UserError: one of the files exists, is not a comparison and may not be replaced.
    """
    folder = paths.path_of(output or _common_folder(workdirs))
    overwrite = overwrite or _is_comparison(folder / TABLE)
    return paths.check_output_files(folder, (TABLE, FIGURE), overwrite=overwrite)


def _is_comparison(table: Path) -> bool:
    """Returns whether `compare` wrote a file."""
    try:
        return f"]({FIGURE})" in table.read_text()
    except (OSError, UnicodeDecodeError):
        return False


def compare(workdirs: Sequence[Path], output: str = "", *, overwrite: bool = False) -> str:
    """Writes the table and the plots of runs, `compare.md` and `compare.png`, to a folder.

    Runs with different test examples, or different numbers of them, have a table and a row of
    plots each.

    Returns:
      The table and the files' paths, to be printed.

    Raises:
      UserError: as `output_folder`; a run cannot be read, none is evaluated, or the folder cannot
        be written.
    """
    folder = output_folder(workdirs, output, overwrite=overwrite)
    common = _common_folder(workdirs)
    runs = [_read(path, str(path.resolve().relative_to(common))) for path in workdirs]
    groups = _groups(run for run in runs if run.metrics)
    others = [run for run in runs if not run.metrics]
    require(
        bool(groups),
        f"no run is evaluated, which --evaluate does: {'; '.join(map(_progress, others))}",
    )
    text = _text(groups, others)
    plots = compare_plots.draw([(_heading(group), group) for group in groups])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(folder / FIGURE, plots)
        atomic.write_text(folder / TABLE, f"# Comparison with PCA\n\n{text}\n![Plots]({FIGURE})\n")
    except OSError as error:
        raise unwritable(f"output={str(folder)!r}", error) from error
    return f"{text}\ntable      {folder / TABLE}\nfigure     {folder / FIGURE}"


def _is_run(folder: Path) -> bool:
    return (folder / workdir.CONFIG).is_file()


def _common_folder(workdirs: Sequence[Path]) -> Path:
    """Returns the nearest folder that holds all of the workdirs."""
    return Path(os.path.commonpath([path.resolve().parent for path in workdirs]))


def _read(folder: Path, name: str) -> ComparedRun:
    run = workdir.read(folder)
    config, rows = run.config, run.log.rows()
    seconds = training_seconds(rows, config.batch_size)
    timed_steps = max((row["step"] for row in rows if row["split"] == "train"), default=0)
    losses = [row["loss"] for row in validations(rows)]
    test_fingerprint, metrics = _evaluation(folder)
    return ComparedRun(
        workdir=folder,
        name=name,
        kind=config.model.name,
        data=config.data.name,
        test_fingerprint=test_fingerprint,
        devices=", ".join(run.executions),
        last_step=rows[-1]["step"] if rows else 0,
        validation_loss=losses[-1] if losses else math.nan,
        images_per_second=timed_steps * config.batch_size / seconds if seconds else math.nan,
        training_seconds=seconds if seconds else math.nan,
        metrics=metrics,
    )


def _evaluation(folder: Path) -> tuple[str, dict[str, float]]:
    """Reads the test fingerprint and the compared metrics; "" and {} unless a run is evaluated."""
    metrics, path = workdir.read_metrics(folder), folder / workdir.METRICS
    if metrics is None:
        return "", {}
    lacking = [key for key in (_FINGERPRINT, *_REQUIRED) if key not in metrics]
    require(
        not lacking,
        f"{path} lacks {', '.join(lacking)}, which every evaluation writes; evaluate the run again",
    )
    lowest: dict[str, float] = {column.metric: -math.inf for column in evaluators.columns()}
    lowest |= dict.fromkeys(_REQUIRED + _OPTIONAL, 0) | {"code_size": 1}
    compared = {key: metrics[key] for key in lowest if key in metrics}
    fingerprint = metrics[_FINGERPRINT]
    wrong = {
        key: value
        for key, value in compared.items()
        if not (isinstance(value, int | float) and value >= lowest[key])
    }
    wrong |= {} if isinstance(fingerprint, str) else {_FINGERPRINT: fingerprint}
    texts = ", ".join(f"{key}={value!r}" for key, value in wrong.items())
    require(not wrong, f"{path} is damaged: no evaluation writes {texts}")
    return fingerprint, compared


def _groups(runs: Iterable[ComparedRun]) -> list[list[ComparedRun]]:
    """Groups the runs that were evaluated on the same examples, each by code size and mse."""
    groups: dict[tuple[str, float], list[ComparedRun]] = {}
    for run in sorted(runs, key=lambda run: (run.metric("code_size"), run.metric("mse"))):
        groups.setdefault((run.test_fingerprint, run.metric("test_examples")), []).append(run)
    return list(groups.values())


def _heading(group: Sequence[ComparedRun]) -> str:
    names = ", ".join(sorted({run.data for run in group}))
    digits = group[0].test_fingerprint[:_FINGERPRINT_DIGITS]
    return f"{names}, {group[0].metric('test_examples'):,} test examples (fingerprint {digits})"


def _text(groups: Sequence[Sequence[ComparedRun]], others: Sequence[ComparedRun]) -> str:
    """Returns the tables and the notes on single runs, in Markdown."""
    lines = []
    if len(groups) > 1:
        lines += [f"These runs have {len(groups)} different test sets: a table for each.", ""]
    for group in groups:
        lines += [f"## {_heading(group)}", "", *_table(group), ""]
        notes = [
            f"- {run.workdir} is evaluated at step {run.metric('step'):,} of {run.last_step:,}; "
            f"for the last: python -m trainer.evaluate --workdir={run.workdir} --checkpoint=last"
            for run in group
            if run.metric("step") != run.last_step
        ]
        lines += [*notes, ""] if notes else []
    if others:
        lines += ["Not evaluated, which --evaluate does:", ""]
        lines += [*(f"- {_progress(run)}" for run in others), ""]
    return "\n".join(lines)


def _progress(run: ComparedRun) -> str:
    """Describes how far a run is, by its log."""
    if not run.last_step:
        return f"{run.workdir}, which has logged nothing"
    loss = run.validation_loss
    validated = "not validated yet" if math.isnan(loss) else f"validation loss {loss:.5f}"
    return f"{run.workdir} at step {run.last_step:,}, {validated}"


def _table(group: Sequence[ComparedRun]) -> Iterator[str]:
    """Yields the lines of a Markdown table, aligned for the terminal.

    A metric that no run of the group has is left out.
    """
    measured = [
        (shown.title, [_cell(run.metric(shown.metric), shown.format) for run in group])
        for shown in evaluators.columns()
    ]
    if any("pca_components" in run.metrics for run in group):  # fewer than the code has values
        measured.append(("PCA components", [_cell(run.components, ".0f") for run in group]))
    columns = [
        _column("run", [run.name.replace("|", r"\|") for run in group], "<"),
        _column("kind", [run.kind for run in group], "<"),
        _column("code", [str(run.metric("code_size")) for run in group]),
        *(_column(title, cells) for title, cells in measured if any(cells)),
        _column("examples/s", [_cell(run.images_per_second, ",.0f") for run in group]),
        _column("training, s", [_cell(run.training_seconds, ",.1f") for run in group]),
        _column("on", [run.devices for run in group], "<"),
    ]
    return (f"| {' | '.join(cells)} |" for cells in zip(*columns, strict=True))


def _column(title: str, cells: Sequence[str], align: str = ">") -> list[str]:
    """Returns the title, Markdown's rule and the cells, padded to one width."""
    width = max(map(len, (title, *cells)))
    rule = "-" * (width - 1) + ("-" if align == "<" else ":")
    return [f"{title:{align}{width}}", rule, *(f"{cell:{align}{width}}" for cell in cells)]


def _cell(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)
