"""Runs commands of the trainer in forks of one process that has imported TensorFlow.

    python -m trainer.cli.fork_server DESCRIPTOR

The descriptor is of a socket, from which `launch.forks` asks for commands. No operation of
TensorFlow runs before a fork, since its threads would be missing in the fork.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from collections.abc import Iterable

from trainer.errors import Preempted
from trainer.tensorflow_import import import_tensorflow, paused_garbage_collector

_MAX_REQUEST_BYTES = 2**20
_POLL_SECONDS = 0.05
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_PRELOADED = (  # what a training and an evaluation import besides TensorFlow
    *("trainer.training.train", "trainer.evaluation.evaluate", "matplotlib.figure"),
    *("matplotlib.backends.backend_agg", "sklearn.datasets", "sklearn.decomposition"),
    *("sklearn.linear_model", "sklearn.neighbors", "tensorboard.summary"),
)


def main() -> None:
    """Serves requests; in a fork, runs the command that was asked for and exits with its status."""
    statuses: list[int] = []  # of a fork, once its command has ended
    atexit.register(_end_at_once, statuses)  # before a command's handlers, and so called after them
    words = serve(socket.socket(fileno=int(sys.argv[1])))
    if not words:
        return
    try:
        run(words)
    except SystemExit as ended:
        if isinstance(ended.code, int | None):
            statuses.append(ended.code or 0)
        raise
    statuses.append(0)


def run(words: list[str]) -> None:
    """Runs a module after `-m`, or a script, with its arguments, as `python` runs these words."""
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


def _end_at_once(statuses: list[int]) -> None:
    """Ends a fork with its command's status; does nothing in the server.

    Freeing a fork's objects would copy the memory that it shares with the server.
    """
    if statuses:
        with contextlib.suppress(OSError, ValueError):  # which Python reports at its own exit
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(statuses[0])


def serve(control: socket.socket) -> list[str]:
    """Forks for each request until the socket is closed, then stops the forks that still run.

    A request is JSON, `words` after `python` and an `environment` to add, with descriptors for
    stdout, stderr and the status. To the last the server writes the fork's process id and, once it
    has ended, its status as of `os.waitstatus_to_exitcode`, a line each.

    Returns the words in a fork, and [] in the server when it ends.
    """
    reports: dict[int, int] = {}  # the descriptor of the status by process id
    while True:
        if select.select([control], [], [], _POLL_SECONDS)[0]:
            content, descriptors, _, _ = socket.recv_fds(control, _MAX_REQUEST_BYTES, 3)
            if not content:
                _stop(reports)
                return []
            request = json.loads(content)
            if request["words"][0] == "-m":
                _preload()
            process = _fork()
            if process == 0:
                for descriptor in (control.detach(), descriptors[2], *reports.values()):
                    os.close(descriptor)
                _become(request["environment"], *descriptors[:2])
                return request["words"]
            for descriptor in descriptors[:2]:
                os.close(descriptor)
            reports[process] = descriptors[2]
            _report(descriptors[2], process)
        _reap(reports)


def _stop(processes: Iterable[int]) -> None:
    """Sends SIGTERM to the forks of a launcher that has died.

    PR_SET_PDEATHSIG would send a signal for each thread of this process, and the second signal
    ends a trainer without a checkpoint.
    """
    for process in processes:
        os.kill(process, signal.SIGTERM)


def _reap(reports: dict[int, int]) -> None:
    for process in list(reports):
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            report = reports.pop(process)
            _report(report, os.waitstatus_to_exitcode(status))
            os.close(report)


def _preload() -> None:
    with paused_garbage_collector():
        import_tensorflow()
        for name in _PRELOADED:
            importlib.import_module(name)
    gc.freeze()  # a collection in a fork would copy the memory pages of every object


def _fork() -> int:
    """Forks this process; signals wait until `_become` has set their handler."""
    sys.stdout.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    process = os.fork()
    if process:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    return process


def _become(environment: dict[str, str], stdout: int, stderr: int) -> None:
    """Makes this fork a process of its own, as a launcher starts them."""
    os.setsid()
    for descriptor, standard in ((stdout, 1), (stderr, 2)):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    os.environ.update(environment)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(Preempted.exit_status))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _report(descriptor: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the launcher does not wait for it any more
        os.write(descriptor, f"{number}\n".encode())


if __name__ == "__main__":
    main()
