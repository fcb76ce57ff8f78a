"""Writes checkpoints under a temporary name, renames them when whole, verifies them before use.

A checkpoint is a folder `step-<number>` with `state.npz`, an array for each variable under the
variable's path, and `manifest.json`: the step, the validation loss if there was one, the id of the
run, the digests of the state and of the manifest. TensorFlow's own format would store optimizer
slots by position instead of by path.
"""

import dataclasses
import hashlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trainer.errors import StorageError, UserError, in_one_line, require, writing
from trainer.storage import atomic

_STATE = "state.npz"
_MANIFEST = "manifest.json"
_MANIFEST_KEYS = {"step", "validation_loss", "run_id", "state_sha256"}
_PREFIX = "step-"
_MODEL, _AVERAGE = "model/", "average/"  # begin the paths of weights and of their averages
_WRITING = ".writing-"  # begins the name of a checkpoint that is being written
_DELETING = ".deleting-"  # begins the name of a checkpoint that is being deleted
_DAMAGED = "damaged-"  # begins the name of a damaged checkpoint that was renamed

State = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Describes a verified checkpoint."""

    path: Path
    step: int
    validation_loss: float | None

    def state(self) -> State:
        """Reads the arrays by their variables' paths."""
        return self.arrays("")

    def arrays(self, prefix: str) -> State:
        """Reads the arrays whose paths begin with a prefix."""
        with np.load(self.path / _STATE, allow_pickle=False) as arrays:
            return {path: arrays[path] for path in arrays.files if path.startswith(prefix)}

    def weights(self) -> State:
        """Reads a model's weights by their paths, averaged ones if the run averages weights."""
        state = self.state()
        return {
            path: state.get(path.replace(_MODEL, _AVERAGE, 1), array)
            for path, array in state.items()
            if path.startswith(_MODEL)
        }

    def restore(self, variables: Mapping[str, Any]) -> None:
        """Assigns the values of a run's state to all of the variables, by path.

        The checkpoint may hold more.

        Raises:
          UserError: the checkpoint lacks a variable, or holds another shape or dtype of it.
        """
        self.assign(self.state(), variables)

    def assign(self, state: State, variables: Mapping[str, Any]) -> None:
        """Assigns arrays that were read from this checkpoint, as `restore` does."""
        for path, variable in variables.items():  # checks all before it changes the first
            expected = (tuple(variable.shape), str(variable.dtype))
            found = (state[path].shape, str(state[path].dtype)) if path in state else None
            require(
                found == expected,
                f"{self.path} does not fit this model: {path} is {found} there, {expected} here",
            )
        for path, variable in variables.items():
            variable.assign(state[path])


class DamagedError(Exception):
    """Reports a checkpoint that is not what was written."""


class OtherRunError(UserError):
    """Reports a checkpoint of another run."""


