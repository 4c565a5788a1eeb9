"""One probe of one life: each attempt under the hard limit, one at a time, on its period.

Source: kubelet's prober; the lag check is ours. An attempt that the daemon itself, or the host,
delayed says nothing about the component, and is inconclusive.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable

import trio

from stigmerd.core.health import LATENESS_LIMIT, NEW_STREAK, Outcome, Streak
from stigmerd.core.spec import PROBE_CEILING, ProbeKind, ProbeSpec
from stigmerd.engine.ports import Clock, Probe
from stigmerd.engine.turns import Turns

log = logging.getLogger("stigmerd")

Check = Callable[[Outcome], Awaitable[Outcome]]


async def run_probe(
    kind: ProbeKind,
    spec: ProbeSpec,
    probe: Probe,
    clock: Clock,
    turns: Turns,
    on_attempt: Callable[[Streak], None],
    double_check: Check | None = None,
    streak: Streak = NEW_STREAK,
) -> None:
    """Attempt until cancelled, and tell every streak that results. ``streak``: an earlier one that goes on.

    ``double_check`` may turn a pass into something else: it is asked within the same limit. Time
    spent waiting for a turn moves the plan, and is no lateness.
    """
    due = trio.current_time() + (spec.initial_delay if streak is NEW_STREAK else 0.0)
    if kind is ProbeKind.LIVENESS:
        due += random.random() * spec.period  # so that a thousand do not run in one instant
    while True:
        await trio.sleep_until(due)
        came = trio.current_time()
        async with turns.turn(spec.handler_name) as turn:
            due += turn - came
            began = trio.current_time()
            outcome = await attempt(spec, probe, due, clock, double_check)
            streak = streak.after(outcome, trio.current_time() - began, spec)
        on_attempt(streak)
        due = max(due + spec.period, trio.current_time())


async def attempt(
    spec: ProbeSpec, probe: Probe, due: float, clock: Clock, double_check: Check | None = None
) -> Outcome:
    """Make one attempt that was planned for ``due``. It never outlives the limit."""
    limit = min(spec.timeout, PROBE_CEILING)
    began, began_boot = trio.current_time(), clock.boot()
    with trio.move_on_after(limit) as scope:
        outcome = await _contained(probe)
    if scope.cancelled_caught:
        stage = getattr(probe, "stage", "")
        outcome = Outcome(passed=False, message=f"timed out after {limit:g} s{f' while {stage}' if stage else ''}")
    elif outcome.passed and double_check is not None:
        with trio.move_on_at(scope.deadline):  # what we did not see in time is no fault of the component
            outcome = await double_check(outcome)
    ended = trio.current_time()
    slept = (clock.boot() - began_boot) - (ended - began)
    if max(began - due, ended - began - limit, slept) > LATENESS_LIMIT:
        return Outcome(passed=outcome.passed, message=f"{outcome.message} (late)".strip(), conclusive=False)
    return outcome


async def _contained(probe: Probe) -> Outcome:
    """The outcome of an attempt. A bug in a handler is a failure of that probe, and of nothing else."""
    try:
        return await probe.attempt()
    except Exception as exc:
        log.exception("internal error in a probe")
        return Outcome(passed=False, message=f"internal error: {type(exc).__name__}: {exc} (see stigmerd.log)")
