"""python -m benchmarks.results: every kind trained, measured, and set beside its paper.

Each run is the config of its name on MNIST, by the project's own commands in a folder of its own:
one that is there goes on or is done. What it measured and how long it trained are kept in
`docs/results/`, from which `docs/results.md` is written; so a part can be made anew by name, as
`--runs=vae,iwae`.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from absl import app, flags

from trainer.run import workdir as workdirs
from trainer.run.metrics_log import training_seconds
from trainer.run.workdir import METRICS, is_measured

_ROOT = Path(__file__).parent.parent
_DOCS = _ROOT / "docs"
_FINETUNED = "finetuned.json"  # whose module would bring TensorFlow into this process
_ERRORS = ("finetuned_test_error", "frozen_test_error")


class Figure(NamedTuple):
    """A number of a run: its key in `metrics.json` or `finetuned.json`, and what it is held to."""

    name: str
    key: str
    anchor: str
    goal: float | None = None
    at_least: bool = False  # else the goal is the most that it may be


class Run(NamedTuple):
    """A run: its protocol in words, its figures, its pictures that the docs show.

    Where it is fine-tuned, with which flags.
    """

    protocol: str
    figures: tuple[Figure, ...]
    pictures: tuple[str, ...] = ("reconstructions",)
    finetuning: tuple[str, ...] | None = None


def _mse(anchor: str, goal: float | None = None) -> Figure:
    return Figure("mse", "mse", anchor, goal)


RUNS: Mapping[str, Run] = {
    "linear": Run(
        "one linear map, a code of 32",
        (
            _mse("PCA .01683", 0.0169),
            Figure("largest angle to PCA's subspace, degrees", "largest_angle_degrees", "0"),
        ),
    ),
    "dense": Run("784-128-64-32, relu", (_mse("PCA of 32 numbers .01683", 0.01683),)),
    "conv": Run("the article's convolutions, a code of 49", (_mse(".0296, the article", 0.0296),)),
    "deep": Run("784-1000-500-250-30, relu", (_mse(".0038, Hinton & Salakhutdinov 2006", 0.0038),)),
    "deep_conv": Run("3.3 million parameters, a code of 49", (_mse("PCA .01169", 0.01169),)),
    "denoising": Run(
        "Gaussian noise of 0.4, cut to [0, 1] and new each time; 28,353 parameters",
        (
            Figure("bce of the restored", "denoised_bce", ".0839, keras.io", 0.0830),
            Figure("mse of the restored", "denoised_mse", ""),
            Figure("mse of the noisy", "noisy_mse", ""),
            Figure("mse of the noisy by PCA", "noisy_pca_mse", ""),
        ),
        ("reconstructions", "denoising_levels"),
    ),
    "sparse": Run(
        "1,000 units, 25 active in training and 75 at test time, tied; frozen codes",
        (
            Figure(
                "error of logistic regression",
                "linear_classifier_error",
                "1.35 %, Makhzani & Frey",
                0.0135,
            ),
            Figure("dead units, share", "dead_units_share", ""),
        ),
        ("reconstructions", "activations", "filters"),
    ),
    "sparse_kl": Run(
        "1,000 sigmoid units, the mean activation of each drawn to .1; frozen codes",
        (Figure("error of logistic regression", "linear_classifier_error", ""),),
        ("reconstructions", "activations", "filters"),
    ),
    "contractive": Run(
        "1,000 sigmoid units, tied; encoder and softmax trained on the labels",
        (
            Figure(
                "error, fine-tuned",
                "finetuned_test_error",
                "1.14 %, Rifai et al. 2011",
                0.0114,
            ),
            Figure("error, frozen", "frozen_test_error", ""),
            Figure("mean norm of the Jacobian", "jacobian_norm", ""),
        ),
        ("reconstructions", "singular_values"),
        finetuning=(),
    ),
    "sdae": Run(
        "1000-1000-1000, 25 % masking; encoder and softmax trained on the labels",
        (
            Figure(
                "error, fine-tuned",
                "finetuned_test_error",
                "1.28 %, Vincent et al. 2010",
                0.0128,
            ),
            Figure("error, frozen", "frozen_test_error", ""),
        ),
        finetuning=("--learning_rate=1e-3",),
    ),
    "concrete_paper": Run(
        "50 pixels, linear readout, MNIST's test images alone: 4,000 (400 to validate) and 6,000",
        (
            Figure("mse of the linear readout", "linear_readout_mse", ".026, Abid et al.", 0.025),
            Figure(
                "accuracy of extra trees", "extra_trees_accuracy", ".906, Abid et al.", 0.91, True
            ),
        ),
        ("reconstructions", "selected_pixels"),
    ),
    "concrete": Run(
        "50 pixels, 57,000 / 3,000 / 10,000 images",
        (
            Figure("mse of the linear readout", "linear_readout_mse", ""),
            Figure("accuracy of extra trees", "extra_trees_accuracy", ""),
        ),
        ("reconstructions", "selected_pixels"),
    ),
    "concrete_20": Run(
        "20 pixels, decoder 320-320, 54,000 / 6,000 / 10,000 images",
        (_mse(".02245, the authors' notebook", 0.022),),
        ("reconstructions", "selected_pixels"),
    ),
    "vae": Run(
        "784-200-200-50, tanh, dynamic binarisation, 5,000 samples",
        (
            Figure("-log p(x), nats", "nll_nats", "86.76, Burda et al.; 86.35 reproduced", 86.35),
            Figure("elbo, nats", "elbo_nats", ""),
            Figure("active units", "active_units", ""),
        ),
        ("reconstructions", "prior_samples", "interpolations"),
    ),
    "iwae": Run(
        "the same by the bound of 5 importance samples",
        (
            Figure("-log p(x), nats", "nll_nats", "85.54, Burda et al.; 85.18 reproduced", 85.4),
            Figure("active units", "active_units", ""),
        ),
        ("reconstructions", "prior_samples"),
    ),
}

_RUNS = flags.DEFINE_list("runs", list(RUNS), "The runs to make.")
_WORKDIRS = flags.DEFINE_string("workdirs", "runs/results", "The folder of their workdirs.")

flags.register_validator(
    "runs", lambda runs: set(runs) <= RUNS.keys(), f"allowed: {', '.join(RUNS)}"
)


def main(argv: list[str]) -> None:
    """Trains and measures what is asked for; writes the table of all that is measured."""
    del argv
    for name in _RUNS.value:
        workdir = Path(_WORKDIRS.value).absolute() / name
        _run("trainer", f"--config=configs/{name}.py", f"--workdir={workdir}")
        if not is_measured(workdir):
            _run("trainer.evaluate", f"--workdir={workdir}")
        finetuning = RUNS[name].finetuning
        if finetuning is not None and not is_measured(workdir, _FINETUNED):
            _run("trainer.finetune", f"--workdir={workdir}", *finetuning)
        keep(name, workdir, _DOCS / "results")
        (_DOCS / "results.md").write_text(table(_DOCS / "results"))


def keep(name: str, workdir: Path, folder: Path) -> None:
    """Takes a run's figures as `<name>.json`, and its pictures, over into the docs."""
    folder.mkdir(parents=True, exist_ok=True)
    measured = json.loads((workdir / METRICS).read_text())
    if RUNS[name].finetuning is not None:
        finetuned = json.loads((workdir / _FINETUNED).read_text())
        measured |= {key: finetuned[key] for key in _ERRORS} | {"finetuning": finetuned}
    run = workdirs.read(workdir)
    measured["training_seconds"] = training_seconds(run.log.rows(), run.config.batch_size)
    measured["num_epochs"] = run.config.num_epochs
    (folder / f"{name}.json").write_text(json.dumps(measured, indent=1) + "\n")
    for picture in RUNS[name].pictures:
        shutil.copyfile(workdir / f"{picture}.png", folder / f"{name}-{picture}.png")


