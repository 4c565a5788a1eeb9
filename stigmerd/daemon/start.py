"""How a daemon was started: what whoever started it said, and what it inherits from the program it was before.

Brings in nothing that needs a platform which stigmerd runs on: that is looked at first.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stigmerd.adapters.disk.home import Home

INHERITANCE = "STIGMERD_INHERITANCE"
"""Private to the daemon: what a program that replaced itself hands to its successor."""

BACKGROUND = "STIGMERD_BACKGROUND"
"""Private to the daemon: set by whoever starts it in the background."""

PRIVATE = (BACKGROUND, INHERITANCE, "STIGMER_COMPONENT", "STIGMER_LIFE")
"""What of its environment the daemon keeps from its children."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inheritance:
    """Descriptors of the lock and of the listening socket, and the soft limit that children get."""

    lock: int
    listener: int
    nofile: int | None

    def to_text(self) -> str:
        """As the value of an environment variable."""
        return f"{self.lock},{self.listener},{self.nofile or 0}"

    @classmethod
    def from_text(cls, text: str) -> Inheritance:
        """The other way round."""
        lock, listener, nofile = map(int, text.split(","))
        return cls(lock=lock, listener=listener, nofile=nofile or None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """How this daemon was started.

    ``environment`` is the daemon's own as it was at the start, less what is private to it.
    ``children_nofile`` is the soft limit of descriptors that children get. ``listener`` was
    inherited from the program that this process was before. ``arguments`` are the command line's.
    In the ``foreground`` the daemon's log goes to stderr too.
    """

    home: Home
    config: str | None
    log_format: str
    log_level: str | None
    environment: Mapping[str, str]
    children_nofile: int | None
    lock: int
    listener: socket.socket | None = None
    arguments: tuple[str, ...] = ()
    foreground: bool = True


class StartError(Exception):
    """The daemon cannot start. The message is for whoever started it; ``code`` is its exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code
