"""Who left the leaf of a life that crashed: found and ended a moment later.

Only who may write the cgroups above it can leave a leaf. A look at all processes costs more than a
whole restart, so the next life does not wait for it; a stop does, where there is an orphan to be found.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import trio

from stigmerd.adapters.processes import proc
from stigmerd.adapters.processes.kin import Scans
from stigmerd.adapters.processes.proc import Marks
from stigmerd.adapters.processes.reaper import Children

DELAY = 2.0
"""Seconds from the first crash to the look, which serves for all until then."""

PAUSE = 0.1
ROUNDS = 50
"""Seconds between two looks at what was killed, and how many there are: what hangs in the kernel is left."""


class Fugitives:
    """Looks for what carries the marks of lives that are over. ``homes`` are the names of the home."""

    def __init__(self, homes: Collection[str], children: Children, scans: Scans) -> None:
        self._homes = homes
        self._children = children
        self._scans = scans
        self._nonces: set[str] = set()
        self._arrived = trio.Event()

    def suspect(self, nonce: str) -> None:
        """Have a life that is over looked after."""
        self._nonces.add(nonce)
        self._arrived.set()

    async def serve(self) -> None:
        """Look until cancelled."""
        while True:
            await self._arrived.wait()
            await trio.sleep(DELAY)
            self._arrived = trio.Event()
            nonces, self._nonces = frozenset(self._nonces), set()
            if self._children.may_be_orphaned():
                await self._end(partial(self._is_fugitive, nonces))

    async def _end(self, is_fugitive: partial[bool]) -> None:
        for _ in range(ROUNDS):
            everybody = await self._scans.fresh()
            found = [seen for seen in everybody if seen.marks is not None and is_fugitive(seen.marks)]
            alive = [seen for seen in found if seen.stat.is_alive]
            if not alive:
                return
            await self._scans.in_thread(partial(proc.kill_all, alive, is_fugitive, freeze=False))
            await trio.sleep(PAUSE)

    def _is_fugitive(self, nonces: Collection[str], marks: Marks) -> bool:
        return marks.home in self._homes and marks.nonce in nonces
