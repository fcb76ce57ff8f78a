"""Prints the models whose training steps XLA compiles anew at another step, as a JSON list.

    python -m tests.distribution.recompiled --folder=DIR

A process of its own: XLA reads its flags once, and one of them makes it write each module that it
compiles.
"""

import argparse
import functools
import json
import os
from pathlib import Path

from tests.all_configs import KINDS, tiny
from tests.distribution.noisy_steps import BATCH, images_like, make_steps
from tests.models.small import create
from trainer.config import Augment, Averaging

SHAPE = (8, 8, 1)
# Changes of a kind's tiny settings, each of which makes another model.
CHANGES: dict[str, list[dict[str, object]]] = {
    "contractive": [{"code_size": 9}, {"jacobian": "hutchinson"}],
    "sparse": [
        {"sparsity": "batch_topk", "code_activation": "relu", "resample_every_steps": 2},
        {"sparsity": "l1", "code_activation": "relu"},
        {"sparsity": "kl", "code_activation": "sigmoid"},
        {"sparsity": "jumprelu"},
    ],
    "vae": [
        {"estimator": "path_derivative"},
        {"objective": "iwae", "samples": 2, "estimator": "doubly_reparametrised"},
    ],
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    dumps = parser.parse_args().folder
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_dump_to={dumps}"
    models = [(kind, changes) for kind in KINDS for changes in ({}, *CHANGES.get(kind, []))]
    options = {
        "augment": Augment(flip=True, brightness=0.1),
        "averaging": Averaging(decay=0.9),
        "trim_share": 0.25,
    }
    recompiled = []
    for kind, changes in models:
        build = functools.partial(create, kind, SHAPE, **tiny(kind) | changes)
        _, steps = make_steps(1, "xla", create=build, **options)
        compiled = []
        for first_step in (0, 3):
            steps.train(first_step, images_like(2, BATCH, *SHAPE, seed=first_step))
            compiled.append(len(list(dumps.glob("*.before_optimizations.txt"))))
        assert compiled[0] > 0, "XLA wrote nothing"
        if compiled[1] > compiled[0]:
            recompiled.append((kind, changes))
        for file in dumps.iterdir():
            file.unlink()
    print(json.dumps(recompiled))


if __name__ == "__main__":
    main()
