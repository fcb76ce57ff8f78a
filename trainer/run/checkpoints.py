"""Checkpoints: written aside, renamed when whole, verified before they are used.

A checkpoint is a folder `step-<number>` with `state.npz`, an array for each variable under its
path, and `manifest.json`: the step, the validation loss if there was one, the id of the run, the
digests of the state and of the manifest itself. Arrays under names, rather than TensorFlow's own
format, since that stores optimizer slots by their position.

To a run, that of another one is no better than a damaged one: never taken, counted or deleted. A
run that was begun before there were ids has None, to the end, and so have its checkpoints.
"""

import dataclasses
import hashlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np

from trainer.errors import StorageError, require, writing
from trainer.storage import atomic

_STATE = "state.npz"
_MANIFEST = "manifest.json"
_PREFIX = "step-"
_ASIDE = ".writing-"
_GOING = ".deleting-"
_DAMAGED = "damaged-"  # begins the names of those that are set aside
_OTHER_RUN = "other-run-"  # likewise: intact, and not this run's
_NOT_OWN = -math.inf  # the loss of one whose manifest is damaged, or another run's
PATIENCE_SECONDS = 600.0  # for which training goes on while no checkpoint can be written

State = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been verified."""

    path: Path
    step: int
    validation_loss: float | None

    def state(self) -> State:
        """The arrays, by the paths of their variables."""
        with np.load(self.path / _STATE, allow_pickle=False) as arrays:
            return dict(arrays)


class DamagedError(Exception):
    """A checkpoint is not what this run has written."""


class ForeignError(DamagedError):
    """It is what another run has written, as its manifest says."""

    def __init__(self, message: str, manifest: Mapping[str, Any]):
        super().__init__(message)
        self.manifest = manifest


def save(
    folder: Path,
    step: int,
    state: State,
    *,
    validation_loss: float | None,
    keep: int,
    run_id: str | None = None,
    needed_step: int | None = None,
) -> None:
    """Commits a checkpoint, then deletes all of this run but the newest `keep` and the best.

    If the run may roll back to `needed_step` or later, the newest and the best checkpoint up to it
    are kept too. A crash at any moment leaves either no trace of it or the whole of it.

    Raises:
      StorageError: it cannot be written, or one of this step is there; the others are untouched.
    """
    aside = folder / f"{_ASIDE}{_name(step)}"
    try:
        with writing(f"the checkpoint of step {step:,}"):
            _commit(folder, aside, step, state, validation_loss, run_id)
            _delete_old(folder, keep, run_id, needed_step)
    except StorageError:
        shutil.rmtree(aside, ignore_errors=True)  # a full disk has its room back
        raise


def _commit(
    folder: Path,
    aside: Path,
    step: int,
    state: State,
    validation_loss: float | None,
    run_id: str | None,
) -> None:
    for pattern in (f"{_ASIDE}*", f"{_GOING}*"):  # what a crash has left
        for leftover in folder.glob(pattern):
            _remove(leftover)
    aside.mkdir(parents=True)
    manifest = {
        "step": step,
        "validation_loss": validation_loss,
        "run_id": run_id,
        "state_sha256": write_arrays(aside / _STATE, state),
    }
    signed = {"manifest": manifest, "manifest_sha256": _digest_of(manifest)}
    with (aside / _MANIFEST).open("w") as text:
        json.dump(signed, text, indent=2)
        text.flush()
        os.fsync(text.fileno())
    _sync(aside)
    aside.rename(folder / _name(step))
    _sync(folder)
    _sync(folder.parent)  # the folder itself may be new


def write_arrays(path: Path, state: State) -> str:
    """Writes arrays to an .npz file; returns the digest of what is on disk."""
    with path.open("wb") as file:
        np.savez(file, **state)  # type: ignore[arg-type]
        os.fsync(file.fileno())
    return _digest(path.read_bytes())


class Background:
    """Saves checkpoints one after the other in a thread of its own, while training goes on.

    It also goes on while none can be written, and says so, for PATIENCE_SECONDS.
    """

    def __init__(self) -> None:
        self._thread = futures.ThreadPoolExecutor(1, "checkpoint")
        self._saving: futures.Future[None] | None = None
        self._failing_since: float | None = None

    def save(self, folder: Path, step: int, state: State, **settings: Any) -> None:
        """Calls `save` with these arguments, once the checkpoint before is committed or given up.

        Raises:
          StorageError: none could be written for so long.
        """
        error = self._wait()
        if error is None:
            self._failing_since = None
        else:
            now = time.monotonic()
            self._failing_since = self._failing_since or now
            if now - self._failing_since >= PATIENCE_SECONDS:
                raise _given_up(error)
            print(f"CHECKPOINT LOST: {error}; training goes on", file=sys.stderr, flush=True)
        self._saving = self._thread.submit(save, folder, step, state, **settings)

    def wait(self) -> None:
        """Returns when the last checkpoint is committed.

        Raises:
          StorageError: it could not be written.
        """
        error = self._wait()
        if error is not None:
            raise _given_up(error)

    def close(self) -> None:
        """Waits, and ends the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def _wait(self) -> StorageError | None:
        saving, self._saving = self._saving, None
        try:
            if saving:
                saving.result()
        except StorageError as error:
            return error
        return None


