"""The probe that asks the Docker Engine about the container of the life."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from stigmerd.core.health import Outcome
from stigmerd.engine.ports import Life


@runtime_checkable
class HasHealth(Protocol):
    """A life that an engine can be asked about."""

    async def health(self) -> Outcome:
        """Whether the container runs and its own health check, if any, does not say unhealthy.

        An engine that cannot be asked is an outcome that passed and is not conclusive.
        """
        ...


class ContainerProbe:
    """Asks the life's engine. A paused container is not dead: it passes, and the message says so."""

    def __init__(self, life: Life) -> None:
        self.stage = "asking the Docker Engine"
        self._life = life

    async def attempt(self) -> Outcome:
        """Pass when the container runs and is not unhealthy."""
        if not isinstance(self._life, HasHealth):
            return Outcome(passed=False, message="this component is a process: give it another probe")
        if not self._life.is_alive():
            # Its end is told by who waits for it; a verdict that comes first would hide the exit code.
            return Outcome(passed=False, message="the container is not running", conclusive=False)
        outcome = await self._life.health()
        if outcome.passed and not outcome.message:
            return Outcome(passed=True, message=self._life.note, conclusive=outcome.conclusive)
        return outcome
