"""The three probes of one life: startup first, then liveness and readiness, until the life is over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import trio

from stigmerd.core.health import NEW_STREAK, Outcome, Streak, Verdict
from stigmerd.core.spec import ComponentSpec, GrpcHandler, Handler, HttpHandler, ProbeKind, ProcessSpec, TcpHandler
from stigmerd.engine.ports import Life, World
from stigmerd.engine.prober import run_probe
from stigmerd.engine.turns import Turns

IMPOSTOR_PERIOD = 30.0
"""Seconds between two looks at who listens on an address that answers: the look costs more than the probe."""

LOCAL_HOSTS = frozenset({"127.0.0.1", "::1", "localhost", "0.0.0.0", "::"})


class Checkup:
    """Runs the probes of one life as one task. ``on_attempt`` is told every streak; those in ``earlier`` go on."""

    def __init__(
        self,
        spec: ComponentSpec,
        life: Life,
        world: World,
        turns: Turns,
        *,
        on_attempt: Callable[[ProbeKind, Streak], None],
        earlier: Mapping[ProbeKind, Streak],
    ) -> None:
        self._spec = spec
        self._life = life
        self._world = world
        self._turns = turns
        self._on_attempt = on_attempt
        self._earlier = earlier
        self.stranger = ""
        """One sentence about a stranger who answers on the component's address, for as long as one does."""
        self._looked_at = float("-inf")
        self._scope = trio.CancelScope()

    def stop(self) -> None:
        """End all probing; no result comes after this."""
        self._scope.cancel()

    async def run(self, started: bool) -> None:
        """Probe until stopped. ``started``: the startup probe has passed already, in this life."""
        with self._scope:
            if not started and self._spec.startup is not None:
                await self._run_startup()
            async with trio.open_nursery() as probes:
                for kind in self._spec.probes.keys() - {ProbeKind.STARTUP}:
                    probes.start_soon(self._run_one, kind, lambda verdict: None)

    async def _run_startup(self) -> None:
        with trio.CancelScope() as scope:
            # Either verdict is the last word of a startup probe.
            await self._run_one(ProbeKind.STARTUP, lambda verdict: scope.cancel())

    async def _run_one(self, kind: ProbeKind, on_verdict: Callable[[Verdict], None]) -> None:
        probe = self._spec.probes[kind]

        def seen(streak: Streak) -> None:
            self._on_attempt(kind, streak)
            if streak.verdict is not None:
                on_verdict(streak.verdict)

        async def unmask(outcome: Outcome) -> Outcome:
            return await self._unmask(kind, probe.handler, outcome)

        bound = self._world.bind_probe(probe.handler, self._life, self._spec)
        streak = self._earlier.get(kind, NEW_STREAK)
        await run_probe(kind, probe, bound, self._world.clock, self._turns, seen, unmask, streak)

    async def _unmask(self, kind: ProbeKind, handler: Handler, outcome: Outcome) -> Outcome:
        """Look whether it is this component that answered, and not a stranger on its port."""
        port = local_port(handler)
        is_startup = kind is ProbeKind.STARTUP
        now = trio.current_time()
        if port is None or not isinstance(self._spec.runs, ProcessSpec):
            return outcome
        if not is_startup and now - self._looked_at < IMPOSTOR_PERIOD:
            return outcome
        self._looked_at = now
        stranger = await self._world.ports.strangers((port,), await self._life.members())
        self.stranger = f"{self._spec.name}: {stranger}, which is no process of it" if stranger else ""
        if stranger and is_startup and port in self._spec.ports:
            return Outcome(passed=False, message=stranger)
        return outcome


def local_port(handler: Handler) -> int | None:
    """The port of this machine that a probe looks at, or None."""
    match handler:
        case TcpHandler():
            return handler.port if handler.host in LOCAL_HOSTS else None
        case HttpHandler():
            parts = urlsplit(handler.url)
            default = {"http": 80, "https": 443}.get(parts.scheme)
            return (parts.port or default) if parts.hostname in LOCAL_HOSTS else None
        case GrpcHandler():
            host, _, port = handler.address.rpartition(":")
            return int(port) if host.strip("[]") in LOCAL_HOSTS and port.isdigit() else None
        case _:
            return None
