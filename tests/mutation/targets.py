"""What the mutation check plants faults in, and the tests that are to find them.

A pattern may match several files; every pattern matches some.
"""

from dataclasses import dataclass
from pathlib import Path

# The functions of a loss, and the helpers that they call.
LOSS = ("loss_terms", "statistics", "shared_values", "error", "with_gradient_of")


@dataclass(frozen=True)
class Target:
    """Some code, how many faults are planted in it, and its tests, the most telling first."""

    files: tuple[str, ...]
    faults: int
    tests: tuple[str, ...]
    roots: tuple[str, ...] = ()

    def paths(self, root: Path, patterns: tuple[str, ...]) -> list[str]:
        """Returns the files that match patterns, as paths below the root."""
        found = (path for pattern in patterns for path in sorted(root.glob(pattern)))
        return list(dict.fromkeys(str(path.relative_to(root)) for path in found))


_STEP = ("tests/distribution/test_replicas.py", "tests/distribution/test_trimming.py")
_EVERY_KIND = ("tests/models/test_models.py",)


def _loss_of(kind: str, faults: int) -> Target:
    return Target(
        (f"trainer/models/{kind}/model.py",),
        faults,
        (f"tests/models/test_{kind}*.py", *_EVERY_KIND),
        LOSS,
    )


TARGETS = {
    "positions": Target(
        ("trainer/positions.py",), 8, ("tests/test_positions.py", "tests/models/test_concrete*.py")
    ),
    "step": Target(
        ("trainer/distribution/step.py", "trainer/distribution/finite.py"),
        8,
        (*_STEP, "tests/training/test_train.py"),
    ),
    "gradients": Target(("trainer/distribution/gradients.py",), 5, _STEP),
    "update": Target(
        ("trainer/distribution/update.py",), 3, ("tests/distribution/test_optimizers.py", *_STEP)
    ),
    "mean_losses": Target(("trainer/distribution/mean_losses.py",), 5, _STEP),
    "checkpoints": Target(
        ("trainer/run/checkpoints.py", "trainer/run/background.py"), 8, ("tests/run/test_*.py",)
    ),
    "loss_spikes": Target(
        ("trainer/training/loss_spikes.py",), 7, ("tests/training/test_loss_spikes.py",)
    ),
    "batches": Target(
        ("trainer/data/batches.py", "trainer/data/__init__.py"),
        4,
        ("tests/data/test_batches.py", "tests/training/test_*.py"),
        ("training_batches", "batches"),
    ),
    "loss_of_every_kind": Target(
        ("trainer/models/base.py",), 4, (*_EVERY_KIND, "tests/models/test_sparse*.py", *_STEP), LOSS
    ),
    "loss_of_concrete": _loss_of("concrete", 4),
    "loss_of_contractive": _loss_of("contractive", 3),
    "loss_of_denoising": _loss_of("denoising", 3),
    "loss_of_sparse": _loss_of("sparse", 4),
    "loss_of_vae": _loss_of("vae", 5),
}
