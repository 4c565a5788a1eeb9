"""What an earlier daemon left of a component: its last life, and its last words about that life.

It is found out here, and told as a value; how the component goes on from there is its own business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import trio

from stigmerd.core.event import Entry
from stigmerd.core.lifecycle import Phase
from stigmerd.core.record import Identity
from stigmerd.engine.board import View
from stigmerd.engine.gate import ENGINE_PERIOD
from stigmerd.engine.journal import Journal
from stigmerd.engine.ports import EngineUnavailableError, Launcher, LaunchOrder, Life
from stigmerd.engine.telling import Condemnation


@dataclass(frozen=True, slots=True)
class Nothing:
    """There was no life."""


@dataclass(frozen=True, slots=True)
class Intent:
    """The intent was written and nothing else: what came of it was ended as a stray."""


@dataclass(frozen=True, slots=True)
class Dead:
    """The life is over, or whatever the record named was not to be believed."""


@dataclass(frozen=True, slots=True)
class Alive:
    """The life goes on."""

    life: Life


@dataclass(frozen=True, slots=True)
class Remains:
    """A life that ended while no daemon watched and was not reaped yet, or that is not to go on."""

    life: Life


@dataclass(frozen=True, slots=True)
class Unkillable:
    """What the last daemon could not kill, and has failed the component for."""

    life: Life


Found = Nothing | Intent | Dead | Alive | Remains | Unkillable


class LastWords:
    """What the last daemon said of the present life: it may have died before that was in the state."""

    def __init__(self, told: Mapping[str, Entry], phase: Phase) -> None:
        self._told = told
        self._phase = phase

    @classmethod
    async def read(cls, journal: Journal, view: View) -> LastWords:
        """Look them up in the history, which takes its time where that is long."""
        return cls(await journal.former(view.spec.name, view.state.life), view.state.phase)

    @property
    def is_born(self) -> bool:
        """Whether a process or container had come to be."""
        return "starting" in self._told

    @property
    def refusal(self) -> str | None:
        """Why none did, where that was known."""
        told = self._told.get("start_failed")
        return told.message if told is not None else None

    @property
    def exit(self) -> Entry | None:
        """The leader's exit."""
        return self._told.get("exited")

    @property
    def cause(self) -> str | None:
        """Why the life was being stopped."""
        told = self._told.get("stopping") if self._phase is Phase.STOPPING else None
        return told.reason if told is not None else None

    @property
    def condemned(self) -> Condemnation | None:
        """Which probe had condemned the life that was being ended for it."""
        told = self._told.get("unhealthy") if self._phase is Phase.CONDEMNED else None
        if told is None:
            return None
        return Condemnation(probe=str(told.details.get("probe", "")), evidence=str(told.details.get("evidence", "")))


async def find(view: View, launcher: Launcher, on_delay: Callable[[str], None]) -> Found:
    """Find out what became of the life that an earlier daemon left.

    Waits for as long as that cannot be asked, and tells ``on_delay`` why, in a sentence.
    """
    identity, state = view.identity, view.state
    if identity is None or identity.is_intent:
        if state.phase in {Phase.STARTING, Phase.RUNNING, Phase.CONDEMNED}:
            return Dead()
        return Intent() if state.has_life else Nothing()
    life = await _adopt(view, identity, launcher, on_delay)
    if life is None:
        return Dead()
    if state.phase is Phase.FAILED:
        return Unkillable(life)
    return Alive(life) if state.has_life and life.is_alive() else Remains(life)


async def _adopt(
    view: View, identity: Identity, launcher: Launcher, on_delay: Callable[[str], None]
) -> Life | None:
    order = LaunchOrder(spec=view.spec, life=view.state.life, nonce=identity.nonce)
    while True:
        try:
            return await launcher.adopt(order, identity)
        except EngineUnavailableError as exc:
            on_delay(str(exc))
            await trio.sleep(ENGINE_PERIOD)
