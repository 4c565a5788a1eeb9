"""The restart budget and the backoff: pure in ``now``.

Instants are seconds on one monotonic clock that the caller chooses.
"""

from __future__ import annotations

from bisect import bisect_left

import msgspec
from msgspec.structs import replace

from stigmerd.core.spec import RestartPolicy


class RestartHistory(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be remembered to decide about the next restart.

    ``counted`` are the instants at which restarts began, oldest first, never more than
    ``max_restarts`` of them. ``streak`` is n of the backoff: restarts since a life last reached
    ``min_uptime``. ``delay`` is the one before the last or coming automatic restart.
    """

    counted: tuple[float, ...] = ()
    streak: int = 0
    delay: float | None = None

    def within(self, window: float, now: float) -> int:
        """How many counted restarts are younger than ``window``; one of exactly that age still counts."""
        return len(self.counted) - bisect_left(self.counted, True, key=lambda at: now - at <= window)

    def is_spent(self, policy: RestartPolicy, now: float) -> bool:
        """Whether the budget forbids one more restart. Source: OTP supervisor, add_restart."""
        return self.within(policy.window, now) >= policy.max_restarts

    def after_life(self, uptime: float, policy: RestartPolicy) -> RestartHistory:
        """Forget the streak if the life that just ended was long enough; the window stays."""
        return replace(self, streak=0) if uptime >= policy.min_uptime else self

    def back_off(self, policy: RestartPolicy, chance: float) -> RestartHistory:
        """Lengthen the streak and set the delay before the restart that follows.

        ``chance`` is a number in 0..1, drawn by the caller, that jitter is taken from.
        """
        streak = self.streak + 1
        return replace(self, streak=streak, delay=backoff(streak, policy) * (1 + policy.jitter * chance))

    def emptied(self) -> RestartHistory:
        """With nothing counted against the component; the last delay stays known."""
        return RestartHistory(delay=self.delay)

    def count(self, policy: RestartPolicy, now: float) -> RestartHistory:
        """Count one restart, whose life begins now."""
        too_old = len(self.counted) - self.within(policy.window, now)
        return replace(self, counted=(*self.counted[too_old:], now))


EMPTY = RestartHistory()


def backoff(streak: int, policy: RestartPolicy) -> float:
    """Seconds to wait before the ``streak``-th consecutive restart, without jitter."""
    try:
        delay = policy.initial_backoff * policy.backoff_factor ** (streak - 1)
    except OverflowError:
        return policy.max_backoff if policy.initial_backoff else 0.0
    return min(delay, policy.max_backoff)
