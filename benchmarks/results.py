"""python -m benchmarks.results: trains and evaluates every kind, and compares it with its paper.

Each run is the config of its name on MNIST, by the project's own commands in its own workdir; an
unfinished run is resumed. A run of less than 20 minutes is made with several seeds. The metrics and
the training time are kept in `docs/results/`, from which `docs/results.md` is written, so that
single runs can be repeated by name, as `--runs=vae,iwae`.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

from trainer.evaluation.finetuning_options import FineTuning
from trainer.monitoring import figures
from trainer.run import workdir as workdirs
from trainer.run.metrics_log import METRICS, is_measured, training_seconds, validations

_ROOT = Path(__file__).parent.parent
_DOCS = _ROOT / "docs"
_CURVE = "training"  # the name of a figure
_MIN_POINTS = 5  # of a curve
_MAX_SECONDS_FOR_SEEDS = 20 * 60  # of training; a longer run is made with one seed


class Metric(NamedTuple):
    """Names a metric of a run by its key in the files of measurements; sets its goal."""

    name: str
    key: str
    anchor: str
    goal: float | None = None
    at_least: bool = False  # else the goal is an upper bound


class Run(NamedTuple):
    """Describes a run by its protocol, its metrics, and the figures that the docs show."""

    protocol: str
    metrics: tuple[Metric, ...]
    figures: tuple[str, ...] = ("reconstructions",)
    finetuning: tuple[str, ...] | None = None  # flags of trainer.finetune; None: not fine-tuned

    @property
    def finetuned(self) -> str:
        """Returns the name of a fine-tuning's results."""
        return FineTuning(refit="--refit" in (self.finetuning or ())).name


def _mse(anchor: str, goal: float | None = None) -> Metric:
    return Metric("mse", "mse", anchor, goal)


RUNS: Mapping[str, Run] = {
    "linear": Run(
        "one linear map, a code of 32",
        (
            _mse("PCA .01683", 0.0169),
            Metric("largest angle to PCA's subspace, degrees", "largest_angle_degrees", "0"),
        ),
    ),
    "dense": Run("784-128-64-32, relu", (_mse("PCA .01683", 0.01683),)),
    "conv": Run("the article's convolutions, a code of 49", (_mse(".0296, the article", 0.0296),)),
    "deep": Run("784-1000-500-250-30, tanh", (_mse(".0038, Hinton & Salakhutdinov 2006", 0.0038),)),
    "deep_conv": Run("3.3 million parameters, a code of 49", (_mse("PCA .01169", 0.01169),)),
    "denoising": Run(
        "Gaussian noise of 0.4, clipped to [0, 1], new each time; 28,353 parameters",
        (
            Metric("bce of the denoised", "denoised_bce", ".0839, keras.io", 0.0830),
            Metric("mse of the denoised", "denoised_mse", ""),
            Metric("mse of the noisy", "noisy_mse", ""),
            Metric("mse of PCA on the noisy", "noisy_pca_mse", ""),
        ),
        ("reconstructions", "denoising_levels"),
    ),
    "sparse": Run(
        "1,000 units, 25 active in training, on images shifted by up to 1 pixel, and 75 at test "
        "time, tied; frozen codes",
        (
            Metric(
                "error of logistic regression",
                "linear_classifier_error",
                "1.35 %, Makhzani & Frey",
                0.0135,
            ),
            Metric("share of dead units", "dead_units_share", ""),
        ),
        ("reconstructions", "activations", "filters"),
    ),
    "sparse_kl": Run(
        "1,000 sigmoid units, target mean activation .1; frozen codes",
        (Metric("error of logistic regression", "linear_classifier_error", ""),),
        ("reconstructions", "activations", "filters"),
    ),
    "contractive": Run(
        "1,000 sigmoid units, tied; encoder and softmax fine-tuned on labels",
        (
            Metric(
                "error, fine-tuned on all 60,000",
                "refit_test_error",
                "1.14 %, Rifai et al. 2011",
                0.0114,
            ),
            Metric("error, frozen", "frozen_test_error", ""),
            Metric("mean norm of the Jacobian", "jacobian_norm", ""),
        ),
        ("reconstructions", "singular_values"),
        finetuning=(
            *("--refit", "--num_epochs=300", "--patience_epochs=0", "--learning_rate=3e-3"),
            *("--input_dropout=0.2", "--code_dropout=0.5"),
        ),
    ),
    "sdae": Run(
        "1000-1000-1000, 25 % masking, layer by layer; encoder and softmax fine-tuned on labels",
        (
            Metric(
                "error, fine-tuned",
                "finetuned_test_error",
                "1.28 %, Vincent et al. 2010",
                0.0128,
            ),
            Metric("error, frozen", "frozen_test_error", ""),
        ),
        finetuning=(
            *("--num_epochs=60", "--patience_epochs=0", "--learning_rate=1e-3"),
            *("--input_dropout=0.2", "--hidden_dropout=0.5", "--code_dropout=0.5"),
        ),
    ),
    "concrete_paper": Run(
        "50 pixels, MNIST's test images only: 4,000 (400 to validate) and 6,000",
        (
            Metric("mse of linear regression", "linear_readout_mse", ".026, Abid et al.", 0.025),
            Metric(
                "accuracy of extra-trees", "extra_trees_accuracy", ".906, Abid et al.", 0.91, True
            ),
        ),
        ("reconstructions", "selected_pixels"),
    ),
    "concrete": Run(
        "50 pixels, 57,000 / 3,000 / 10,000 images",
        (
            Metric("mse of linear regression", "linear_readout_mse", ""),
            Metric("accuracy of extra-trees", "extra_trees_accuracy", ""),
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
            Metric("-log p(x), nats", "nll_nats", "86.76, Burda et al.; 86.35 reproduced", 86.35),
            Metric("ELBO, nats", "elbo_nats", ""),
            Metric("active units", "active_units", ""),
        ),
        ("reconstructions", "prior_samples", "interpolations"),
    ),
    "iwae": Run(
        "the same, IWAE bound with 5 importance samples",
        (
            Metric("-log p(x), nats", "nll_nats", "85.54, Burda et al.; 85.18 reproduced", 85.18),
            Metric("active units", "active_units", ""),
        ),
        ("reconstructions", "prior_samples"),
    ),
}

