"""One container as a life: what it tells, how it is signalled, when it is over.

Everything is asked of the engine; while the engine is absent or hung the life keeps its last known
state, says so, and what was asked of it waits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from stigmerd.adapters.containers.client import EngineRefusedError
from stigmerd.adapters.containers.engine import DockerEngine, Watch
from stigmerd.adapters.containers.exec import run_in_container
from stigmerd.adapters.containers.log import ContainerLog
from stigmerd.adapters.containers.tree import Tree
from stigmerd.core.exit_status import ExitStatus
from stigmerd.core.health import Outcome
from stigmerd.core.record import Identity
from stigmerd.engine.ports import CommandResult, EngineUnavailableError, Usage

if TYPE_CHECKING:
    from docker import APIClient

GLANCE = 1.0
"""Seconds between two looks at a container whose end is awaited, should its event be missed."""

PATIENCE = 0.1
"""Seconds until what the engine could not do is asked for again."""

USAGE_SPAN = 0.1
"""Seconds over which the use of the processor is measured."""

HEALTH_MARGIN = 0.05
"""Seconds before the end of a probe's attempt at which a silent engine makes it inconclusive."""

EVIDENCE_LIMIT = 256
"""Characters of a health check's output that a message may quote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One container, as inspected. ``evidence`` is what its health check said last."""

    id: str
    name: str
    labels: Mapping[str, str]
    running: bool
    paused: bool
    pid: int
    exit_code: int
    oom: bool
    started_at: str
    health: str
    evidence: str


async def inspect(engine: DockerEngine, name_or_id: str) -> Seen | None:
    """Look at one container; None where there is none.

    Raises:
        EngineUnavailableError: it cannot be told now.
    """
    try:
        found = await engine.call(lambda api: api.inspect_container(name_or_id))
    except EngineRefusedError as exc:
        if exc.is_missing:
            return None
        raise EngineUnavailableError(f"the Docker Engine answers with an error: {exc}") from exc
    return _read(found)


def _read(found: Mapping[str, Any]) -> Seen:
    state = found["State"]
    health = state.get("Health") or {}
    log = health.get("Log") or [{}]
    return Seen(
        id=found["Id"],
        name=found["Name"].lstrip("/"),
        labels=found["Config"].get("Labels") or {},
        running=bool(state["Running"]),
        paused=bool(state.get("Paused")),
        pid=int(state.get("Pid") or 0),
        exit_code=int(state["ExitCode"]),
        oom=bool(state.get("OOMKilled")),
        started_at=state["StartedAt"],
        health=health.get("Status", ""),
        evidence=str(log[-1].get("Output", "")),
    )


Farewell = Callable[["ContainerLife"], Awaitable[None]]


