"""python -m benchmarks.own_results: trains on data as people have them, and compares with PCA.

Every set of `benchmarks/own_data.py` is trained by the config for such data, with several code
sizes and seeds. The errors are kept in `docs/results/own_data.json`, from which
`docs/results_own.md` is written.
"""

import json
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

from benchmarks import own_data
from configs import photos, table

_DOCS = Path(__file__).parent.parent / "docs"
_KEPT = _DOCS / "results/own_data.json"


class Job(NamedTuple):
    """Describes a data set, the config that trains it and the sizes of its codes."""

    config: Any
    code_sizes: tuple[int, ...]


_TABLE_SIZES = (1, 2, 4, 8, 16, 32, 64)
JOBS = {
    "breast_cancer": Job(table, _TABLE_SIZES),
    "digits": Job(table, _TABLE_SIZES),
    "wine": Job(table, _TABLE_SIZES),
    "iris": Job(table, _TABLE_SIZES),
    "diabetes": Job(table, _TABLE_SIZES),
    "curves": Job(table, _TABLE_SIZES),
    "gaussian": Job(table, _TABLE_SIZES),
    "patches_16": Job(photos, (8, 32)),
    "letters_32": Job(photos, (8, 49)),
    "letters_64": Job(photos, (49,)),
}

_SETS = flags.DEFINE_list("sets", list(JOBS), "The data sets to train on.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Number of seeds.", lower_bound=1)
_WORKDIRS = flags.DEFINE_string("workdirs", "runs/own", "The folder of data and workdirs.")


def main(argv: list[str]) -> None:
    """Trains the runs that are not kept yet, and writes the page of all."""
    del argv
    folder = Path(_WORKDIRS.value)
    folder.mkdir(parents=True, exist_ok=True)
    kept = json.loads(_KEPT.read_text()) if _KEPT.exists() else []
    kept = [row for row in kept if row["set"] not in _SETS.value]
    for name in _SETS.value:
        examples = _examples(name)
        path = folder / f"{name}.npy"
        np.save(path, examples)
        for code_size in JOBS[name].code_sizes:
            for seed in range(_SEEDS.value):
                if code_size < examples[0].size:
                    row = _measure(name, path, code_size, seed, folder / name)
                    print(row, flush=True)
                    kept.append(row)
        _KEPT.write_text("".join(["[\n", ",\n".join(map(json.dumps, kept)), "\n]\n"]))
        (_DOCS / "results_own.md").write_text(page(kept))


def page(rows: list[dict[str, Any]]) -> str:
    """Returns the page of the kept runs."""
    return "\n".join([
        "# Results on other data",
        "",
        "Validation and test MSE, each divided by that of PCA with as many components as the code",
        "has values; means over seeds. `configs/table.py` trains the tables, standardised,",
        "`configs/photos.py` the colour images. `make results-own` repeats all runs;",
        "`benchmarks/own_data.py` makes the data from what ships inside packages.",
        "",
        "| data | examples | code | seeds | validation / PCA | test / PCA | seconds |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *_table(rows),
        "",
    ])  # fmt: skip


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    for name, code_size in dict.fromkeys((row["set"], row["code_size"]) for row in rows):
        runs = [row for row in rows if (row["set"], row["code_size"]) == (name, code_size)]
        ratios = {
            split: statistics.mean(run[f"{split}_mse"] / run[f"{split}_pca_mse"] for run in runs)
            for split in ("validation", "test")
        }
        seconds = statistics.median(run["seconds"] for run in runs)
        yield (
            f"| {name} | {runs[0]['examples']:,} | {code_size} | {len(runs)} | "
            f"{ratios['validation']:.3f} | {ratios['test']:.3f} | {seconds:.0f} |"
        )


def _examples(name: str) -> np.ndarray:
    kind, _, side = name.partition("_")
    if kind == "letters":
        return own_data.letters(int(side))[0]
    return own_data.patches(int(side)) if kind == "patches" else own_data.tables()[name]


def _measure(name: str, path: Path, code_size: int, seed: int, workdir: Path) -> dict[str, Any]:
    """Trains a run, and measures its best checkpoint and PCA on the validation and test splits."""
    from trainer.data.dataset import to_unit
    from trainer.distribution.inference import map_batches
    from trainer.evaluation.evaluated_model import EvaluatedModel
    from trainer.run import restore
    from trainer.training.train import train

    config = JOBS[name].config.get_config()
    config.data.name = f"arrays:{path}"
    config.model.code_size = code_size
    config.update({"seed": seed, "quiet": True, "figures": False})
    shutil.rmtree(workdir, ignore_errors=True)
    began = time.monotonic()
    train(config, str(workdir))
    seconds = time.monotonic() - began
    run = restore.load(workdir)
    splits = {
        split: to_unit(getattr(run.dataset, split).images[:])
        for split in ("train", "validation", "test")
    }
    rows = {split: images.reshape(len(images), -1) for split, images in splits.items()}
    pca = EvaluatedModel(run.model, splits["train"], splits["test"]).pca
    measured: dict[str, Any] = {
        "set": name,
        "examples": sum(map(len, rows.values())),
        "code_size": code_size,
        "seed": seed,
        "step": run.step,
        "seconds": round(seconds, 1),
    }
    for split in ("validation", "test"):
        rebuilt = map_batches(run.model.call, splits[split])
        projected = pca.inverse_transform(pca.transform(rows[split]))
        measured[f"{split}_mse"] = float(np.square(rebuilt - splits[split]).mean())
        measured[f"{split}_pca_mse"] = float(np.square(projected - rows[split]).mean())
    if len(splits["test"].shape) == 4:
        measured["colour_share"] = _spread(map_batches(run.model.call, splits["test"])) / _spread(
            splits["test"]
        )
    return measured


def _spread(images: np.ndarray) -> float:
    """Returns the mean std over the channels of a pixel."""
    return float(images.std(axis=-1).mean())


if __name__ == "__main__":
    app.run(main)