_RUNS = flags.DEFINE_list("runs", list(RUNS), "The runs to train and evaluate.")
_WORKDIRS = flags.DEFINE_string("workdirs", "runs/results", "The folder of the runs' workdirs.")

_NUM_SEEDS = flags.DEFINE_integer(
    "num_seeds", 3, "Seeds, from 0 on, of each run that trains for less than 20 minutes.", 1
)

flags.register_validator(
    "runs", lambda runs: set(runs) <= RUNS.keys(), f"allowed: {', '.join(RUNS)}"
)


def main(argv: list[str]) -> None:
    """Trains and evaluates the runs of --runs; writes the table of all runs."""
    del argv
    for name in _RUNS.value:
        workdirs_of_seeds: list[Path] = []
        for seed in range(_NUM_SEEDS.value):
            workdir = Path(_WORKDIRS.value).absolute() / (f"{name}-seed-{seed}" if seed else name)
            _measure(name, seed, workdir)
            workdirs_of_seeds.append(workdir)
            keep(name, workdirs_of_seeds, _DOCS / "results")
            (_DOCS / "results.md").write_text(table(_DOCS / "results"))
            if _measured(name, workdir)["training_seconds"] > _MAX_SECONDS_FOR_SEEDS:
                break


def keep(name: str, workdirs_of_seeds: Sequence[Path], folder: Path) -> None:
    """Copies the metrics of a run to `<name>.json` in a folder of the docs, and its figures.

    `seeds` holds the metrics of every seed, beginning with seed 0.
    """
    folder.mkdir(parents=True, exist_ok=True)
    seeds = [_measured(name, workdir) for workdir in workdirs_of_seeds]
    kept = seeds[0] | {"seeds": [{m.key: one[m.key] for m in RUNS[name].metrics} for one in seeds]}
    (folder / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n")
    for figure in RUNS[name].figures:
        shutil.copyfile(workdirs_of_seeds[0] / f"{figure}.png", folder / f"{name}-{figure}.png")
    curve = _curve(name, workdirs_of_seeds[0])
    if curve is not None:
        figures.write_png(folder / f"{name}-{_CURVE}.png", curve)


def table(folder: Path) -> str:
    """Returns the page of the runs in a folder: metrics, published numbers, goals and figures."""
    lines = [
        "# Results",
        "",
        "MNIST test images with pixels in [0, 1]; `mse` and `bce` are means over the pixels.",
        "Settings were chosen on validation images; times are of training steps. Of several seeds",
        "the mean is shown, with the range; a goal is for the mean. `make results` repeats all",
        "runs, `make results RUNS=vae` one. `docs/results/` has all metrics, `configs/` the",
        "settings.",
        "",
        "| config | protocol | figure | measured | seeds | published | goal | epochs | training |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    shown = []
    for name, run in RUNS.items():
        path = folder / f"{name}.json"
        if path.exists():
            lines += _rows(name, run, json.loads(path.read_text()))
            shown += [f"\n## `{name}`\n"]
            for figure in (*run.figures, _CURVE):
                if (folder / f"{name}-{figure}.png").exists():
                    shown.append(f"![{name}: {figure}](results/{name}-{figure}.png)\n")
    return "\n".join(lines + shown)


def _rows(name: str, run: Run, measured: Mapping[str, Any]) -> Iterator[str]:
    first = (f"`{name}`", run.protocol)
    last = (f"{measured['num_epochs']:g}", _duration(measured["training_seconds"]))
    for metric in run.metrics:
        values = [one[metric.key] for one in measured["seeds"]]
        value = statistics.fmean(values) if len(values) > 1 else values[0]
        text = _number(metric, value)
        least, most = _number(metric, min(values)), _number(metric, max(values))
        if least != most:
            text += f" ({least} to {most})"
        cells = (*first, metric.name, text, str(len(values)), metric.anchor)
        yield f"| {' | '.join((*cells, _goal(metric, value), *last))} |"
        first = last = ("", "")


def _measure(name: str, seed: int, workdir: Path) -> None:
    """Trains, evaluates and fine-tunes a run, unless that is done already."""
    changes = [f"--config.seed={seed}"] if seed else []
    _run("trainer", f"--config=configs/{name}.py", f"--workdir={workdir}", *changes)
    if not is_measured(workdir):
        _run("trainer.evaluate", f"--workdir={workdir}")
    run = RUNS[name]
    if run.finetuning is not None and not is_measured(workdir, f"{run.finetuned}.json"):
        _run("trainer.finetune", f"--workdir={workdir}", *run.finetuning)


def _measured(name: str, workdir: Path) -> dict[str, Any]:
    """Reads the metrics of a run, its training time and its number of epochs."""
    measured = json.loads((workdir / METRICS).read_text())
    if RUNS[name].finetuning is not None:
        stem = RUNS[name].finetuned
        finetuned = json.loads((workdir / f"{stem}.json").read_text())
        errors = (f"{stem}_test_error", "frozen_test_error")
        measured |= {key: finetuned[key] for key in errors} | {"finetuning": finetuned}
    run = workdirs.read(workdir)
    measured["training_seconds"] = training_seconds(run.log.rows(), run.config.batch_size)
    measured["num_epochs"] = run.config.num_epochs
    return measured


def _curve(name: str, workdir: Path) -> np.ndarray | None:
    """Plots the validation loss of all layers over the minutes, the first tenth left out.

    None: there are too few validations for a curve.
    """
    run = workdirs.read(workdir)
    rows = list(run.log.rows())
    validated = list(validations(rows))
    validated = validated[len(validated) // 10 :]
    if len(validated) < _MIN_POINTS:
        return None
    minutes = [
        training_seconds(
            (row for row in rows if row["step"] <= validation["step"]), run.config.batch_size
        )
        / 60
        for validation in validated
    ]
    losses = {"validation loss": [row["loss"] for row in validated]}
    labels = (name, "minutes of training", "validation loss")
    return figures.lines(minutes, losses, *labels, from_zero=False)


def _goal(metric: Metric, value: float) -> str:
    """Returns the goal, and whether the value reaches it."""
    if metric.goal is None:
        return ""
    reached = value >= metric.goal if metric.at_least else value <= metric.goal
    bound = "at least" if metric.at_least else "at most"
    return f"{bound} {_number(metric, metric.goal)}: {'reached' if reached else 'short'}"


def _number(metric: Metric, value: float) -> str:
    """Formats a value with four digits; an error or a share in per cent."""
    if metric.key.endswith(("_error", "_share")):
        return f"{value:.2%}".replace("%", " %")
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def _duration(seconds: float) -> str:
    """Formats a time in minutes, or in seconds if it is below two minutes."""
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def _run(module: str, *arguments: str) -> None:
    """Runs one of the project's commands; exits with its status if it fails."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=_ROOT, env=environment, check=False)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    app.run(main)
