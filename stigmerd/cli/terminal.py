"""The terminal while a live view has it: keys one by one, the second screen, and the way back.

However the view ends (a key, Ctrl-C, SIGTERM, an error, the terminal itself), the terminal is as it
was before.
"""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Self

from stigmerd.cli.paint import Line, screen_width, to_rich

if TYPE_CHECKING:
    from rich.live import Live

KEYS = {
    b"\x1b[A": "up",
    b"\x1bOA": "up",
    b"k": "up",
    b"\x1b[B": "down",
    b"\x1bOB": "down",
    b"j": "down",
    b"\x03": "q",
    b"\x04": "q",
}

_KEY = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.)|.", re.DOTALL)
"""One key: an escape sequence as a whole, so that no letter in it is taken for a command."""


def can_be_taken() -> bool:
    """Whether there is a terminal at both ends that can be drawn on."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") not in {None, "", "dumb"}


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as an exception, so that what it took is given back."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class LiveTerminal:
    """The keyboard, at once and unechoed, and the second screen, until the end of the block."""

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno()
        self._typed = b""
        self._drawn: tuple[os.terminal_size, Sequence[Line]] | None = None
        self._is_asked_to_pause = False
        self._live: Live | None = None

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(self._fd)
        self._handler = signal.signal(signal.SIGTSTP, self._ask_to_pause)
        self.take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGTSTP, self._handler)
        with suppress(OSError, termios.error):  # the terminal may be what has ended
            self.leave()

    def take(self) -> None:
        """Take keyboard and screen."""
        from rich.console import Console
        from rich.live import Live

        tty.setcbreak(self._fd)
        self._drawn = None
        self._live = Live(console=Console(), screen=True, auto_refresh=False, vertical_overflow="crop")
        self._live.start()

    def leave(self) -> None:
        """Give both back, as they were."""
        live, self._live = self._live, None
        try:
            if live is not None:
                live.stop()
        finally:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)

    @contextmanager
    def left(self) -> Iterator[None]:
        """Leave the screen for a while; keys still come one by one."""
        self.leave()
        tty.setcbreak(self._fd)
        yield
        self.take()

    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        return screen_width(sys.stdout) or 80, os.get_terminal_size(sys.stdout.fileno()).lines

    def draw(self, lines: Sequence[Line]) -> None:
        """Show these lines, if they are not there already."""
        wanted = (os.get_terminal_size(sys.stdout.fileno()), lines)
        if self._live is not None and wanted != self._drawn:
            self._drawn = wanted
            self._live.update(to_rich(lines), refresh=True)

    def read_key(self, timeout: float) -> str:
        """The next key: a name of KEYS, a letter, or "" where none came in time.

        Raises:
            SystemExit: the terminal has gone.
        """
        if self._is_asked_to_pause:
            self._pause()
        if not self._typed and select.select([self._fd], [], [], timeout)[0]:
            with suppress(OSError):
                self._typed = os.read(self._fd, 64)
            if not self._typed:
                raise SystemExit(128 + signal.SIGHUP)
        found = _KEY.match(self._typed)
        if found is None:
            return ""
        self._typed = self._typed[found.end() :]
        return KEYS.get(found.group()) or found.group().decode("ascii", "replace")

    def _ask_to_pause(self, number: int, frame: FrameType | None) -> None:
        self._is_asked_to_pause = True  # in the middle of a drawing the screen cannot be left

    def _pause(self) -> None:
        """Stop as Ctrl-Z asks for, with the terminal as the shell left it."""
        self._is_asked_to_pause = False
        self.leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self.take()
