"""How many steps a training call takes, and where it ends."""

import itertools
from collections.abc import Iterator

from trainer.config import Config

_SECONDS_PER_CALL = 0.5
_CALLS_AHEAD = 4  # one more than the pipeline draws before it is asked for them
_MOST_GROWTH = 4  # of the steps a call, from one plan to the next
_MOST_STEPS_PER_CALL = 1000
_MOST_BYTES_PER_CALL = 16 * 2**20  # of what is drawn on the host, and copied whole each call


class Pace:
    """How many steps a call takes: so many that signals, logs and the bar stay prompt.

    Their number changes no bit of a run. It is planned some calls ahead, since batches are drawn
    ahead, and by the chief alone, since all workers must take as many.
    """

    def __init__(self, steps_per_call: int, step_bytes: int, longest: int = _MOST_STEPS_PER_CALL):
        """Takes the steps of a call, or 0 to adapt them, and what a step is handed by the host.

        `most_steps` is the most that a call is asked for: never more than the `longest` that the
        run has between two steps at which something is due.
        """
        self._adapts = steps_per_call == 0
        fitting = min(_MOST_STEPS_PER_CALL, _MOST_BYTES_PER_CALL // step_bytes)
        self.most_steps = max(1, min(steps_per_call or fitting, longest))
        self._planned = [1] * _CALLS_AHEAD

    def steps(self, call: int) -> int:
        """The steps of a call, counted from 0; no more than `_CALLS_AHEAD` beyond those planned."""
        return self._planned[call] if self._adapts else self.most_steps

    def next_count(self, steps: int, seconds: float) -> int:
        """What a call that took so long says of the next; with care, as the first ones compile."""
        if not self._adapts:
            return self.most_steps
        wanted = int(steps * _SECONDS_PER_CALL / seconds)
        return max(1, min(wanted, _MOST_GROWTH * steps, self.most_steps))

    def plan(self, steps: int) -> None:
        """Adds the next call to the plan."""
        self._planned.append(steps)


def due(step: int, every_steps: int, last_step: int) -> bool:
    """Whether something done every so many steps (0: never), and at the end, is done now."""
    return step == last_step or (every_steps > 0 and step % every_steps == 0)


def step_ranges(
    first_step: int,
    last_step: int,
    config: Config,
    pace: Pace,
    borders: tuple[int, ...] = (),
) -> Iterator[tuple[int, int]]:
    """Cuts a run into calls of as many steps as the pace allows at the time.

    They end wherever the weights are needed, and at the `borders`.
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
    """The numbers of steps after which the weights are needed: validations and checkpoints.

    Log lines need none: a call returns the metrics of each of its steps.
    """
    cadences = (config.validate_every_steps, config.checkpoint_every_steps)
    return [every for every in cadences if every > 0]


def log_windows(
    first_step: int, last_step: int, config: Config, end_step: int
) -> Iterator[tuple[int, int]]:
    """Cuts the steps of a call wherever a log line is due, of a run that ends at `end_step`."""
    first = first_step
    for step in range(first_step + 1, last_step + 1):
        if step == last_step or due(step, config.log_every_steps, end_step):
            yield first, step
            first = step
