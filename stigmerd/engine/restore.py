"""Between a component's view and the record that survives the daemon. Pure, but for ``now``.

Instants cross as seconds of CLOCK_BOOTTIME: trio's clock begins anew with every daemon.
"""

from __future__ import annotations

from collections.abc import Set

from stigmerd.core.lifecycle import LIVE_PHASES, TIMED_PHASES, FailedBecause, Phase, State
from stigmerd.core.record import ComponentRecord
from stigmerd.core.restart import RestartHistory
from stigmerd.core.spec import ComponentSpec
from stigmerd.engine.board import View
from stigmerd.engine.ports import Clock

DIED_IN_SPAWN = "the daemon died while it was being started"

LIVE = frozenset(phase.name for phase in LIVE_PHASES)

RECORDED = 256
"""Restarts in the window that the next daemon is told of at most. All of them are in every change that is written:
of a budget of ten thousand, restarts would cost ever more. Who allows more than this is not counted strictly."""


def to_record(view: View, definition: str, now: float, clock: Clock) -> ComponentRecord:
    """What the next daemon has to know about a component. ``definition`` is its digest, which costs too
    much to make anew at every change."""
    boot = clock.boot()
    shift = boot - now
    state = view.state

    def to_boot(instant: float | None) -> float | None:
        return None if instant is None else boot - (now - instant)

    return ComponentRecord(
        name=view.spec.name,
        phase=state.phase.name,
        wanted=state.wanted or view.returns,
        life=state.life,
        definition=definition,
        shown=view.to_document(now, clock.wall()),
        identity=view.identity,
        spawned_boot=to_boot(state.spawned_at),
        due_boot=to_boot(state.due),
        charge=state.charge,
        trial=state.trial,
        restarts=state.restarts,
        counted_boot=tuple([at + shift for at in state.history.counted[-RECORDED:]]),
        streak=state.history.streak,
        delay=state.history.delay,
        failed_because=state.failed_because.name if state.failed_because else None,
        stop_signal=view.spec.stop.signal,
        grace=view.spec.stop.grace,
    )


def restored_view(record: ComponentRecord, spec: ComponentSpec, log: str, now: float, boot: float) -> View:
    """The view that goes on where ``record`` ends. A life in it is not proven yet.

    What the phase has no use for is left out: a record may come from anywhere, and a deadline where
    none leads on would be over for ever.
    """
    returns, phase = is_to_return(record), Phase[record.phase]
    if phase is Phase.SPAWNING and record.identity is not None and not record.identity.is_intent:
        phase = Phase.STARTING  # whoever has a name was spawned
    failed_because = record.failed_because if phase is Phase.FAILED else None
    number = max(record.life, 1) if phase in LIVE_PHASES else record.life  # 0: never started

    def to_now(instant: float | None) -> float | None:
        return None if instant is None else now - (boot - instant)

    counted = tuple(sorted(now - (boot - at) for at in record.counted_boot))
    shown = record.shown
    return View(
        spec=spec,
        log=log,
        state=State(
            phase=phase,
            wanted=record.wanted and not returns,
            life=number,
            spawned_at=to_now(record.spawned_boot),
            due=to_now(record.due_boot) if phase in TIMED_PHASES else None,
            charge=record.charge,
            trial=record.trial,
            restarts=record.restarts,
            history=RestartHistory(counted=counted, streak=record.streak, delay=record.delay),
            failed_because=FailedBecause[failed_because] if failed_because else None,
        ),
        identity=record.identity,
        started_at=shown.started_at,
        started_life=number if phase in {Phase.RUNNING, Phase.COMPLETED} else number - 1,
        last_restart_at=shown.last_restart_at,
        note=shown.reason,
        last_exit=shown.last_exit,
        last_error=shown.last_error,
        returns=returns,
    )


def is_to_return(record: ComponentRecord) -> bool:
    """Whether a component is down though it is wanted up: what was to start it again did not come to its end."""
    return record.wanted and record.phase == Phase.DOWN.name


def untold_end(record: ComponentRecord, told: Set[str]) -> str | None:
    """Which event ends the story of a life that nobody goes on with. ``told``: its events in the history."""
    identity = record.identity
    if identity is None or told & {"exited", "start_failed"}:
        return None
    if identity.is_intent and "starting" not in told:
        return "start_failed"
    return "exited" if "starting" in told or record.phase in LIVE else None


def unborn_view(spec: ComponentSpec, log: str, last_life: int) -> View:
    """The view of a component of which nothing goes on but the life number: it is new, its stack was
    stopped in order, its host booted anew, or it was removed from the configuration and has come back.

    It is down, and what is enabled is about to be started.
    """
    return View(spec=spec, log=log, state=State(life=last_life), started_life=last_life, returns=spec.enabled)
