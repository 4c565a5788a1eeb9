"""Containers on demand: what they take is loaded, and the engine watched, once a component needs it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import trio

from stigmerd.core.record import Identity
from stigmerd.core.spec import ComponentSpec
from stigmerd.engine.ports import EngineUnavailableError, LaunchOrder, Life, Shut

if TYPE_CHECKING:
    from stigmerd.adapters.containers.container import ContainerLauncher, Stray

LOOK_BOUND = 2.0
"""Seconds for a first look whether there is an engine with an image."""


class ContainersOnDemand:
    """The launcher that ``make`` returns when one is first used; it then serves in ``nursery``."""

    def __init__(self, nursery: trio.Nursery, make: Callable[[], ContainerLauncher]) -> None:
        self._nursery = nursery
        self._make = make
        self._made: ContainerLauncher | None = None
        self._making = trio.Lock()

    async def check_gate(self, spec: ComponentSpec) -> Shut | None:
        """Look whether a launch could succeed now."""
        return await (await self._launcher()).check_gate(spec)

    def begin(self, order: LaunchOrder) -> None:
        """Nothing of it is quick enough to be begun ahead."""

    async def launch(self, order: LaunchOrder) -> Life:
        """Bring a life into being."""
        return await (await self._launcher()).launch(order)

    async def adopt(self, order: LaunchOrder, identity: Identity) -> Life | None:
        """The life that ``identity`` names, if it is provably that one."""
        return await (await self._launcher()).adopt(order, identity)

    async def end_strays(self, keep: Collection[str]) -> tuple[Stray, ...]:
        """End and remove the containers of this home that neither a nonce in ``keep`` nor this daemon claims."""
        return await (await self._launcher()).end_strays(frozenset(keep))

    async def wait_removed(self) -> None:
        """Wait until every container that is over is removed, as far as there is an engine."""
        if self._made is not None:
            await self._made.wait_removed()

    async def has_image(self, image: str) -> bool:
        """Whether an engine answers soon and has this image. An absent engine is no error."""
        launcher = await self._launcher()
        with trio.move_on_after(LOOK_BOUND):
            try:
                return await launcher.has_image(image)
            except EngineUnavailableError:
                return False
        return False

    async def _launcher(self) -> ContainerLauncher:
        async with self._making:
            if self._made is None:
                made = self._make()
                await self._nursery.start(made.serve)
                self._made = made
        return self._made