class Checkpoints:
    """Saves, finds, verifies and deletes the checkpoints of one run.

    A checkpoint of another run, copied into the folder, is never used, counted or deleted.
    """

    def __init__(self, folder: Path, run_id: str):
        self.folder = folder
        self._run_id = run_id

    def save(
        self,
        step: int,
        state: State,
        *,
        validation_loss: float | None,
        keep: int,
        needed_step: int | None = None,
    ) -> None:
        """Commits a checkpoint, then deletes all but the newest `keep` and the best.

        If the run may roll back to `needed_step` or later, the newest and the best checkpoint up to
        that step are kept too. A crash at any time leaves the whole checkpoint or none.

        Raises:
          StorageError: the checkpoint cannot be written, or a checkpoint of this step exists; the
            other checkpoints are unchanged.
        """
        tmp = self.folder / f"{_WRITING}{_name(step)}"
        try:
            with writing(f"the checkpoint of step {step:,}"):
                self._commit(tmp, step, state, validation_loss)
                self._delete_old(keep, needed_step)
        except StorageError:
            shutil.rmtree(tmp, ignore_errors=True)  # frees the space of a full disk
            raise

    def count(self) -> int:
        """Returns the number of checkpoints, whole or not."""
        return len(self._paths())

    def find(self, checkpoint: str = "last") -> Checkpoint | None:
        """Finds the newest whole checkpoint ("last") or the one of lowest validation loss ("best").

        Warns of each damaged checkpoint on the way. Returns None if there is no checkpoint.

        Raises:
          UserError: no checkpoint is whole, no whole checkpoint has the validation loss that "best"
            needs, or the first choice belongs to another run.
        """
        if checkpoint != "best":
            return self._require_whole(self._paths)
        found = self._first_whole(
            lambda: _by_loss({path: self._loss(path) for path in self._paths()})
        )
        require(
            found is not None or not self.count(),
            f"no whole checkpoint in {self.folder} has a validation loss",
        )
        return found

    def find_before(self, step: int) -> Checkpoint | None:
        """Finds the newest whole checkpoint up to a step or, without one, the first after the step.

        Warns and raises as `find`.
        """

        def nearest() -> list[Path]:
            paths = self._paths()
            before = _up_to(paths, step)
            return before + paths[: len(paths) - len(before)][::-1]

        return self._require_whole(nearest)

    def delete_after(self, step: int) -> None:
        """Deletes the checkpoints of later steps, the newest first.

        Raises:
          StorageError: a checkpoint cannot be deleted.
        """
        own = [*self._own_losses()]
        with writing(self.folder):
            for path in own[: len(own) - len(_up_to(own, step))]:
                _delete(path)
            if own:
                _sync(self.folder)

    def set_aside_after(self, step: int) -> None:
        """Renames the checkpoints of later steps, all damaged, so that their names are free."""
        for path in self._paths():
            if path.name > _name(step):
                path.rename(self.folder / f"{_DAMAGED}{path.name}-{time.time_ns()}")

    def report(self) -> tuple[list[str], int]:
        """Returns a line on each checkpoint, oldest first, and how many cannot be used.

        Damaged checkpoints that were renamed have a line, but do not count.

        Raises:
          UserError: there is no checkpoint.
        """
        paths = self._paths()[::-1]
        require(bool(paths), f"{self.folder} holds no checkpoint")
        lines, unusable = [], 0
        for path in paths:
            try:
                checkpoint = self.verify(path)
            except (DamagedError, OtherRunError) as error:
                if os.path.lexists(path):  # else a running training has just deleted it
                    kind = "FOREIGN" if isinstance(error, OtherRunError) else "DAMAGED"
                    lines.append(f"{kind}  {error}")
                    unusable += 1
                continue
            loss = checkpoint.validation_loss
            validated = "" if loss is None else f", validation loss {loss:.5f}"
            lines.append(f"whole    {path}: step {checkpoint.step:,}{validated}")
        set_aside = sorted(self.folder.glob(f"{_DAMAGED}*"))
        return lines + [f"unused   {path}: set aside" for path in set_aside], unusable

    def verify(self, path: Path) -> Checkpoint:
        """Reads a checkpoint's manifest and checks the state against it.

        Raises:
          OtherRunError: the checkpoint belongs to another run.
          DamagedError: a file is missing, or is not what was written.
        """
        manifest = self._manifest(path)
        try:
            found = _digest((path / _STATE).read_bytes())
        except OSError as error:
            raise DamagedError(f"{path / _STATE} cannot be read: {error.strerror}") from error
        if found != manifest["state_sha256"]:
            raise DamagedError(
                f"{path / _STATE} is not what was written: its sha256 is {found}, was "
                f"{manifest['state_sha256']}"
            )
        return Checkpoint(path, manifest["step"], manifest["validation_loss"])

    def _commit(self, tmp: Path, step: int, state: State, validation_loss: float | None) -> None:
        for prefix in (_WRITING, _DELETING):  # what a crash has left
            for leftover in self.folder.glob(f"{prefix}*"):
                _remove(leftover)
        tmp.mkdir(parents=True)
        manifest = {
            "step": step,
            "validation_loss": validation_loss,
            "run_id": self._run_id,
            "state_sha256": write_arrays(tmp / _STATE, state),
        }
        signed = {"manifest": manifest, "manifest_sha256": _digest_of(manifest)}
        with (tmp / _MANIFEST).open("w") as text:
            json.dump(signed, text, indent=2)
            text.flush()
            os.fsync(text.fileno())
        _sync(tmp)
        tmp.rename(self.folder / _name(step))
        _sync(self.folder)
        _sync(self.folder.parent)  # the folder itself may be new

    def _delete_old(self, keep: int, needed_step: int | None) -> None:
        losses = self._own_losses()
        own = [*losses]
        kept = {*own[:keep], self._best(losses)}
        if needed_step is not None:
            before = _up_to(own, needed_step)  # the newest first
            later = own[: len(own) - len(before)]  # needed as the step advances
            kept |= {*later, *before[:1], self._best({path: losses[path] for path in before})}
        for path in own:
            if path not in kept:
                _delete(path)

    def _paths(self) -> list[Path]:
        """Returns all checkpoints, whole or not, newest first."""
        return sorted(self.folder.glob(f"{_PREFIX}*"), reverse=True)

    def _own_losses(self) -> dict[Path, float]:
        """Returns the checkpoints of this run with a whole manifest, newest first, with losses."""
        losses = {path: self._loss(path) for path in self._paths()}
        return {path: loss for path, loss in losses.items() if loss is not None}

    def _loss(self, path: Path) -> float | None:
        """Reads a validation loss; infinity if there was none, None if no manifest of this run."""
        try:
            loss = self._manifest(path)["validation_loss"]
        except (DamagedError, OtherRunError):
            return None
        return math.inf if loss is None else loss

    def _best(self, losses: Mapping[Path, float]) -> Path | None:
        for path in _by_loss(losses):
            try:
                return self.verify(path).path
            except DamagedError:
                continue
        return None

    def _first_whole(self, find: Callable[[], list[Path]]) -> Checkpoint | None:
        """Returns the first whole checkpoint that `find` lists.

        If none is whole and one is gone, calls `find` again: a running training deletes old ones.
        """
        while True:
            paths, is_damaged = find(), False
            for path in paths:
                try:
                    found = self.verify(path)
                except DamagedError as error:
                    if os.path.lexists(path):
                        print(f"CHECKPOINT DAMAGED: {error}", file=sys.stderr)
                        is_damaged = True
                    continue
                if is_damaged:
                    print(f"using {found.path} instead", file=sys.stderr)
                return found
            if all(os.path.lexists(path) for path in paths):
                return None

    def _require_whole(self, find: Callable[[], list[Path]]) -> Checkpoint | None:
        found, count = self._first_whole(find), self.count()
        require(
            found is not None or not count,
            f"none of the {count} checkpoints in {self.folder} is whole; "
            "put one back from a copy, or take another --workdir",
        )
        return found

    def _manifest(self, path: Path) -> dict[str, Any]:
        file = path / _MANIFEST
        try:
            signed = json.loads(file.read_text())
            manifest = signed["manifest"]
            whole = signed["manifest_sha256"] == _digest_of(manifest)
            whole &= manifest.keys() == _MANIFEST_KEYS
            named = path.name == _name(manifest["step"])
        except OSError as error:
            raise DamagedError(f"{file} cannot be read: {error.strerror}") from error
        except atomic.JSON_ERRORS as error:
            raise DamagedError(f"{file} is not what was written: {in_one_line(error)}") from error
        if not whole:
            raise DamagedError(f"{file} is not what was written: its digest differs")
        if manifest["run_id"] != self._run_id:
            raise OtherRunError(
                f"{path} is a checkpoint of another run: run_id={manifest['run_id']!r}, not "
                f"{self._run_id!r}; take it out of the workdir"
            )
        if not named:
            raise DamagedError(f"{file} is that of step {manifest['step']}")
        return manifest


