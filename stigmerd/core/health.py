"""From the outcomes of probe attempts to a verdict, through thresholds. Source: kubelet's prober."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from stigmerd.core.spec import ProbeSpec

INCONCLUSIVE_LIMIT = 10
"""After so many inconclusive attempts in a row they count as what they said."""

LATENESS_LIMIT = 0.25
"""Seconds that an attempt may begin, wake or end late before it says nothing about the component."""


class Verdict(enum.Enum):
    """What a probe says once a threshold is crossed."""

    PASSING = "passing"
    FAILING = "failing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one attempt saw.

    ``message`` is evidence for a reader. ``conclusive`` is False where the daemon, not the
    component, was the cause: it was starved, or the Docker Engine could not be asked.
    """

    passed: bool
    message: str = ""
    conclusive: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Streak:
    """What one probe has seen of the present life. ``duration`` is seconds of the last attempt."""

    verdict: Verdict | None = None
    consecutive_failures: int = 0
    consecutive_successes: int = 0
    inconclusive: int = 0
    message: str = ""
    duration: float | None = None
    attempts: int = 0

    def after(self, outcome: Outcome, duration: float, spec: ProbeSpec) -> Streak:
        """The streak with one more attempt in it."""
        seen = replace(self, message=outcome.message, duration=duration, attempts=self.attempts + 1)
        if not outcome.conclusive and self.inconclusive + 1 < INCONCLUSIVE_LIMIT:
            return replace(seen, inconclusive=self.inconclusive + 1)
        inconclusive = self.inconclusive if not outcome.conclusive else 0
        if outcome.passed:
            successes = self.consecutive_successes + 1
            verdict = Verdict.PASSING if successes >= spec.success_threshold else self.verdict
            return replace(
                seen,
                verdict=verdict,
                consecutive_successes=successes,
                consecutive_failures=0,
                inconclusive=inconclusive,
            )
        failures = self.consecutive_failures + 1
        verdict = Verdict.FAILING if failures >= spec.failure_threshold else self.verdict
        return replace(
            seen,
            verdict=verdict,
            consecutive_successes=0,
            consecutive_failures=failures,
            inconclusive=inconclusive,
        )


NEW_STREAK = Streak()
