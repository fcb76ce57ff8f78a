"""A run is its workdir: `config.json`, the lock, the metrics; two runs never share a workdir."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from trainer.config import Config, Data, differences, located, parse
from trainer.errors import UserError, require, unwritable, writing
from trainer.run.checkpoints import Checkpoints
from trainer.run.metrics_log import METRICS, METRICS_LOG, MetricsLog
from trainer.storage import atomic, locks, paths

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
SAMPLES = ("samples.npz", "samples.png")
MAP = ("map.csv", "map.png")

_PACKAGES = ("tensorflow", "keras", "numpy", "tensorflow-datasets", "scikit-learn")


@dataclasses.dataclass(frozen=True)
class Run:
    """Describes a run by its workdir and the content of `config.json`."""

    workdir: Path
    config: Config
    data_fingerprint: str
    inputs: Mapping[str, list]  # shape, scaling and names of the inputs: `Dataset.inputs`
    versions: Mapping[str, str]  # of the packages that the run began with
    run_id: str  # in each checkpoint; the same in copies of the workdir
    executions: Mapping[str, str]  # how steps are computed, by devices
    cwd: str = ""  # the folder of the last start, relative to the workdir

    @property
    def checkpoints(self) -> Checkpoints:
        """Returns the run's checkpoints."""
        return Checkpoints(self.workdir / CHECKPOINTS, self.run_id)

    @property
    def newest_step(self) -> int:
        """Returns the step of the newest checkpoint, or 0 without one."""
        newest = self.checkpoints.find()
        return newest.step if newest else 0

    @property
    def log(self) -> MetricsLog:
        """Returns the run's metrics log."""
        return MetricsLog(self.workdir / METRICS_LOG)

    def locate(self, data: Data, moved_to: str = "") -> Data:
        """Returns the keys of data, where these are now; see `config.located`."""
        return located(data, str(self.workdir / self.cwd), moved_to)

    def write(self) -> None:
        """Writes `config.json`.

        Raises:
          StorageError: the file cannot be written, and is unchanged.
        """
        path = self.workdir / CONFIG
        description = vars(self) | {"config": self.config.to_dict()}
        del description["workdir"]
        with writing(path):
            atomic.write_json(path, description)


def open_run(
    workdir: Path, config: Config, data_fingerprint: str, inputs: Mapping[str, list]
) -> Run:
    """Returns the run of this config on these data, from the workdir or new.

    Writes nothing.

    Raises:
      UserError: the workdir holds a run of another config or other data, or no run of the trainer.
    """
    run = run_to_resume(workdir, config)
    cwd = os.path.relpath(Path.cwd(), workdir)
    if run is not None and run.locate(config.data) != config.data:
        cwd = run.cwd  # the data are found from there, and not from here
    if run is None:
        run_id, versions = uuid.uuid4().hex, installed_versions()
        return Run(workdir, config, data_fingerprint, inputs, versions, run_id, {}, cwd)
    require(
        run.data_fingerprint == data_fingerprint,
        f"{workdir} holds a run on other data: {config.data.name!r} has changed",
    )
    return dataclasses.replace(run, config=config, inputs=inputs, cwd=cwd)


def run_to_resume(workdir: Path, config: Config) -> Run | None:
    """Checks that a config may resume the run of a workdir; returns the run, None for a new one.

    Raises:
      UserError: the workdir holds a run of another config, or no run of the trainer.
    """
    if not (workdir / CONFIG).exists():
        require(
            not (workdir / CHECKPOINTS).exists(),
            f"{workdir} holds checkpoints but no {CONFIG}; it is not a run of this trainer",
        )
        own = next(_data_files(workdir), None)
        require(
            own is None,
            f"{workdir} holds files of data, such as {str(own)!r}, and no run; --workdir names a "
            "new or an empty folder for the run",
        )
        return None
    run = read(workdir)
    differing = differences(run.config, config)
    changes = "; ".join(f"{key} was {old!r}, is {new!r}" for key, (old, new) in differing.items())
    require(
        not differing,
        f"{workdir} holds a run of another config: {changes}; "
        f"take another --workdir, or keep the old values with --config={workdir / CONFIG}",
    )
    return run


def _data_files(folder: Path) -> Iterator[Path]:
    """Yields images, arrays and tables in a folder and its subfolders, one level deep."""
    suffixes = (*paths.IMAGE_SUFFIXES, *paths.ARRAY_SUFFIXES, *paths.TABLE_SUFFIXES)
    for pattern in ("*", "*/*"):
        for path in folder.glob(pattern):
            if path.name.lower().endswith(suffixes):
                yield path