def _given_up(error: StorageError) -> StorageError:
    return StorageError(f"{error}; start again to go on from the last good one, which is untouched")


def find(folder: Path, which: str = "last", *, run_id: str | None = None) -> Checkpoint | None:
    """A run's newest whole checkpoint ("last"), that of lowest validation loss ("best"), or none.

    Warns of each that it passes over, damaged or another run's.

    Raises:
      UserError: there are checkpoints, but none is whole and of this run, or none of these has the
        loss that "best" needs.
    """
    paths = _best_first(_losses(folder, run_id)) if which == "best" else _newest_first(folder)
    return _first_whole(folder, paths, which, run_id)


def find_before(folder: Path, step: int, *, run_id: str | None = None) -> Checkpoint | None:
    """A run's newest whole checkpoint up to a step or, without one, the next after it.

    Warns and raises as `find`.
    """
    paths = _newest_first(folder)
    before = _up_to(paths, step)
    ordered = before + paths[: len(paths) - len(before)][::-1]
    return _first_whole(folder, ordered, "last", run_id)


def delete_after(folder: Path, step: int, *, run_id: str | None = None) -> None:
    """Deletes a run's checkpoints of later steps, the newest first.

    Raises:
      StorageError: one of them cannot be deleted.
    """
    own = [*_own(folder, run_id)]
    with writing(folder):
        for path in own[: len(own) - len(_up_to(own, step))]:
            _delete(path)
        _sync(folder)


def _first_whole(
    folder: Path, paths: list[Path], which: str, run_id: str | None
) -> Checkpoint | None:
    foreign = 0
    for path in paths:
        try:
            return verify(path, run_id)
        except ForeignError as error:
            print(f"CHECKPOINT OF ANOTHER RUN: {error}", file=sys.stderr)
            foreign += 1
        except DamagedError as error:
            print(f"CHECKPOINT DAMAGED: {error}", file=sys.stderr)
    whole = f"whole and this run's own ({foreign} of another run)" if foreign else "whole"
    require(which != "best", f"no checkpoint in {folder} that is {whole} has a validation loss")
    require(
        not paths,
        f"none of the {len(paths)} checkpoints in {folder} is {whole}; put one back from a copy, "
        "or take another --workdir",
    )
    return None


def set_aside_after(folder: Path, step: int, *, run_id: str | None = None) -> None:
    """Renames the checkpoints of later steps, none of which is this run's and whole."""
    for path in _newest_first(folder):
        if path.name > _name(step):
            prefix = _OTHER_RUN if isinstance(_fault(path, run_id), ForeignError) else _DAMAGED
            path.rename(folder / f"{prefix}{path.name}-{time.time_ns()}")


def verify(path: Path, run_id: str | None = None) -> Checkpoint:
    """Reads a checkpoint's manifest and checks everything that it says.

    Raises:
      ForeignError: it is whole, and another run's.
      DamagedError: something is missing, or is not what was written.
    """
    try:
        manifest = _manifest(path, run_id)
    except ForeignError as error:
        _check_state(path, error.manifest)
        raise
    _check_state(path, manifest)
    return Checkpoint(path, manifest["step"], manifest["validation_loss"])


def _check_state(path: Path, manifest: Mapping[str, Any]) -> None:
    written = manifest["state_sha256"]
    try:
        found = _digest((path / _STATE).read_bytes())
    except OSError as error:
        raise DamagedError(f"{path / _STATE} cannot be read: {error.strerror}") from error
    if found != written:
        raise DamagedError(
            f"{path / _STATE} is not what was written: its sha256 is {found}, was {written}"
        )


def report(folder: Path, run_id: str | None = None) -> tuple[list[str], int]:
    """A line on each checkpoint, the oldest first, and how many are damaged or another run's.

    Those that were set aside have a line too, and are not counted: none is used.

    Raises:
      UserError: there are none.
    """
    paths = sorted(folder.glob(f"{_PREFIX}*"))
    require(bool(paths), f"{folder} holds no checkpoint")
    lines, damaged = [], 0
    for path in paths:
        try:
            checkpoint = verify(path, run_id)
        except DamagedError as error:
            if path.exists():  # else a training that is under way has just deleted it
                what = "FOREIGN" if isinstance(error, ForeignError) else "DAMAGED"
                lines.append(f"{what}  {error}")
                damaged += 1
            continue
        loss = checkpoint.validation_loss
        validated = "" if loss is None else f", validation loss {loss:.5f}"
        lines.append(f"whole    {path}: step {checkpoint.step:,}{validated}")
    for prefix in (_DAMAGED, _OTHER_RUN):
        lines += [f"no use   {path}: set aside" for path in sorted(folder.glob(f"{prefix}*"))]
    return lines, damaged