def write_arrays(path: Path, state: State) -> str:
    """Writes arrays to an .npz file; returns the digest of the file on disk."""
    with path.open("wb") as file:
        np.savez(file, **state)  # type: ignore[arg-type]
        os.fsync(file.fileno())
    return _digest(path.read_bytes())


def _by_loss(losses: Mapping[Path, float | None]) -> list[Path]:
    """Sorts checkpoints, the lowest loss first; those without a manifest precede all others."""
    ranks = {path: -math.inf if loss is None else loss for path, loss in losses.items()}
    return sorted((path for path in ranks if ranks[path] < math.inf), key=ranks.__getitem__)


def _up_to(paths: list[Path], step: int) -> list[Path]:
    return [path for path in paths if path.name <= _name(step)]


def _delete(path: Path) -> None:
    # Renamed first, so that a half-deleted checkpoint is never found.
    _remove(path.rename(path.with_name(f"{_DELETING}{path.name}")))


def _remove(path: Path) -> None:
    """Deletes a folder, or a link to a folder but not its target."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path)


def _sync(folder: Path) -> None:
    """Makes the names in a folder survive a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _name(step: int) -> str:
    return f"{_PREFIX}{step:010d}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest_of(manifest: Mapping[str, Any]) -> str:
    return _digest(json.dumps(manifest, sort_keys=True).encode())