class ContainerLife:
    """One container of a component. Made by :class:`ContainerLauncher` only.

    ``tree`` are its processes, where they are processes of this host. ``conceal`` takes the secrets out
    of what its health check says.
    """

    def __init__(
        self,
        engine: DockerEngine,
        seen: Seen,
        identity: Identity,
        *,
        log: ContainerLog,
        tree: Tree | None,
        farewell: Farewell,
        conceal: Callable[[str], str],
    ) -> None:
        self.watch = Watch(seen.id)
        self.log = log
        self._engine = engine
        self._identity = identity
        self._tree = tree
        self._farewell = farewell
        self._conceal = conceal
        self._name = seen.name
        self._seen: Seen | None = seen
        self._started_at = seen.started_at
        self._born = trio.current_time()
        self._exit: ExitStatus | None = None
        self._sample: tuple[float, float] | None = None
        self._take(seen)

    @property
    def identity(self) -> Identity:
        """The container's full id, and its init's pid where that is a process of this host."""
        return self._identity

    @property
    def note(self) -> str:
        """The engine's trouble, else the container's, else that of its output."""
        if self._exit is not None:
            return ""
        if self._engine.trouble:
            return self._engine.trouble
        if self._seen is not None and self._seen.paused:
            return f"container is paused: docker unpause {self._seen.name}"
        if self._seen is not None and self._seen.name != self._name:
            return f"container was renamed to {self._seen.name}"
        return self.log.trouble

    def is_alive(self) -> bool:
        """Whether the container runs, as far as the engine has told."""
        return self._exit is None and not self.watch.died

    def age(self) -> float:
        """Seconds since the container was started."""
        return trio.current_time() - self._born

    def backdate(self, seconds: float) -> None:
        """Note that the container has been running for so long already."""
        self._born = trio.current_time() - seconds

    def renounce(self) -> None:
        """Note that somebody started the container anew while nobody watched: this life is over, and what
        runs in its container is to be ended."""
        self._exit = ExitStatus()

    async def wait_exit(self) -> ExitStatus:
        """Wait until the container is not running, is gone, or was started anew by somebody else."""
        while True:
            changed = self.watch.changed
            await self._insist(self._look)
            if self._exit is not None:
                return self._exit
            await changed.wait()

    async def signal_leader(self, signal: str) -> None:
        """Send a signal to the container's init. A paused container gets it when it is unpaused."""
        await self._insist(partial(self._send, signal))

    async def terminate(self, signal: str) -> None:
        """Send the stop signal to the container's init, after unpausing it."""
        await self._insist(self._unpause)
        await self._insist(partial(self._send, signal))

    def is_gone(self) -> bool:
        """Never told at once: only the engine knows."""
        return False

    async def wait_gone(self) -> None:
        """Wait until the container is not running. Its processes do not outlive its init."""
        while True:
            changed = self.watch.changed
            await self._insist(self._look)
            if self._seen is None or not self._seen.running:
                return
            with trio.move_on_after(GLANCE):
                await changed.wait()

    async def kill(self) -> None:
        """SIGKILL the container, again and again, until it is not running."""
        await self._insist(self._look)
        while self._seen is not None and self._seen.running:
            await self._insist(partial(self._send, "SIGKILL"))
            # A frozen process dies when it thaws.
            await self._insist(self._unpause)
            with trio.move_on_after(GLANCE):
                await self.wait_gone()

    async def survivors(self) -> tuple[int, ...]:
        """The pids of the container's processes on this host; () for an engine on another."""
        return tuple(sorted(await self.members()))

    async def release(self) -> None:
        """Copy the last output, and remove the container. Cancelled, that goes on by itself."""
        await self._farewell(self)

    async def run(self, command: Sequence[str]) -> CommandResult:
        """Run a command in the container, as ``docker exec`` does.

        Cancelling it kills the command's tree where the engine is on this host; on another host
        the engine offers no way to that.
        """
        return await run_in_container(self._engine, self.watch.container_id, self._tree, command)

    async def members(self) -> frozenset[int]:
        """The pids of the container's processes, where they are processes of this host."""
        return await self._tree.members() if self._tree is not None else frozenset()

    async def usage(self) -> Usage:
        """What the container uses: measured over a moment, or what an engine on another host counts."""
        if self._tree is not None:
            return await _measure(self._tree)
        try:
            return await self._ask_usage()
        except (EngineUnavailableError, EngineRefusedError):
            return Usage(cpu_percent=None, memory_bytes=None)

    async def health(self) -> Outcome:
        """One attempt of the container probe: running, and not ``unhealthy``."""
        limit = trio.current_effective_deadline() - HEALTH_MARGIN
        with trio.CancelScope(deadline=limit):
            try:
                await self._look()
            except EngineUnavailableError as exc:
                return Outcome(passed=True, conclusive=False, message=str(exc))
            return self._judge_health()
        return Outcome(passed=True, conclusive=False, message="the Docker Engine did not answer in time")

    def _judge_health(self) -> Outcome:
        seen = self._seen
        if seen is None or self._exit is not None:
            return Outcome(passed=False, message="the container is not running", conclusive=False)
        if seen.health == "unhealthy":
            evidence = self._conceal(seen.evidence).strip()[-EVIDENCE_LIMIT:]
            return Outcome(passed=False, message=f"container is unhealthy{f': {evidence}' if evidence else ''}")
        if seen.paused:
            return Outcome(passed=True, message="container is paused")
        return Outcome(passed=True, message=f"health check: {seen.health}" if seen.health else "")

    # What the engine is asked.

    async def _insist(self, action: Callable[[], Awaitable[None]]) -> None:
        """Do it, however long the engine is absent."""
        while True:
            await self._engine.wait_up()
            try:
                await action()
            except EngineUnavailableError:
                await trio.sleep(PATIENCE)
            else:
                return

    async def _look(self) -> None:
        self._take(await inspect(self._engine, self.watch.container_id))

    async def _send(self, signal: str) -> None:
        await self._tell(lambda api: api.kill(self.watch.container_id, signal))

    async def _unpause(self) -> None:
        await self._look()
        if self._seen is not None and self._seen.paused:
            await self._tell(lambda api: api.unpause(self.watch.container_id))

    async def _tell(self, work: Callable[[APIClient], object]) -> None:
        """Do what is no error when the container is not running any more."""
        try:
            await self._engine.call(work)
        except EngineRefusedError as exc:
            if not (exc.is_missing or exc.is_conflict or "is not running" in str(exc)):
                raise EngineUnavailableError(f"the Docker Engine refuses: {exc}") from exc

    def _take(self, seen: Seen | None) -> None:
        self._seen = seen
        if self._exit is not None:
            return
        if seen is not None and not seen.running:
            self._exit = ExitStatus(code=seen.exit_code, oom=seen.oom)
        elif seen is None or seen.started_at != self._started_at or self.watch.died:
            # Removed by hand, or started anew: only the event can have told the code.
            self._exit = ExitStatus(code=self.watch.exit_code)
        if self._exit is not None:
            self.watch.stir()  # a probe may have seen it before any event came

    async def _ask_usage(self) -> Usage:
        """What the engine counts. The processor's share is that since the last time it was asked."""
        stats = await self._engine.call(lambda api: api.stats(self.watch.container_id, stream=False, one_shot=True))
        memory = stats.get("memory_stats", {})
        used, detail = memory.get("usage"), memory.get("stats", {})
        # As `docker stats` counts: what could be dropped at once is not in use.
        cache = detail.get("total_inactive_file", detail.get("inactive_file", 0))
        cpu = stats.get("cpu_stats", {}).get("cpu_usage", {}).get("total_usage", 0) / 1e9
        before, self._sample = self._sample, (trio.current_time(), cpu)
        percent = None
        if before is not None and self._sample[0] > before[0]:
            percent = round(100 * max(0.0, cpu - before[1]) / (self._sample[0] - before[0]), 1)
        return Usage(cpu_percent=percent, memory_bytes=None if used is None else max(0, used - cache))


async def _measure(tree: Tree) -> Usage:
    # The engine counts once a second, and lets who asks twice wait for so long.
    began = trio.current_time()
    before, _ = await tree.measure()
    await trio.sleep(USAGE_SPAN)
    after, resident = await tree.measure()
    spent = sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())
    percent = 100 * spent / (trio.current_time() - began)
    return Usage(cpu_percent=round(percent, 1), memory_bytes=resident)