def restore(checkpoint: Checkpoint, variables: Mapping[str, Any]) -> None:
    """Assigns every one of the variables, by path, from a checkpoint that may hold more.

    Raises:
      UserError: it lacks one of them, or holds it in another shape or dtype.
    """
    state = checkpoint.state()
    for path, variable in variables.items():  # all, before the first of them is changed
        wanted = [list(variable.shape), variable.dtype]
        held = _describe({path: state[path]})[path] if path in state else None
        require(
            held == wanted,
            f"{checkpoint.path} does not fit this model: {path} is {held} there, {wanted} here",
        )
    for path, variable in variables.items():
        variable.assign(state[path])


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_PREFIX}*"), reverse=True)


def _losses(folder: Path, run_id: str | None) -> dict[Path, float]:
    """All checkpoints, the newest first, with the losses by which they are compared."""
    return {path: _validation_loss(path, run_id) for path in _newest_first(folder)}


def _own(folder: Path, run_id: str | None) -> dict[Path, float]:
    """Likewise a run's, whose manifests are whole."""
    return {path: loss for path, loss in _losses(folder, run_id).items() if loss != _NOT_OWN}


def _up_to(paths: list[Path], step: int) -> list[Path]:
    """Those of a step and the ones before it."""
    return [path for path in paths if path.name <= _name(step)]


def _manifest(path: Path, run_id: str | None) -> dict[str, Any]:
    try:
        signed = json.loads((path / _MANIFEST).read_text())
        manifest = signed["manifest"]
        whole = signed["manifest_sha256"] == _digest_of(manifest)
        named = path.name == _name(manifest["step"])
        keys = manifest.keys() | {"run_id"}  # which older ones lack
        whole &= keys == {"step", "validation_loss", "run_id", "state_sha256"}
    except OSError as error:
        raise DamagedError(f"{path / _MANIFEST} cannot be read: {error.strerror}") from error
    except atomic.JSON_ERRORS as error:
        raise DamagedError(f"{path / _MANIFEST} is not what was written: {error!r}") from error
    if not whole:
        raise DamagedError(f"{path / _MANIFEST} is not what was written: its digest differs")
    if manifest.get("run_id") != run_id:
        raise ForeignError(
            f"{path} belongs to another run: run_id={manifest.get('run_id')!r}, not {run_id!r}",
            manifest,
        )
    if not named:
        raise DamagedError(f"{path / _MANIFEST} is that of step {manifest['step']}")
    return manifest


def _best_first(losses: Mapping[Path, float]) -> list[Path]:
    """Those that were validated, after those that cannot be compared."""
    return sorted((path for path in losses if losses[path] < math.inf), key=losses.__getitem__)


def _validation_loss(path: Path, run_id: str | None) -> float:
    """By which checkpoints are compared: infinite where there is none."""
    try:
        loss = _manifest(path, run_id)["validation_loss"]
    except DamagedError:
        return _NOT_OWN
    return math.inf if loss is None else loss


def _fault(path: Path, run_id: str | None) -> DamagedError | None:
    """Why a checkpoint is not to be used; None where it is whole and the run's own."""
    try:
        verify(path, run_id)
    except DamagedError as error:
        return error
    return None


def _best(losses: Mapping[Path, float], run_id: str | None) -> Path | None:
    return next((path for path in _best_first(losses) if _fault(path, run_id) is None), None)


def _delete_old(folder: Path, keep: int, run_id: str | None, needed_step: int | None) -> None:
    losses = _own(folder, run_id)
    own = [*losses]
    kept = {*own[:keep], _best(losses, run_id)}
    if needed_step is not None:
        before = _up_to(own, needed_step)  # what comes after is needed as the step advances
        best_before = _best({path: losses[path] for path in before}, run_id)
        kept |= {*own[: len(own) - len(before) + 1], best_before}
    for path in own:
        if path not in kept:
            _delete(path)


def _delete(path: Path) -> None:
    _remove(path.rename(path.with_name(f"{_GOING}{path.name}")))  # so that no half is ever found


def _remove(path: Path) -> None:
    """Deletes a folder; of a link to one, the link alone."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path)


def _sync(folder: Path) -> None:
    """Has the names in a folder survive a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _name(step: int) -> str:
    return f"{_PREFIX}{step:010d}"


def _describe(state: State) -> dict[str, list[Any]]:
    """The shape and dtype of each array."""
    return {path: [list(array.shape), str(array.dtype)] for path, array in state.items()}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest_of(manifest: Mapping[str, Any]) -> str:
    return _digest(json.dumps(manifest, sort_keys=True).encode())
