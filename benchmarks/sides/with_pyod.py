"""Scores rows by PyOD's AutoEncoder, in PyOD's Python: python with_pyod.py.

Reads lines of two paths, separated by a tab: ROWS.npz to read and SCORES.npz to write. Prints the
second path when the file is there.
"""

import sys
import time

import numpy as np


def main() -> None:
    """Fits the default AutoEncoder to `train`; writes the scores of `test` and the CPU seconds."""
    from pyod.models.auto_encoder import AutoEncoder

    AutoEncoder(epoch_num=1, verbose=0).fit(np.random.default_rng(0).normal(size=(64, 3)))  # warm
    for line in sys.stdin:
        rows, scores = line.rstrip("\n").split("\t")
        with np.load(rows) as file:
            train, test, seed = file["train"], file["test"], int(file["seed"])
        began = time.process_time()
        detector = AutoEncoder(random_state=seed, verbose=0)
        detector.fit(train)
        found = detector.decision_function(test)
        np.savez(scores, scores=found, cpu_seconds=time.process_time() - began)
        print(scores, flush=True)


if __name__ == "__main__":
    main()
