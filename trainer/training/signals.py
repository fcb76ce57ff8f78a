"""The signals that ask a training to stop."""

import signal
import threading


class Stop:
    """Turns the first SIGTERM or SIGINT into a request; a second one acts by its old handler.

    Does nothing in other threads than the main one, where Python delivers no signals.
    """

    def __init__(self) -> None:
        self.requested = False
        in_main_thread = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGTERM, signal.SIGINT) if in_main_thread else ()
        self._before = {number: signal.getsignal(number) for number in numbers}

    def arm(self) -> None:
        """Installs the handlers; to be called again after code that installs others."""
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
        print("stopping after the current steps; signal again to kill", flush=True)
