"""Works off jobs one after another or side by side, each again where it crashes."""

import collections
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from launch.processes import (
    LEAVING_SECONDS,
    TURN_SECONDS,
    Process,
    as_a_shell_tells,
    say,
    say_what_ended,
)
from trainer.errors import Preempted, UserError

_NEVER_AGAIN = (UserError.exit_status, Preempted.exit_status)


class Job(NamedTuple):
    """Commands, of which the next is asked for once the one before has finished."""

    name: str  # before each of its lines
    commands: Iterator[Sequence[str]]


def work_off(
    jobs: Sequence[Job],
    environments: Sequence[Mapping[str, str]],
    max_restarts: int,
    received: Sequence[int],
) -> dict[str, int]:
    """Runs as many jobs at a time as there are environments, each in one of them.

    A command that crashes is started again, so often in a job; one that fails ends its job alone.
    Signals, which `received` grows by, reach each command under way once; no other is begun then.

    Returns the status of each job that was begun, by its name: 0 where all its commands finished.
    """
    waiting = collections.deque(jobs)
    free = list(environments)
    running: list[_Running] = []
    statuses: dict[str, int] = {}
    delivered = 0
    deadline = math.inf
    try:
        while running or (waiting and not received):
            while waiting and free and not received:
                running.append(_Running(waiting.popleft(), free.pop(0), max_restarts))
            time.sleep(TURN_SECONDS)
            for number in received[delivered:]:
                for job in running:
                    job.send(number)
                delivered += 1
                deadline = min(deadline, time.monotonic() + LEAVING_SECONDS)
            for job in list(running):
                if time.monotonic() >= deadline:
                    say(f"{job.name} does not end; it is killed")
                    job.end()
                status = job.turn(goes_on=not received)
                if status is not None:
                    statuses[job.name] = status
                    running.remove(job)
                    free.append(job.environment)
    finally:
        for job in running:
            job.end()
    return statuses


class _Running:
    """A job under way, in the environment that it has for itself."""

    def __init__(self, job: Job, environment: Mapping[str, str], restarts: int):
        self.name = job.name
        self.environment = environment
        self._commands = job.commands
        self._restarts_left = self._restarts = restarts
        self._command = next(self._commands)
        self._process = self._start()

    def turn(self, goes_on: bool) -> int | None:
        """Starts what is next where a command has ended; the job's status once nothing is."""
        ended = self._process.status()
        if ended is None:
            return None
        self._process.end()
        say_what_ended(self.name, ended)
        if not goes_on:
            return as_a_shell_tells(ended)
        if ended == 0:
            following = next(self._commands, None)
            if following is None:
                return 0
            self._command = following
        elif ended in _NEVER_AGAIN or not self._restarts_left:
            return as_a_shell_tells(ended)
        else:
            self._restarts_left -= 1
            number = self._restarts - self._restarts_left
            say(f"{self.name} starts again, restart {number} of {self._restarts}")
        self._process = self._start()
        return None

    def send(self, number: int) -> None:
        self._process.send(number)

    def end(self) -> None:
        self._process.end()

    def _start(self) -> Process:
        return Process(self._command, self.environment, f"[{self.name}] ")