def table(folder: Path) -> str:
    """The figures of the runs that a folder holds, each beside its anchor, and their pictures."""
    lines = [
        "# Results",
        "",
        "Each kind beside its paper, on test images of MNIST, pixels in [0, 1]; `mse` and `bce`",
        "are means over the pixels. `make results` makes all of it anew, `make results RUNS=vae`",
        "a part; `docs/results/` has all that each run measured, and `configs/` what it was.",
        "Settings were chosen on validation images. The time is that of the training's steps.",
        "",
        "| config | protocol | figure | measured | published | goal | epochs | training |",
        "|---|---|---|---|---|---|---|---|",
    ]
    shown = []
    for name, run in RUNS.items():
        path = folder / f"{name}.json"
        if path.exists():
            lines += _rows(name, run, json.loads(path.read_text()))
            shown += [f"\n## `{name}`\n"]
            shown += [f"![{name}: {p}](results/{name}-{p}.png)\n" for p in run.pictures]
    return "\n".join(lines + shown)


def _rows(name: str, run: Run, measured: Mapping[str, Any]) -> Iterator[str]:
    first = (f"`{name}`", run.protocol)
    last = (f"{measured['num_epochs']:g}", f"{measured['training_seconds'] / 60:.0f} min")
    for figure in run.figures:
        value = measured[figure.key]
        cells = (*first, figure.name, _number(figure, value), figure.anchor)
        yield f"| {' | '.join((*cells, _goal(figure, value), *last))} |"
        first = last = ("", "")


def _goal(figure: Figure, value: float) -> str:
    """The goal, and whether it was reached."""
    if figure.goal is None:
        return ""
    reached = value >= figure.goal if figure.at_least else value <= figure.goal
    bound = "at least" if figure.at_least else "at most"
    return f"{bound} {_number(figure, figure.goal)}: {'reached' if reached else 'short'}"


def _number(figure: Figure, value: float) -> str:
    """Four digits, as many places as they leave; an error or a share in per cent."""
    if figure.key.endswith(("_error", "_share")):
        return f"{value:.2%}".replace("%", " %")
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def _run(module: str, *arguments: str) -> None:
    """Runs one of the project's commands; its failure is this one's."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=_ROOT, env=environment, check=False)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    app.run(main)
