"""Draws the codes of a run as points in two dimensions, and writes them as a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from trainer.errors import require
from trainer.monitoring import figures, progress
from trainer.run.workdir import MAP
from trainer.serving import readers, stream, writers
from trainer.serving.batched_model import BatchedModel, Columns
from trainer.serving.options import COLOURS, DEFAULTS, StreamOptions, check_map

MAX_POINTS = 10_000
_LACKING = {
    "class": "the examples have no labels",
    "distance": "it needs trainer.evaluate of this checkpoint, and vectors or named anomalies",
}
_PERPLEXITY = 30
_NEIGHBOURS = 15  # of UMAP
_START_STD = 1e-4  # of the first coordinate from which t-SNE starts, as scikit-learn's default
_START_RANGE = 10  # of the coordinates from which UMAP starts, as its default


def draw_map(
    workdir: str,
    source: str = "test",
    *,
    method: str = "",
    colour: str = "",
    output: str = "",
    options: StreamOptions = DEFAULTS,
) -> Path:
    """Writes a map of the codes of images or vectors, `map.png` and `map.csv`; returns the folder.

    The table has a row per point: its `number` in the source, the coordinates `x` and `y`, and,
    where the example has them, `label`, `file` and ids; and the `error`, the mean squared error of
    the reconstruction. Of more than 10,000 examples it shows every second, or third, and so on.

    Args:
      workdir: the folder of the trained run.
      source: the examples, as `stream.encode` takes them.
      method: "pca", "tsne" or "umap"; "": codes of up to 2 values as they are, longer ones by PCA.
      colour: "class", "error" or, after an evaluation, "distance"; "": the class, where there are
        labels.
      output: the folder of the files; "": the workdir.
      options: as of `stream.encode`.

    Raises:
      UserError: as `stream.encode`; or all codes are equal, or there are no labels or distances to
        colour by.
    """
    folder = check_map(workdir, source, output, options, method=method, colour=colour)
    trained, examples = stream.open_examples(workdir, source, options)
    model = BatchedModel(trained, examples, options.batch_size)
    columns, ids = _spaced(examples, model)
    codes = columns.pop("codes")
    colour = colour or ("class" if "labels" in columns else "error")
    column, label = COLOURS[colour]
    require(column in columns, f"colour={colour!r} is not possible: {_LACKING.get(colour)}")
    points, axes = project(codes, method)
    figure = figures.scatter(
        points,
        columns[column],
        title=f"codes of {len(codes):,} examples",
        axes=axes,
        values_label=label,
    )
    table = {"number": columns.pop("number"), "x": points[:, 0], "y": points[:, 1]}
    csv, png = (str(folder / name) for name in MAP)
    with writers.create(csv) as write:
        write({**table, **columns}, ids)
    figures.write_png(png, figure)
    stream.report_input(examples, model, f"{folder} holds a map of {len(codes):,} examples")
    return folder


def _spaced(examples: readers.Input, model: BatchedModel) -> tuple[Columns, Columns]:
    """Computes the columns of at most MAX_POINTS evenly spaced examples; returns their ids too."""
    step = max(1, -(-(examples.count or 0) // MAX_POINTS))
    parts: list[tuple[Columns, Columns]] = []
    count = held = 0
    with progress.bar("encoding", examples.count, unit="examples") as bar:
        for block in examples.blocks(model.batch_size):
            numbers = np.arange(count, count + len(block.rows))
            chosen = numbers % step == 0
            if chosen.any():
                computed = model.codes_and_errors(block.rows[chosen])
                others = _rows({"number": numbers, **stream.given(block)}, chosen)
                parts.append((computed | others, _rows(block.ids, chosen)))
            count += len(numbers)
            held += int(chosen.sum())
            bar.update(len(numbers))
            while held > MAX_POINTS:  # the length of the input was not known
                step *= 2
                columns, ids = _joined(parts)
                kept = columns["number"] % step == 0
                parts = [(_rows(columns, kept), _rows(ids, kept))]
                held = int(kept.sum())
    stream.require_any(examples, count)
    if step > 1:
        progress.say(f"drawn      one in {step:,} of {count:,} examples")
    return _joined(parts)


def _rows(columns: Mapping[str, np.ndarray], chosen: np.ndarray) -> Columns:
    return {name: column[chosen] for name, column in columns.items()}


def _joined(parts: Sequence[tuple[Columns, Columns]]) -> tuple[Columns, Columns]:
    columns, ids = (
        {name: np.concatenate([part[name] for part in some]) for name in some[0]}
        for some in zip(*parts, strict=True)
    )
    return columns, ids


def project(codes: np.ndarray, method: str) -> tuple[np.ndarray, tuple[str, str]]:
    """Returns points [N, 2] of codes [N, K] by a method of `draw_map`, and the names of the axes.

    Raises:
      UserError: all codes are equal.
    """
    is_varied = bool(np.ptp(codes, axis=0).max() > 0)
    require(is_varied, f"the codes of all {len(codes):,} examples are equal: there is no map")
    if method == "" and codes.shape[1] <= 2:
        return _two_columns(codes), ("first value of the code", "second value of the code")
    pca = PCA(min(2, *codes.shape), random_state=0)
    components = _two_columns(pca.fit_transform(codes))
    if method == "tsne":
        return _tsne(codes, components), ("t-SNE 1", "t-SNE 2")
    if method == "umap":
        return _umap(codes, components), ("UMAP 1", "UMAP 2")
    shares = _two_columns(pca.explained_variance_ratio_[np.newaxis])[0]
    first, second = (
        f"{name} principal component, {share:.0%} of the variance"
        for name, share in zip(("first", "second"), shares, strict=True)
    )
    return components, (first, second)


def _two_columns(rows: np.ndarray) -> np.ndarray:
    return np.pad(rows, ((0, 0), (0, 2 - rows.shape[1])))


def _tsne(codes: np.ndarray, components: np.ndarray) -> np.ndarray:
    perplexity = min(_PERPLEXITY, (len(codes) - 1) / 3)
    start = components / components[:, 0].std() * _START_STD
    progress.say(f"t-SNE of {len(codes):,} codes, perplexity {perplexity:.3g}")
    with threadpool_limits(1):  # the sums of several threads would depend on their number
        return TSNE(perplexity=perplexity, init=start, random_state=0).fit_transform(codes)


def _umap(codes: np.ndarray, components: np.ndarray) -> np.ndarray:
    import umap

    neighbours = min(_NEIGHBOURS, len(codes) - 1)
    start = components / np.abs(components).max() * _START_RANGE
    progress.say(f"UMAP of {len(codes):,} codes, {neighbours} neighbours")
    reducer = umap.UMAP(n_neighbors=neighbours, init=start, random_state=0, n_jobs=1)
    return reducer.fit_transform(codes)
