"""The gate before each life: what a start has to wait for. What follows once it is open is not known here."""

from __future__ import annotations

from collections.abc import Callable

import trio

from stigmerd.core.spec import ComponentSpec, ProcessSpec
from stigmerd.engine.board import Board
from stigmerd.engine.ports import Launcher, Shut

ENGINE_PERIOD = 5.0
"""Seconds between two tries to reach the Docker Engine."""

GATE_PERIODS = {"port": 1.0, "engine": ENGINE_PERIOD}
"""Seconds between two looks at a gate whose opening nobody announces."""


def is_always_open(spec: ComponentSpec) -> bool:
    """Whether a component of this configuration waits for nobody and nothing, so that no look is needed."""
    return isinstance(spec.runs, ProcessSpec) and not (spec.depends_on or spec.ports)


class Gate:
    """Looks at what a component waits for, for as long as its configuration stays the same.

    ``bar`` tells what the component knows itself to be in the way of any life, whatever the
    configuration says; a change of that is announced on the board.
    """

    def __init__(
        self, spec: ComponentSpec, board: Board, launcher: Launcher, bar: Callable[[], Shut | None]
    ) -> None:
        self._spec = spec
        self._board = board
        self._launcher = launcher
        self._bar = bar

    async def watch(self, on_look: Callable[[Shut | None], None]) -> None:
        """Look until the gate is open, and tell each time what it waits for."""
        while True:
            version = self._board.version.value
            shut = await self._look()
            on_look(shut)
            if shut is None:
                return
            await self._wait_chance(shut, version)

    async def _wait_chance(self, shut: Shut, version: int) -> None:
        """Wait until it may have opened since the board was at ``version``."""
        if shut.reason in GATE_PERIODS:
            await trio.sleep(GATE_PERIODS[shut.reason])
        elif shut.reason == "dependency":
            await self._board.wait_dependency_change(self._spec)
        else:
            await self._board.wait_change(version)

    async def _look(self) -> Shut | None:
        if (barred := self._bar()) is not None:
            return barred
        # Asked again in the end: a dependency may go down while the ports or the engine are looked at.
        return self._unmet() or await self._launcher.check_gate(self._spec) or self._unmet()

    def _unmet(self) -> Shut | None:
        unmet = self._board.first_unmet(self._spec)
        if unmet is None:
            return None
        name, condition = unmet
        return Shut(reason="dependency", message=f"waiting for {name} to be {condition.value}")
