"""A terminal to run commands in: a pseudo-terminal of a given size, and what was written to it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

LIMIT = 20.0

OWN_CODES = re.compile(rb"\x1b\[[0-9;]*m")
"""The CLI's own colours: the only escape sequences that a plain command may write."""

LIVE_CODES = re.compile(rb"\x1b\[(?:[0-9;]*m|\?(?:1049|25)[hl]|[0-9]*[AK]|H)|\r(?=\x1b\[[0-9]*[AK])")
"""What a live view may write, too: the second screen, the cursor shown or hidden, up, home, erase a line."""

ALSO_TEXT = "\n\t\u200c\u200d"
"""Newline, tab, and the joiners, which Persian, Hindi and emoji are written with and a terminal obeys in no way."""


class Terminal:
    """One command in a terminal of its own."""

    def __init__(
        self, words: Sequence[str], *, columns: int = 80, rows: int = 30, term: str = "xterm-256color"
    ) -> None:
        self._master, slave = pty.openpty()
        self._is_hung_up = False
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        environment = {**os.environ, "TERM": term}
        for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
            environment.pop(name, None)
        command = [sys.executable, "-m", "stigmerd.cli", *words]
        # A session with the terminal as its own, so that Ctrl-C arrives as a signal.
        self.process = subprocess.Popen(
            ["setsid", "-c", *command] if os.path.exists("/usr/bin/setsid") else command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
        )
        self._slave = slave
        self.seen = b""

    def close(self) -> None:
        """End the command, and give the terminal back."""
        self.process.kill()
        self.process.wait()
        os.close(self._slave)
        if not self._is_hung_up:
            os.close(self._master)

    def hang_up(self) -> None:
        """Close the window."""
        self._is_hung_up = True
        os.close(self._master)

    def resize(self, columns: int, rows: int) -> None:
        """Draw the window larger or smaller."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def is_given_back(self) -> bool:
        """Whether the second screen was left, the cursor is shown, and the keyboard is as it was."""
        is_first = self.seen.rfind(b"\x1b[?1049l") > self.seen.rfind(b"\x1b[?1049h")
        has_cursor = self.seen.rfind(b"\x1b[?25h") > self.seen.rfind(b"\x1b[?25l")
        return is_first and has_cursor and self.echoes()

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._master, keys)

    def echoes(self) -> bool:
        """Whether the terminal is as it was: showing what is typed, line by line."""
        flags = termios.tcgetattr(self._slave)[3]
        return bool(flags & termios.ECHO and flags & termios.ICANON)

    def read_until(self, text: bytes, limit: float = LIMIT) -> bytes:
        """Read until a text has come, and return all that came with it."""
        deadline = time.monotonic() + limit
        start = len(self.seen)
        while text not in self.seen[start:]:
            assert time.monotonic() < deadline, f"not seen within {limit:g} s: {text!r}; {self.seen[-2000:]!r}"
            self._read(0.05)
        return self.seen[start:]

    def read_some(self) -> None:
        """Read what comes next."""
        self._read(0.05)

    def read_to_end(self) -> bytes:
        """Read until the command has ended, and return all that it ever wrote."""
        deadline = time.monotonic() + LIMIT
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"did not end: {self.seen[-2000:]!r}"
            self._read(0.02)
        while self._read(0.05):
            pass
        return self.seen

    def _read(self, timeout: float) -> bool:
        if not select.select([self._master], [], [], timeout)[0]:
            return False
        with suppress(OSError):
            data = os.read(self._master, 65536)
            self.seen += data
            return bool(data)
        return False


@contextmanager
def terminal(
    *words: str, columns: int = 80, rows: int = 30, term: str = "xterm-256color"
) -> Iterator[Terminal]:
    """A command in a terminal, both gone at the end."""
    one = Terminal(words, columns=columns, rows=rows, term=term)
    try:
        yield one
    finally:
        one.close()


def unexpected_bytes(data: bytes, *, live: bool = False) -> set[str]:
    """Whatever is neither printable text, nor newline, tab, or a colour of the CLI's own.

    ``live``: the command may draw in place, too.
    """
    data = (LIVE_CODES if live else OWN_CODES).sub(b"", data).replace(b"\r\n", b"\n")
    text = data.decode("utf-8", "surrogateescape")
    return {character for character in text if not (character.isprintable() or character in ALSO_TEXT)}
