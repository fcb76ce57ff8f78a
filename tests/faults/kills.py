"""Processes that the kernel kills where a test wants it: at a call, at a byte, within a function.

All are real: SIGKILL, or SIGXFSZ in the middle of a write. It needs no TensorFlow by itself.
"""

import functools
import itertools
import os
import pkgutil
import resource
import signal
import sys
from collections.abc import Callable

_CHANGING = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")


def now(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(number):
    """Before the number-th call of this process that changes the disk, counted from 1."""
    calls = itertools.count(1)

    def count():
        if next(calls) == number:
            now()

    def hook(event, args):
        opened = event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if opened or event in _CHANGING:
            count()

    def counted(sync, *args):
        count()
        sync(*args)

    os.fsync = functools.partial(counted, os.fsync)
    sys.addaudithook(hook)


def at_byte(number):
    """In the write that makes any file larger than so many bytes; what fits is written."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))


def within(place, call=1, then=now):
    """Once the function of this dotted name has returned so often, and before its caller knows.

    What is done `then` is the kill, unless a test wants another fault.
    """
    owner_name, _, name = place.rpartition(".")
    owner = pkgutil.resolve_name(owner_name)
    original = getattr(owner, name)
    calls = itertools.count(1)

    def dying(*args, **settings):
        result = original(*args, **settings)
        if next(calls) == call:
            then()
        return result

    setattr(owner, name, dying)


def fork(work: Callable[[], None]) -> int:
    """Does something in a copy of this process; returns its exit status, -9 where it was killed.

    For a process of one thread.
    """
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
