"""Turns signals into requests to stop a training."""

import contextlib
import signal
import threading


class StopRequest:
    """Turns the first SIGTERM or SIGINT into a request; the second goes to the old handler.

    Does nothing outside the main thread, the only one to which Python delivers signals.
    """

    def __init__(self) -> None:
        self.requested = False
        in_main_thread = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGTERM, signal.SIGINT) if in_main_thread else ()
        self._before = {number: signal.getsignal(number) for number in numbers}

    def arm(self) -> None:
        """Installs the handlers; must be called again after code that replaces them."""
        for number, handler in self._before.items():
            signal.signal(number, handler if self.requested else self._request)

    def close(self) -> None:
        """Restores the old handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number, frame):
        del frame
        self.requested = True
        signal.signal(number, self._before[number])
        with contextlib.suppress(BrokenPipeError):  # of a launcher whose death sent the signal
            print("stopping after the current steps; signal again to kill", flush=True)
