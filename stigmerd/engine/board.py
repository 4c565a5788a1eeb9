"""The latest status of every component, for whoever waits for a change of it."""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import msgspec
from trio_util import AsyncValue, wait_any

from stigmerd.core.health import NEW_STREAK, Streak, Verdict
from stigmerd.core.instant import rfc3339
from stigmerd.core.lifecycle import NEW, Phase, State
from stigmerd.core.record import Identity
from stigmerd.core.spec import ComponentSpec, Condition, ProbeKind
from stigmerd.core.status import ComponentDocument, ExitDocument, ProbeDocument

KEPT_DURATIONS = 100
"""Attempts of a probe that its latency is told from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeView:
    """One probe of the present life. ``durations`` are seconds of its last attempts, oldest first: an
    array, never changed in place, since a thousand components with boxed floats are ten megabytes."""

    streak: Streak = NEW_STREAK
    last_at: str | None = None
    durations: array[float] = field(default_factory=lambda: array("f"))


class View(msgspec.Struct, frozen=True, kw_only=True):
    """One component as it is now; frozen, so that whoever holds one holds a consistent picture.

    ``started_life`` is the last life that has started, however soon it ended. ``note`` says why
    the component is as it is; ``survivors`` are pids of a dead life that could not be killed.
    ``exited``: the leader of the present life is dead, and what it left behind is being ended.
    ``returns``: it is down, or on its way there, only until an operation on several components
    has come to its end, or because the daemon is shutting down. The operator wants it up.
    """

    spec: ComponentSpec
    log: str
    state: State = NEW
    identity: Identity | None = None
    adopted: bool = False
    started_at: str | None = None
    started_life: int = 0
    last_restart_at: str | None = None
    blocked_by: str | None = None
    note: str = ""
    last_exit: ExitDocument | None = None
    last_error: str | None = None
    probes: Mapping[ProbeKind, ProbeView] = msgspec.field(default_factory=dict)
    survivors: tuple[int, ...] = ()
    exited: bool = False
    returns: bool = False

    @property
    def phase(self) -> Phase:
        """Where the component is in its lifecycle."""
        return self.state.phase

    @property
    def is_running(self) -> bool:
        """Whether it has started and its leader lives."""
        return self.phase is Phase.RUNNING and not self.exited

    @property
    def shown(self) -> str:
        """The status document's word for where it is."""
        is_over = self.exited and self.phase in {Phase.STARTING, Phase.RUNNING}
        return Phase.STOPPING.value if is_over else self.state.shown

    @property
    def ready(self) -> bool:
        """Running, and the readiness probe, if there is one, says so."""
        if not self.is_running:
            return False
        probe = self.probes.get(ProbeKind.READINESS)
        return self.spec.readiness is None or (probe is not None and probe.streak.verdict is Verdict.PASSING)

    @property
    def healthy(self) -> bool:
        """Whether ``status`` has nothing to complain of: up and running, done, or down because asked."""
        return (self.is_running or self.phase in {Phase.COMPLETED, Phase.DOWN}) and not self.survivors

    def meets(self, condition: Condition) -> bool:
        """Whether a dependent that asks for ``condition`` may start."""
        if condition is Condition.READY:
            return self.ready
        if condition is Condition.STARTED:
            return self.is_running or self.phase is Phase.COMPLETED
        return self.phase is Phase.COMPLETED

    def to_document(self, now: float, wall: float) -> ComponentDocument:
        """The component's part of the status document, at ``now`` on trio's clock."""
        state = self.state
        alive = self.identity if state.has_life and state.spawned_at is not None and not self.exited else None
        return ComponentDocument(
            name=self.spec.name,
            kind=self.spec.kind,
            state=self.shown,
            healthy=self.healthy,
            ready=self.ready,
            reason=self.note,
            optional=self.spec.optional,
            enabled=self.spec.enabled,
            life=state.life,
            pid=alive.pid if alive else None,
            container_id=alive.container_id if alive else None,
            adopted=self.adopted and alive is not None,
            command=self.spec.display_command,
            log=self.log,
            started_at=self.started_at if alive else None,
            uptime=self.uptime(now) if alive else None,
            restarts=state.restarts,
            restarts_in_window=state.history.within(self.spec.restart.window, now),
            max_restarts=self.spec.restart.max_restarts,
            last_restart_at=self.last_restart_at,
            next_start_at=self._next_start_at(now, wall),
            backoff=state.history.delay,
            blocked_by=self.blocked_by,
            depends_on={name: condition.value for name, condition in self.spec.depends_on.items()},
            last_exit=self.last_exit,
            last_error=self.last_error,
            probes=tuple(self._probe_document(kind) for kind in self.spec.probes) if alive else (),
        )

    def uptime(self, now: float) -> float | None:
        """Seconds since the present life was spawned."""
        spawned_at = self.state.spawned_at
        return None if spawned_at is None else round(max(0.0, now - spawned_at), 3)

    @property
    def depends_on_time(self) -> bool:
        """Whether more of the document than the uptime depends on when it is made."""
        return self.state.due is not None or bool(self.state.history.counted)

    def _next_start_at(self, now: float, wall: float) -> str | None:
        if self.phase not in {Phase.BACKOFF, Phase.FAILED} or self.state.due is None:
            return None
        return rfc3339(wall + max(0.0, self.state.due - now))

    def _probe_document(self, kind: ProbeKind) -> ProbeDocument:
        spec = self.spec.probes[kind]
        view = self.probes.get(kind, ProbeView())
        streak = view.streak
        ranked = sorted(view.durations)
        return ProbeDocument(
            kind=kind.value,
            handler=spec.handler_name,
            verdict=streak.verdict.value if streak.verdict else None,
            consecutive_failures=streak.consecutive_failures,
            consecutive_successes=streak.consecutive_successes,
            last_at=view.last_at,
            duration=round(streak.duration, 4) if streak.duration is not None else None,
            message=streak.message,
            duration_p50=round(ranked[len(ranked) // 2], 4) if ranked else None,
            duration_p99=round(ranked[min(len(ranked) - 1, len(ranked) * 99 // 100)], 4) if ranked else None,
            timeout=spec.timeout,
        )


class Board:
    """Holds the latest view of every component, in the order of the file."""

    def __init__(self) -> None:
        self._views: dict[str, AsyncValue[View]] = {}
        self._documents: dict[str, tuple[View, ComponentDocument]] = {}
        self.version = AsyncValue(1)
        """Grows with every change; what a status subscriber waits for."""

    def __contains__(self, name: str) -> bool:
        return name in self._views

    def names(self) -> tuple[str, ...]:
        """Every component."""
        return tuple(self._views)

    def add(self, view: View) -> None:
        """Put a component on the board."""
        self._views[view.spec.name] = AsyncValue(view)
        self.version.value += 1

    def remove(self, name: str) -> None:
        """Take a component off the board."""
        del self._views[name]
        self._documents.pop(name, None)
        self.version.value += 1

    def reorder(self, names: tuple[str, ...]) -> None:
        """Put the components into the order of a new file."""
        self._views = {name: self._views[name] for name in names}

    def view(self, name: str) -> View:
        """One component as it is now."""
        view: View = self._views[name].value
        return view

    def document(self, name: str, now: float, wall: float) -> ComponentDocument:
        """One component's part of the status document. Of a thousand, most are as they were at the last look."""
        view = self.view(name)
        seen, document = self._documents.get(name, (None, None))
        if document is None or seen is not view or view.depends_on_time:
            document = view.to_document(now, wall)
            self._documents[name] = (view, document)
            return document
        return msgspec.structs.replace(document, uptime=view.uptime(now) if document.uptime is not None else None)

    def publish(self, view: View) -> None:
        """Show a component's change to everybody who waits for it."""
        value = self._views[view.spec.name]
        if value.value != view:
            value.value = view
            self.version.value += 1

    async def wait_view(self, name: str, predicate: Callable[[View], bool]) -> View:
        """Wait until a component is as ``predicate`` asks, even if only for an instant."""
        view: View = await self._views[name].wait_value(predicate)
        return view

    async def wait_change(self, version: int) -> None:
        """Wait until anything differs from how it was at ``version``."""
        await self.version.wait_value(lambda now: now != version)

    async def wait_dependency_change(self, spec: ComponentSpec) -> None:
        """Wait until one of the dependencies is as asked that is not now, or the other way round."""

        def wait_other(name: str, condition: Condition) -> Callable[[], Awaitable[View]]:
            met = self.view(name).meets(condition)
            return lambda: self.wait_view(name, lambda view: view.meets(condition) is not met)

        await wait_any(*(wait_other(*item) for item in spec.depends_on.items() if item[0] in self._views))

    def first_unmet(self, spec: ComponentSpec) -> tuple[str, Condition] | None:
        """The first dependency, in the order of the file, that is not as asked."""
        for name, condition in spec.depends_on.items():
            if name not in self._views or not self.view(name).meets(condition):
                return name, condition
        return None


def with_attempt(view: View, kind: ProbeKind, streak: Streak, at: str) -> View:
    """The view after one more probe attempt."""
    before = view.probes.get(kind, ProbeView())
    durations = before.durations[1 - KEPT_DURATIONS :]
    if streak.duration is not None:
        durations.append(streak.duration)
    probe = ProbeView(streak=streak, last_at=at, durations=durations)
    return msgspec.structs.replace(view, probes={**view.probes, kind: probe})
