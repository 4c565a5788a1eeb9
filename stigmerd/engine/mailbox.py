"""The mailbox of one component: what anybody wants of it, and what the tasks of its lives saw, in order.

All of that comes to one task through here, so nothing that the task owns needs a lock. What a
message leads to is not known here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from stigmerd.core.lifecycle import Event
from stigmerd.core.spec import ComponentSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Somebody wants something of the component. ``reason`` is one of the history's reasons.

    ``cap`` bounds the grace of a stop, in seconds, below what the configuration says. ``returns``
    says of a stop that a start belongs to it, which the next daemon makes if this one dies before.
    ``resumes`` marks that start: it counts for nothing if somebody asked for a stop in between.
    """

    event: Event
    reason: str | None = None
    cap: float | None = None
    returns: bool = False
    resumes: bool = False
    taken: trio.Event = field(default_factory=trio.Event)


@dataclass(frozen=True, slots=True, kw_only=True)
class Respec:
    """The configuration of the component has changed; ``returns`` as in :class:`Ask`."""

    spec: ComponentSpec
    returns: bool
    taken: trio.Event = field(default_factory=trio.Event)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a task of life number ``life`` saw; ``then`` is done only while that life is the present one."""

    life: int
    then: Callable[[], None]


Message = Ask | Respec | Seen


class Mailbox:
    """Anybody may post; one task takes."""

    def __init__(self) -> None:
        self.is_closed = False
        self._messages: deque[Message] = deque()
        self._arrived = trio.Event()

    @property
    def has_mail(self) -> bool:
        """Whether :meth:`take` would give a message at once."""
        return bool(self._messages)

    def post(self, message: Message) -> None:
        """Put a message in, and wait for nothing."""
        self._messages.append(message)
        self._arrived.set()
        if self.is_closed:
            self.dismiss()

    async def deliver(self, message: Ask | Respec) -> None:
        """Put a message in, and wait until it was taken in, or dismissed."""
        self.post(message)
        await message.taken.wait()

    async def take(self, due: float | None) -> Message | None:
        """The next message, or None if there is none at the instant ``due``. A message goes before the deadline."""
        if not self._messages and (due is None or due > trio.current_time()):
            await self._wait_arrival(due)
        return self._messages.popleft() if self._messages else None

    async def _wait_arrival(self, due: float | None) -> None:
        self._arrived = trio.Event()
        if due is None:  # mostly; and a scope takes as long as all else that is done here
            await self._arrived.wait()
            return
        with trio.move_on_at(due):
            await self._arrived.wait()

    def dismiss(self) -> None:
        """Drop what is there: whoever waits for it goes on."""
        for message in self._messages:
            if not isinstance(message, Seen):
                message.taken.set()
        self._messages.clear()

    def close(self) -> None:
        """Dismiss what is there, and whatever still comes."""
        self.is_closed = True
        self.dismiss()
