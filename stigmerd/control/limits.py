"""How much of the daemon its peers can use: the limits of docs/control-channel.md, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of the control channel; durations in seconds.

    ``first_line`` is for a connection's first whole line; ``stall`` is how long a peer that is sent
    something may take nothing of it; ``farewell`` is for the last words on a connection that is
    given up. ``watch`` lies between two looks whether the socket is still in its place. ``reserve``
    are the descriptors that idle peers leave to what the daemon itself has to do.
    """

    connections: int = 64
    subscribers: int = 32
    first_line: float = 5.0
    stall: float = 5.0
    farewell: float = 1.0
    watch: float = 2.0
    reserve: int = 12


LIMITS = Limits()
