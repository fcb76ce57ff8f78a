"""The signals that ask a training to stop."""

import signal
import threading


class Stop:
    """Turns the first SIGTERM or Ctrl-C into a request; a second one acts as ever.

    Python lets the main thread alone take signals: a training in another one is not stopped by any.
    """

    def __init__(self) -> None:
        self.requested = False
        in_main_thread = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGTERM, signal.SIGINT) if in_main_thread else ()
        self._before = {number: signal.getsignal(number) for number in numbers}

    def arm(self) -> None:
        """Begins to listen; once more after whatever takes the signals for itself."""
        for number, handler in self._before.items():
            signal.signal(number, handler if self.requested else self._request)

    def close(self) -> None:
        """Hands the signals back to whoever had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number, frame):
        del frame
        self.requested = True
        signal.signal(number, self._before[number])
        print("stopping after the steps under way; once more to kill", flush=True)
