"""What an operator can ask of a running daemon: the port between the control channel and the engine."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from stigmerd.core.event import Entry
from stigmerd.core.order import Change
from stigmerd.core.status import StatusDocument


class Refusal(enum.Enum):
    """Why an operation is refused: the application error codes of the control channel."""

    UNKNOWN_COMPONENT = 1
    BAD_CONFIGURATION = 2
    FAILED = 3
    SHUTTING_DOWN = 4
    BUSY = 5


class RefusedError(Exception):
    """An operation was not carried out. The message is a sentence for the operator."""

    def __init__(self, refusal: Refusal, message: str) -> None:
        super().__init__(message)
        self.refusal = refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of an operation for one component.

    ``ok`` says whether the component is as was asked; ``message`` why not, or what is worth
    knowing; ``survivors`` are pids that could not be killed.
    """

    name: str
    state: str
    ok: bool
    message: str = ""
    survivors: tuple[int, ...] = ()


class EventFeed(Protocol):
    """A subscription to the event history: lossless for a reader that keeps up."""

    async def receive(self) -> tuple[int, Entry]:
        """The next entry, after how many that were missed because the reader was too slow.

        Raises:
            RefusedError: the history that was asked for cannot be read.
        """
        ...

    def give_up(self) -> int:
        """Drop what still waits, and tell how many entries that and what was missed before it are."""
        ...


class Operations(Protocol):
    """All that the control channel can have done. Names are validated by the implementation.

    Every method may raise :class:`RefusedError`. ``names`` empty means all.
    """

    async def status(self, names: Sequence[str] = (), *, verbose: bool = False) -> StatusDocument:
        """The status document; with ``verbose`` also CPU and memory."""
        ...

    async def start(self, names: Sequence[str] = (), *, timeout: float | None = None) -> tuple[Answer, ...]:
        """Start, and wait until each is running or completed, has failed, or the timeout (60 s) is over."""
        ...

    async def stop(
        self, names: Sequence[str] = (), *, timeout: float | None = None, now: bool = False
    ) -> tuple[Answer, ...]:
        """Stop, and wait until nothing is alive. ``timeout`` caps the grace; ``now`` is a cap of 0."""
        ...

    async def restart(
        self, names: Sequence[str] = (), *, timeout: float | None = None, now: bool = False
    ) -> tuple[Answer, ...]:
        """Stop and start at once; waits like start."""
        ...

    async def signal(self, names: Sequence[str], signal: str) -> tuple[Answer, ...]:
        """Send a signal, by name, to the leaders alone. Not KILL or STOP."""
        ...

    async def reload(self, *, dry_run: bool = False) -> Change:
        """Apply the changed configuration, or only tell what would change."""
        ...

    async def explain(self, name: str) -> dict[str, Any]:
        """The report of ``explain --json``."""
        ...

    async def shutdown(self, *, timeout: float | None = None, now: bool = False) -> tuple[Answer, ...]:
        """Stop everything in reverse order; the daemon ends after the answer was sent."""
        ...

    async def reexec(self) -> None:
        """Replace the daemon's program in place, after checking that the new one loads the configuration."""
        ...

    def watch_events(self, since: int | None, names: Sequence[str] = ()) -> AbstractContextManager[EventFeed]:
        """Subscribe to events with a ``seq`` above ``since`` (None: only new ones)."""
        ...

    async def wait_status_change(self, seen: int) -> int:
        """Wait until the version of the status is not ``seen`` any more, and return it. 0 is never current."""
        ...
