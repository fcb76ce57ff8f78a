"""Scores rows by PyOD's AutoEncoder: python with_pyod.py ROWS.npz SCORES.npz, in PyOD's Python."""

import sys
import time

import numpy as np


def main(rows: str, scores: str) -> None:
    """Fits the default AutoEncoder to `train`, and writes the scores of `test` and the seconds."""
    from pyod.models.auto_encoder import AutoEncoder

    with np.load(rows) as file:
        train, test, seed = file["train"], file["test"], int(file["seed"])
    warm = AutoEncoder(epoch_num=1, random_state=0, verbose=0)
    warm.fit(train[:64])  # imports
    began = time.monotonic()
    detector = AutoEncoder(random_state=seed, verbose=0)
    detector.fit(train)
    found = detector.decision_function(test)
    np.savez(scores, scores=found, seconds=time.monotonic() - began)


if __name__ == "__main__":
    main(*sys.argv[1:])