def read_if_any(workdir: Path) -> Run | None:
    """Reads the run of a workdir, as `read`; returns None if there is no run."""
    return read(workdir) if (workdir / CONFIG).exists() else None


def config_of(workdir: Path, moved_to: str = "") -> Config:
    """Returns the config with which a start resumes a run, without a config of its own.

    Raises:
      UserError: the workdir holds no run, or the data cannot be at `moved_to`.
    """
    run = read(workdir)
    data = run.locate(run.config.data, moved_to)
    return dataclasses.replace(run.config, data=data) if moved_to else run.config


def installed_versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that a run's results depend on."""
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return packages | {"python": platform.python_version()}


def code_digest() -> str:
    """Returns a digest of the trainer's source code."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def read(workdir: Path) -> Run:
    """Reads the run of a workdir.

    Raises:
      UserError: the workdir holds no run, or its `config.json` cannot be read.
    """
    path = workdir / CONFIG
    require(path.exists(), f"{workdir} holds no run: there is no {CONFIG} in it")
    try:
        description = json.loads(path.read_text())
        with as_damaged_config(workdir):
            config = parse(dict(description["config"]))
        return Run(
            workdir,
            config,
            _text(description["data_fingerprint"]),
            dict(description["inputs"]),
            dict(description["versions"]),
            _text(description["run_id"]),
            dict(description["executions"]),
            _text(description["cwd"]),
        )
    except (OSError, *atomic.JSON_ERRORS) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error})") from error


@contextlib.contextmanager
def as_damaged_config(workdir: Path) -> Iterator[None]:
    """Blames the run's `config.json` for a UserError inside the block."""
    try:
        yield
    except UserError as error:
        raise UserError(
            f"{workdir / CONFIG} is damaged, of another version, or of a kind that is not "
            f"installed: {error}"
        ) from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


@contextlib.contextmanager
def locked(workdir: Path, patience_seconds: float = 0) -> Iterator[None]:
    """Creates a workdir, and locks it against other trainers.

    Waits up to `patience_seconds` for a trainer that holds the lock. Removes the workdir at the end
    if nothing was written there.

    Raises:
      UserError: the workdir cannot be created, written or locked, or a trainer holds the lock.
    """
    path = workdir / ".lock"
    lock, made = _lock(path, patience_seconds)
    with lock:
        try:
            yield
        finally:
            if list(workdir.iterdir()) == [path]:  # the start was refused
                path.unlink()
                if made:
                    with contextlib.suppress(OSError):  # another start has locked it meanwhile
                        workdir.rmdir()


def _lock(path: Path, patience_seconds: float) -> tuple[IO, bool]:
    """Creates and locks a file; tries again if a refused start removes the file meanwhile.

    Returns the file, and whether its folder was created.
    """
    workdir = path.parent
    while True:
        try:
            made = not workdir.exists()
            workdir.mkdir(parents=True, exist_ok=True)
            lock = path.open("w")
        except OSError as error:
            advice = "; take another --workdir"
            raise unwritable(f"workdir={str(workdir)!r}", error, advice) from error
        with contextlib.ExitStack() as scope:
            scope.enter_context(lock)
            _acquire(lock, workdir, patience_seconds)
            if locks.is_at(lock, path):
                scope.pop_all()
                return lock, made


def _acquire(lock: IO, workdir: Path, patience_seconds: float) -> None:
    try:
        holder = f"the trainer that is at work in {workdir}"
        taken = locks.acquire(lock, holder, patience_seconds)
    except OSError as error:
        raise UserError(f"workdir={str(workdir)!r} cannot be locked: {error.strerror}") from error
    require(taken, f"another trainer is at work in {workdir}")


def read_metrics(workdir: Path) -> dict[str, Any] | None:
    """Returns what `trainer.evaluate` measured of a run, or None before the first evaluation.

    Raises:
      UserError: the metrics cannot be read.
    """
    path = workdir / METRICS
    if not path.exists():
        return None
    try:
        metrics = dict(json.loads(path.read_text()))
        for value in metrics.values():
            if isinstance(value, int):
                float(value)  # raises OverflowError: no metric is so large
        return metrics
    except (OSError, *atomic.JSON_ERRORS) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
