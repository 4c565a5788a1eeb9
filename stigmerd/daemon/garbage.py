"""Short pauses of the garbage collector.

A full collection looks at everything that there is, and nothing else runs meanwhile: with a thousand
components for 0.13 to 0.2 s, as docs/performance.md has it, and every attempt of a probe is late by as much.
"""

from __future__ import annotations

import gc

import trio

GROWTH = 30.0
"""Seconds from its begin in which a daemon comes by nearly all that it keeps to its end."""


async def set_survivors_aside() -> None:
    """For as long as the daemon grows: whatever survives a full collection is looked at by no other.

    Not for longer. What is set aside is still freed when nobody refers to it any more, but not where its
    parts refer to each other; of what comes and goes with the lives, that would add up.
    """
    gc.callbacks.append(_set_aside)
    try:
        await trio.sleep(GROWTH)
    finally:
        gc.callbacks.remove(_set_aside)


def _set_aside(phase: str, about: dict[str, int]) -> None:
    if phase == "stop" and about["generation"] == 2:
        gc.freeze()
