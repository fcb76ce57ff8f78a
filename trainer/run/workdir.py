"""The workdir is the run: its config, its metrics, and the refusal to mix two runs in one."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import math
import platform
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from ml_collections import ConfigDict

from trainer.data import sources
from trainer.errors import UserError, require, require_kind, writing
from trainer.storage import atomic, locks

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
METRICS_LOG = "metrics.jsonl"
METRICS = "metrics.json"
SAMPLES = ("samples.npz", "samples.png")

# What may change when a run is started again: its length, its cadence, where its data lie, its
# devices, and what it does about loss spikes.
_FREE_KEYS = (
    "num_epochs",
    "data.placement",
    "data.memory_gib",
    "data.cache_dir",
    "strategy",
    "startup_timeout_seconds",
    "profile",
    "spikes.loss_ratio",
    "spikes.skip_steps",
    "spikes.max_rollbacks",
    "steps_per_call",
    "log_every_steps",
    "validate_every_steps",
    "checkpoint_every_steps",
    "keep_checkpoints",
    "histograms",
    "pictures",
    "quiet",
)
_PACKAGES = ("tensorflow", "keras", "numpy", "tensorflow-datasets", "scikit-learn")
# Of a config, what is needed to read its run.
_NEEDED = {
    **dict.fromkeys(("seed", "batch_size"), int),
    **dict.fromkeys(("precision", "execution", "model.name", "data.name"), str),
    "deterministic": bool,
}


@dataclasses.dataclass(frozen=True)
class Run:
    """What `config.json` says of a run."""

    config: ConfigDict
    data_fingerprint: str
    versions: Mapping[str, str]
    executions: Mapping[str, str]  # how its steps are computed, by the devices they are on
    inputs: Mapping[str, list] | None  # what they are like; None of a run begun before it was noted
    run_id: str | None  # its checkpoints bear it, and so do copies of the workdir; None likewise


def check(workdir: Path, config: ConfigDict, data_fingerprint: str) -> None:
    """Makes sure that a workdir is empty or holds a run of this config on these data.

    Raises:
      UserError: it holds another run, or no run of this trainer.
    """
    if not (workdir / CONFIG).exists():
        require(
            not (workdir / CHECKPOINTS).exists(),
            f"{workdir} holds checkpoints but no {CONFIG}; it is no run of this trainer",
        )
        return
    run = read(workdir)
    before, now = (flat(c.to_dict()) for c in (run.config, config))
    differing = [
        key
        for key in sorted(before.keys() | now.keys())
        # JSON knows no tuples.
        if json.dumps(before.get(key)) != json.dumps(now.get(key)) and key not in _FREE_KEYS
    ]
    if sources.path_may_move(str(before.get("data.name")), str(now.get("data.name"))):
        differing = [key for key in differing if key != "data.name"]
    if "model.name" in differing:  # the other keys of two kinds are not comparable
        differing = [key for key in differing if key == "model.name" or key[:6] != "model."]
    changes = "; ".join(f"{key} was {before.get(key)!r}, is {now.get(key)!r}" for key in differing)
    require(
        not differing,
        f"{workdir} holds a run of another config: {changes}; "
        "take another --workdir, or the old values",
    )
    require(
        run.data_fingerprint == data_fingerprint,
        f"{workdir} holds a run on other data: those of {config.data.name!r} have changed",
    )


def hyperparameters(config: ConfigDict) -> dict[str, Any]:
    """What runs are compared by, of their dotted keys: all that the weights depend on."""
    values = flat(config.to_dict())
    weighty = ("num_epochs", "spikes.")  # though they may change
    return {
        key: value
        for key, value in values.items()
        if key not in _FREE_KEYS or key.startswith(weighty)
    }


def executions(workdir: Path) -> dict[str, str]:
    """How the steps of a run were computed so far, by the devices they were on."""
    return dict(read(workdir).executions) if (workdir / CONFIG).exists() else {}


def run_id(workdir: Path) -> str | None:
    """That of the run that a workdir holds, if it has one; see `trainer.run.checkpoints`."""
    return read(workdir).run_id if (workdir / CONFIG).exists() else None


def write(
    workdir: Path,
    config: ConfigDict,
    data_fingerprint: str,
    executions: Mapping[str, str],
    inputs: Mapping[str, list],
) -> None:
    """Writes down the run, with the versions and the id that it began with.

    Raises:
      StorageError: it cannot be written; what was there before still is.
    """
    begun = read(workdir) if (workdir / CONFIG).exists() else None
    description = {
        "config": config.to_dict(),
        "data_fingerprint": data_fingerprint,
        "versions": begun.versions if begun else installed_versions(),
        "executions": dict(executions),
        "inputs": dict(inputs),
        "run_id": begun.run_id if begun else uuid.uuid4().hex,
    }
    with writing(workdir / CONFIG):
        atomic.write_json(workdir / CONFIG, description)


def installed_versions() -> dict[str, str]:
    """Of Python and the packages that decide what a run computes."""
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return packages | {"python": platform.python_version()}


def code_digest() -> str:
    """Of the sources of this package."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def read(workdir: Path) -> Run:
    """The run that a workdir holds.

    Raises:
      UserError: it holds none, or its config cannot be read.
    """
    path = workdir / CONFIG
    try:
        require(path.exists(), f"{workdir} holds no run: there is no {CONFIG} in it")
        description = json.loads(path.read_text())
        config = ConfigDict(description["config"]).lock()
        _check_needed(path, config)
        return Run(
            config,
            _text(description["data_fingerprint"]),
            dict(description["versions"]),
            dict(description["executions"]),
            description.get("inputs"),
            description.get("run_id"),
        )
    except (OSError, *atomic.JSON_ERRORS) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error})") from error


