"""A life that is only as much as a probe sees of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import trio

from stigmerd.core.health import Outcome
from stigmerd.engine.ports import CommandResult, Life

TOKEN = "0123456789-a-secret"


def show_all(text: str) -> str:
    """Conceal nothing."""
    return text


def hide_token(text: str) -> str:
    """Conceal one secret, as the spec of a component does."""
    return text.replace(TOKEN, "${TOKEN}")


class FakeLife:
    """Answers what it was made with. ``run`` raises, returns, or never ends where it has no result."""

    def __init__(
        self,
        *,
        alive: bool = True,
        age: float = 0.0,
        result: CommandResult | Exception | None = None,
        note: str = "",
    ) -> None:
        self.note = note
        self.commands: list[tuple[str, ...]] = []
        self._alive = alive
        self._age = age
        self._result = result

    def is_alive(self) -> bool:
        return self._alive

    def age(self) -> float:
        return self._age

    async def run(self, command: Sequence[str]) -> CommandResult:
        self.commands.append(tuple(command))
        if isinstance(self._result, Exception):
            raise self._result
        if self._result is None:
            await trio.sleep_forever()
        return self._result

    def as_life(self) -> Life:
        """The same, for a type checker."""
        return cast(Life, self)


class FakeContainerLife(FakeLife):
    """A life that an engine can be asked about."""

    def __init__(self, health: Outcome, *, alive: bool = True, note: str = "") -> None:
        super().__init__(alive=alive, note=note)
        self._health = health

    async def health(self) -> Outcome:
        return self._health
