"""Decides how many steps a call of the training function takes, and where a call ends."""

import itertools
from collections.abc import Iterator

from trainer.config import Config

_SECONDS_PER_CALL = 0.5
_CALLS_AHEAD = 4  # one more than the pipeline draws in advance
_MAX_GROWTH = 4  # of the steps per call, from one plan to the next
_MAX_STEPS_PER_CALL = 1000
_MAX_BYTES_PER_CALL = 16 * 2**20  # of rows, which the host copies whole for each call


class StepsPerCall:
    """Chooses the steps of each call so that a call takes half a second.

    Half a second keeps signals, logs and the progress bar prompt. The choice changes no bit of a
    run. Calls are planned some calls in advance, as batches are prefetched; the chief plans for all
    workers.
    """

    def __init__(self, steps_per_call: int, step_bytes: int, longest: int = _MAX_STEPS_PER_CALL):
        """Initialises the plan.

        Args:
          steps_per_call: the steps of each call; 0 adapts them to the speed.
          step_bytes: the bytes that the host passes to the device for a step.
          longest: the most steps between two validations or checkpoints.
        """
        self._adapts = steps_per_call == 0
        # Two steps at least: `training_batches` passes as many.
        fitting = max(2, min(_MAX_STEPS_PER_CALL, _MAX_BYTES_PER_CALL // step_bytes))
        self.max_steps = max(1, min(steps_per_call or fitting, longest))
        self._planned = [1] * _CALLS_AHEAD

    def steps(self, call: int) -> int:
        """Returns the steps of a planned call, counted from 0."""
        return self._planned[call] if self._adapts else self.max_steps

    def next_count(self, steps: int, seconds: float) -> int:
        """Returns the steps for the next call, after a call of `steps` took `seconds`.

        The count grows by a factor of 4 at most, since the first calls compile.
        """
        if not self._adapts:
            return self.max_steps
        half_second = int(steps * _SECONDS_PER_CALL / seconds)
        return max(1, min(half_second, _MAX_GROWTH * steps, self.max_steps))

    def plan(self, steps: int) -> None:
        """Adds a call to the plan."""
        self._planned.append(steps)


def due(step: int, every_steps: int, last_step: int) -> bool:
    """Returns whether an action is due, every `every_steps` steps (0: never) and at the end."""
    return step == last_step or (every_steps > 0 and step % every_steps == 0)


def step_ranges(
    first_step: int,
    last_step: int,
    config: Config,
    pace: StepsPerCall,
    borders: tuple[int, ...] = (),
) -> Iterator[tuple[int, int]]:
    """Cuts the steps of a run into calls: pairs of a first step and an end.

    A call ends wherever a validation or checkpoint is due, and at the `borders`.
    """
    step = first_step
    for call in itertools.count():
        if step == last_step:
            return
        ends = [(step // every + 1) * every for every in cadences(config)]
        ends += [border for border in borders if border > step]
        stop = min([last_step, step + pace.steps(call), *ends])
        yield step, stop
        step = stop


def cadences(config: Config) -> list[int]:
    """Returns the intervals of validations and checkpoints, which need the weights after a call.

    A log row needs no end of a call, which returns the metrics of each step.
    """
    intervals = (config.validate_every_steps, config.checkpoint_every_steps)
    return [every for every in intervals if every > 0]


def log_windows(
    first_step: int, last_step: int, config: Config, end_step: int
) -> Iterator[tuple[int, int]]:
    """Cuts the steps of a call wherever a log row is due, in a run that ends at `end_step`."""
    first = first_step
    for step in range(first_step + 1, last_step + 1):
        if step == last_step or due(step, config.log_every_steps, end_step):
            yield first, step
            first = step