def _check_needed(path: Path, config: ConfigDict) -> None:
    values = flat(config.to_dict())
    with of_another_version(path):
        for key, kind in _NEEDED.items():
            require(key in values, f"there is no {key} in it")
            require_kind(key, values[key], kind)


@contextlib.contextmanager
def of_another_version(path: Path) -> Iterator[None]:
    """Has a UserError inside say which file of a run is wrong."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path} is damaged or of another version: {error}") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


@contextlib.contextmanager
def locked(workdir: Path, patience_seconds: float = 0) -> Iterator[None]:
    """Makes the folder, and keeps every other trainer out of it for as long as this one lives.

    Raises:
      UserError: it cannot be made, written or locked, or another trainer is at work in it, and
        still is after so long.
    """
    path = workdir / ".lock"
    try:
        made = not workdir.exists()
        workdir.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    except OSError as error:
        raise UserError(f"workdir={str(workdir)!r} cannot be written: {error.strerror}") from error
    with lock:
        _lock(lock, workdir, patience_seconds)
        try:
            yield
        finally:
            if list(workdir.iterdir()) == [path]:  # a start that was refused leaves nothing
                path.unlink()
                if made:
                    workdir.rmdir()


def _lock(lock: IO, workdir: Path, patience_seconds: float) -> None:
    try:
        holder = f"the trainer that is at work in {workdir}"
        taken = locks.acquire(lock, holder, patience_seconds)
    except OSError as error:
        raise UserError(f"workdir={str(workdir)!r} cannot be locked: {error.strerror}") from error
    require(taken, f"another trainer is at work in {workdir}")


def read_metrics(workdir: Path) -> dict[str, Any] | None:
    """What `trainer.evaluate` measured of a run; None if it has not yet.

    Raises:
      UserError: it cannot be read.
    """
    path = workdir / METRICS
    if not path.exists():
        return None
    try:
        metrics = dict(json.loads(path.read_text()))
        for value in metrics.values():
            if isinstance(value, int):
                float(value)  # OverflowError: no figure is so large
        return metrics
    except (OSError, *atomic.JSON_ERRORS) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error})") from error


def is_measured(workdir: Path, figures: str = METRICS) -> bool:
    """Whether a file of figures is there, and of the last step that the run has logged."""
    path = workdir / figures
    rows = read_log(workdir)
    return (
        bool(rows)
        and path.exists()
        and _step_of(path.read_text(errors="replace")) == rows[-1]["step"]
    )


def read_log(workdir: Path) -> list[dict[str, Any]]:
    """The rows of the metrics log that are written whole.

    Raises:
      UserError: one of them is no row of such a log.
    """
    path = workdir / METRICS_LOG
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines if math.isfinite(_step_of(line))]
    for row in rows:
        needed = {"train": "images_per_second", "validation": "loss"}.get(str(row.get("part")), "")
        require(
            isinstance(row["step"], int)
            and isinstance(row.get(needed), int | float)
            and abs(row[needed]) <= sys.float_info.max
            and (needed == "loss" or row[needed] > 0),
            f"{path} is damaged: its row of step {row['step']} is none that a training writes",
        )
    return rows


def training_seconds(rows: Iterable[Mapping[str, Any]], batch_size: int) -> float:
    """What the steps of a log took, from their speed; restarts and validation are left out."""
    before, seconds = 0, 0.0
    for row in rows:
        if row["part"] == "train":
            seconds += (row["step"] - before) * batch_size / row["images_per_second"]
            before = row["step"]
    return seconds


def append_metrics(workdir: Path, row: Mapping[str, Any]) -> None:
    """Adds one line to the metrics log.

    Raises:
      StorageError: it cannot be written; a part of the line may be.
    """
    path = workdir / METRICS_LOG
    with writing(path), path.open("a") as log:
        log.write(json.dumps(row, allow_nan=False) + "\n")


def forget_metrics_after(workdir: Path, step: int) -> None:
    """Drops what the log says of later steps, which a resumed run takes again."""
    path = workdir / METRICS_LOG
    if not path.exists():
        return
    lines = path.read_text(errors="replace").splitlines()
    kept = [line for line in lines if _step_of(line) <= step]
    with writing(path):
        atomic.write_text(path, "".join(line + "\n" for line in kept))


def _step_of(line: str) -> float:
    try:
        return int(json.loads(line)["step"])
    except atomic.JSON_ERRORS:  # a line cut short by a kill
        return float("inf")


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A config's values by their dotted keys."""
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[prefix + key] = value
    return values
