"""From a host to addresses, within the caller's limit and with a bounded number of threads.

Trio's own lookup waits in the default thread limiter, which spawning uses too: a name server that
hangs would stop restarts. So each name has a few threads of its own, and a lookup that was given
up keeps its thread's place until the system lets it go.
"""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import trio

from stigmerd.adapters.probes.failure import AttemptFailedError, no_more_threads

LOOKUPS_PER_NAME = 4

GetAddrInfo = Callable[..., Sequence[tuple[Any, ...]]]


@dataclass(frozen=True, slots=True)
class Address:
    """Where to connect: an address family and what that family's ``connect`` takes."""

    family: int
    sockaddr: Any


class Resolver:
    """Looks up hosts for all probes of a daemon. ``getaddrinfo`` is replaced by tests only."""

    def __init__(self, getaddrinfo: GetAddrInfo = socket.getaddrinfo) -> None:
        self._getaddrinfo = getaddrinfo
        self._limiters: dict[str, trio.CapacityLimiter] = {}

    async def wait_addresses(self, host: str, port: int) -> tuple[Address, ...]:
        """The addresses of ``host``, best first. An address in digits is its own, and takes no thread.

        Raises:
            AttemptFailedError: the name does not resolve.
        """
        lookup = functools.partial(self._getaddrinfo, host, port, type=socket.SOCK_STREAM)
        try:
            try:
                found = lookup(flags=socket.AI_NUMERICHOST)
            except socket.gaierror:
                found = await self._look_up_in_thread(host, lookup)
        except socket.gaierror as exc:
            raise AttemptFailedError(f"the name does not resolve: {exc.strerror}") from exc
        except UnicodeError as exc:
            raise AttemptFailedError("the name is not a host name") from exc
        return tuple(Address(family, sockaddr) for family, _, _, _, sockaddr in found)

    async def _look_up_in_thread(
        self, host: str, lookup: Callable[[], Sequence[tuple[Any, ...]]]
    ) -> Sequence[tuple[Any, ...]]:
        limiter = self._limiters.setdefault(host, trio.CapacityLimiter(LOOKUPS_PER_NAME))
        try:
            return await trio.to_thread.run_sync(lookup, abandon_on_cancel=True, limiter=limiter)
        except RuntimeError as exc:
            raise no_more_threads() from exc
