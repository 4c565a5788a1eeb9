"""The daemon's own process: its signals and limits, which its children are not to inherit.

Nothing of the daemon is imported here: this comes before all of that.
"""

from __future__ import annotations

import resource
import signal
from contextlib import suppress
from types import FrameType

IDLE_SIGNALS = tuple(
    signal.Signals[name]
    for name in ("SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGPWR", "SIGSTKFLT")
    if name in signal.Signals.__members__
)
"""What means nothing to a daemon, and would end it by default."""

HELD_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, *IDLE_SIGNALS)
"""What operators may send. None of them may be lost, or end the daemon, while it is not yet able to heed it."""


def reset_signals() -> None:
    """Undo what the daemon inherited: ignored signals, and blocked ones. The first thing in ``main``.

    An operator's signals are held until :func:`heed_signals`. With SIGCHLD ignored every exit code is
    read as 0; and children inherit the rest. SIGPIPE and SIGXFSZ, which Python ignores, are restored in
    each child.
    """
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) is signal.SIG_IGN:
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)
    signal.pthread_sigmask(signal.SIG_SETMASK, HELD_SIGNALS)


def hold_signals() -> None:
    """Let the program that follows in this process have an operator's signals. After :func:`outlast_signals`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)


def outlast_signals() -> None:
    """Install handlers that do nothing, for the time before and after somebody listens.

    Not SIG_IGN: that would discard what is pending while they are blocked.
    """

    def outlast(number: int, _: FrameType | None) -> None:
        # Held, it came through another thread, which holds none: it has to wait in this one, as exec keeps it there.
        if number in signal.pthread_sigmask(signal.SIG_BLOCK, ()):
            signal.raise_signal(number)

    for number in HELD_SIGNALS:
        signal.signal(number, outlast)


def ignore_signals() -> None:
    """Ignore an operator's signals: all that is left to do is to end, with the exit code that is due."""
    for number in HELD_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def heed_signals() -> None:
    """Let an operator's signals in, those that came meanwhile first. Before there are threads or children."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)


def raise_nofile() -> int:
    """Raise our own soft limit of descriptors to the hard one, and return the old one, for children.

    Each life holds a pidfd. A daemon that replaces its program has to hand the old limit on.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, 10240):  # macOS calls the hard one unlimited, and refuses it
        if soft in {resource.RLIM_INFINITY, hard} or resource.RLIM_INFINITY != wanted < soft:
            break
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            break
    return soft
