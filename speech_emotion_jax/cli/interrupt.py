"""Make Ctrl-C end the command even if a library swallows it.

Python turns Ctrl-C into a KeyboardInterrupt that is raised wherever the main thread happens to be. It is lost there if
the thread runs a finalizer or a callback of the garbage collector, of which JAX has one, or a library's bare `except`.
A run of hours would then go on as if nobody had pressed the keys.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHECK_SECONDS = 0.5  # between Ctrl-C and the first check, and from check to check


@contextmanager
def reraise_swallowed_interrupts() -> Iterator[None]:
    """Re-raise KeyboardInterrupt if a library swallowed it.

    Ctrl-C starts a timer. When the timer fires and no KeyboardInterrupt is being handled, it was swallowed, and it is
    raised again. The timer is stopped before the block's own KeyboardInterrupt reaches the caller.

    Nothing is changed outside the main thread, on Windows (no interval timer), or where Ctrl-C already has another
    handler, as for a background job of a shell.
    """
    default_handler = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not default_handler or not in_main_thread or not hasattr(signal, "setitimer"):
        yield
        return

    def on_interrupt(number: int, frame: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, CHECK_SECONDS)
        raise KeyboardInterrupt

    def on_alarm(number: int, frame: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, CHECK_SECONDS)
        error = sys.exc_info()[1]
        while error is not None and not isinstance(error, KeyboardInterrupt):
            error = error.__context__
        if error is None:
            raise KeyboardInterrupt

    def on_unraisable(unraisable: Any) -> None:
        if unraisable.exc_type is not KeyboardInterrupt:  # a swallowed one is raised again, so it needs no report
            previous_hook(unraisable)

    previous_hook, sys.unraisablehook = sys.unraisablehook, on_unraisable
    previous_alarm = signal.signal(signal.SIGALRM, on_alarm)
    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
        finally:  # also if the alarm fired during the line above and raised
            # on_alarm restarts the timer, so it is disabled before the timer is stopped.
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGALRM, previous_alarm)
            sys.unraisablehook = previous_hook
