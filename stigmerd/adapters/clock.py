"""The clocks outside this process. Instants of trio's clock are no business of theirs."""

from __future__ import annotations

import time


class SystemClock:
    """The engine's ``Clock``."""

    def wall(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def boot(self) -> float:
        """Seconds of CLOCK_BOOTTIME; where there is none, of the clock that comes nearest."""
        return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
