"""One launch, from the order to a life, or to the sentence that says why there is none."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from stigmerd.engine.ports import EngineUnavailableError, Launcher, LaunchOrder, Life, SpawnFailedError

SPAWN_BOUND = 10.0
"""Seconds until a spawn is given up."""

SPAWN_LEEWAY = 1.0
"""Seconds that a spawn has to come back although its life is to end at once: what is there can be ended,
and seen to be dead; what was given up cannot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unborn:
    """Why no process or container came to be. ``errno`` is the system's number where there is one."""

    message: str
    errno: int | None = None


GIVEN_UP = Unborn(message="the spawn was given up: it did not return (a hung file system?)")


class Launch:
    """Begun as soon as the intent is on record, and waited for once there is a nursery for the life."""

    def __init__(self, launcher: Launcher, order: LaunchOrder) -> None:
        self.is_awaited = False
        self.newborn: Life | None = None
        """What came to be: kept here, so that it is found after a bug before anybody has seen it."""
        self._launcher = launcher
        self._order = order
        self._scope = trio.CancelScope(deadline=trio.current_time() + SPAWN_BOUND)

    def begin(self) -> None:
        """Begin what can be begun at once."""
        self._launcher.begin(self._order)

    def hasten(self, grace: float) -> None:
        """Have it come back soon: what it brings is to be ended within ``grace`` seconds."""
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + max(grace, SPAWN_LEEWAY))

    async def wait(self) -> Life | Unborn:
        """Wait, once, for the newborn, or for the reason why there is none."""
        self.is_awaited = True
        with self._scope:
            try:
                self.newborn = await self._launcher.launch(self._order)
                return self.newborn
            except SpawnFailedError as exc:
                return Unborn(message=str(exc), errno=exc.errno)
            except EngineUnavailableError as exc:
                return Unborn(message=str(exc))
        return GIVEN_UP
