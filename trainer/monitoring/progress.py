"""Shows a running training to a person: a bar on a terminal, plain lines in a log.

Every line also goes to `absl.logging` at level INFO, for a program that trains as a library.
"""

import datetime
import sys

from absl import logging
from tqdm import tqdm


def say(text: str, *, quiet: bool = False) -> None:
    """Logs a line and, unless `quiet`, prints it; on a terminal above the bar."""
    logging.info("%s", text)
    if not quiet:
        tqdm.write(text)
        sys.stdout.flush()


def bar(
    what: str, total: int | None, *, unit: str = "images", initial: int = 0, quiet: bool = False
) -> tqdm:
    """Returns a progress bar, shown on a terminal only; total None: the end is not known."""
    return tqdm(
        desc=what,
        initial=initial,
        total=total,
        unit=f" {unit}",
        unit_scale=True,
        dynamic_ncols=True,
        disable=quiet or not sys.stderr.isatty(),
    )


class Progress:
    """Shows how far the training is, how fast it goes and when it will end."""

    def __init__(
        self,
        first_step: int,
        last_step: int,
        batch_size: int,
        *,
        unit: str = "images",
        quiet: bool = False,
    ):
        self._quiet = quiet
        self._unit = unit
        self._step = first_step
        self._last_step = last_step
        self._batch_size = batch_size
        total, done = last_step * batch_size, first_step * batch_size
        self._bar = bar("training", total, unit=unit, initial=done, quiet=quiet)

    def advance(self, step: int, loss: float) -> None:
        """Moves the bar to a step, and shows the loss."""
        self._bar.set_postfix_str(f"loss {loss:.5f}", refresh=False)
        self._bar.update((step - self._step) * self._batch_size)
        self._step = step

    def training(self, step: int, loss: float, images_per_second: float) -> None:
        """Writes a line on the training, unless a bar on a terminal shows the same."""
        seconds_left = (self._last_step - step) * self._batch_size / images_per_second
        left = datetime.timedelta(seconds=round(seconds_left))
        say(
            f"step {step:,} of {self._last_step:,}  loss {loss:.5f}  "
            f"{images_per_second:,.0f} {self._unit}/s  {left} left",
            quiet=self._quiet or not self._bar.disable,
        )

    def line(self, text: str) -> None:
        """Writes a line of text, unless `quiet`."""
        say(text, quiet=self._quiet)

    def close(self) -> None:
        """Ends the bar, which stays on the screen."""
        self._bar.close()
