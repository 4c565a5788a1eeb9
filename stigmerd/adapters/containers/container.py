"""Containers as lives: created, watched, ended and adopted through the Docker Engine.

A container is ours by its labels, which name the home, the component and the life; no other is
ever touched. The engine's own restart policy is ``no``: who restarts is the supervisor. The
environment goes through the engine's interface and never through a command line.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from stigmerd.adapters.containers.client import EngineRefusedError
from stigmerd.adapters.containers.engine import DockerEngine, Listed
from stigmerd.adapters.containers.image import Pulls
from stigmerd.adapters.containers.labels import (
    COMPONENT_LABEL,
    DEFINITION_LABEL,
    HOME_LABEL,
    LIFE_LABEL,
    NONCE_LABEL,
)
from stigmerd.adapters.containers.life import ContainerLife, Seen, inspect
from stigmerd.adapters.containers.log import ContainerLog
from stigmerd.adapters.containers.tree import Tree, prove_local
from stigmerd.adapters.processes.reserve import Reserve
from stigmerd.core.record import Identity
from stigmerd.core.spec import NAME_PATTERN, ComponentSpec, ContainerSpec
from stigmerd.engine.ports import EngineUnavailableError, LaunchOrder, Life, PortWatch, Shut, SpawnFailedError

if TYPE_CHECKING:
    from docker import APIClient

DRAIN_LIMIT = 5.0
"""Seconds without progress after which the last output of a dead container is given up."""

END_LIMIT = 5.0
"""Seconds that a container may take to be over after SIGKILL, before it is removed by force."""

GLANCE = 0.1
"""Seconds between two looks at a container that is about to end."""

DISOWNED_LIMIT = 256
"""Lives that were given up and whose container may still appear; the oldest are forgotten first."""

HURRY, HURRY_PERIOD = 10.0, 0.5
"""Seconds after a life was given up in which its container is looked for more often, and how often."""

PROOFS_AT_ONCE = 8
"""Threads that look whether a container's init is a process of this host: one may hang in the kernel."""

RUNNING = frozenset({"running", "paused", "restarting"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Stray:
    """A container of this home that no record claims. Where it is not ``gone``, it is removed later."""

    component: str
    container_id: str
    gone: bool


class Attendance:
    """The copying of a life's output and the hearing of its events. ``drained``: all output is copied."""

    def __init__(self, life: ContainerLife) -> None:
        self.life = life
        self.scope = trio.CancelScope()
        self.drained = trio.Event()


class ContainerLauncher:
    """Makes lives of containers. :meth:`serve` has to run for as long as it is used.

    ``open_log`` returns a new descriptor of a component's log, opened O_APPEND. ``places`` is the
    folder that remembers how much of each container's output is in its log. ``environment`` is the
    daemon's own, for ``pass_env``.
    """

    def __init__(
        self,
        engine: DockerEngine,
        *,
        boot_id: str,
        environment: Mapping[str, str],
        open_log: Callable[[str], int],
        places: Path,
        port_watch: PortWatch,
    ) -> None:
        self._engine = engine
        self._boot_id = boot_id
        self._environment = environment
        self._open_log = open_log
        self._places = places
        self._port_watch = port_watch
        self._pulls = Pulls(engine)
        self._reserve = Reserve()
        self._proving = trio.CapacityLimiter(PROOFS_AT_ONCE)
        self._tasks: trio.Nursery | None = None
        self._leaving: dict[str, trio.Event] = {}
        self._attendances: dict[str, Attendance] = {}
        self._launching: set[str] = set()
        """The nonces of the lives that are on their way."""
        self._disowned: dict[str, None] = {}
        self._hurry_until = 0.0

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch the engine, copy output and remove what was given up, until cancelled."""
        with self._reserve:
            await self._serve(task_status)

    async def _serve(self, task_status: trio.TaskStatus[None]) -> None:
        try:
            async with trio.open_nursery() as tasks:
                await tasks.start(self._engine.serve)
                tasks.start_soon(self._remove_disowned)
                self._tasks = tasks
                task_status.started()
        finally:
            self._tasks = None

    @property
    def _nursery(self) -> trio.Nursery:
        if self._tasks is None:
            raise RuntimeError("ContainerLauncher.serve() is not running")
        return self._tasks

    # The port.

    async def check_gate(self, spec: ComponentSpec) -> Shut | None:
        """Look whether the ports are free, the engine answers and the image is there; pull it where asked."""
        if spec.ports and (stranger := await self._port_watch.strangers(spec.ports, frozenset())) is not None:
            return Shut(reason="port", message=stranger)
        runs = _container(spec)
        try:
            if runs.pull == "never" or await self.has_image(runs.image):
                await self._engine.call(lambda api: api.ping())
                return None
        except EngineUnavailableError as exc:
            return Shut(reason="engine", message=str(exc))
        except EngineRefusedError as exc:
            return Shut(reason="engine", message=f"the Docker Engine answers with an error: {exc}")
        progress = self._pulls.want(runs.image, self._nursery)
        return Shut(reason="engine", message=progress) if progress is not None else None

    def begin(self, order: LaunchOrder) -> None:
        """Nothing of it is quick enough to be begun ahead; see the port."""

    async def launch(self, order: LaunchOrder) -> Life:
        """Create and start a container, after ending what is left of the component's earlier ones."""
        runs = _container(order.spec)
        arrived = False
        self._launching.add(order.nonce)
        try:
            await self._end_namesakes(order.spec.name)
            container_id = await self._create(order, runs)
            await self._start(container_id, runs)
            seen = await inspect(self._engine, container_id)
            if seen is None:
                raise SpawnFailedError(f"container {runs.name} was removed while it was started")
            life = self._attend(order, seen, await self._prove_local(seen))
            arrived = True
            return life
        finally:
            self._launching.discard(order.nonce)
            if not arrived:
                self._disown(order.nonce)

    async def adopt(self, order: LaunchOrder, identity: Identity) -> Life | None:
        """The life of the container that ``identity`` names, if its labels say the same.

        One that ended while no daemon ran is a life too: it knows its exit, has output to be copied, and is
        removed when it is released. So is one that somebody stopped and started anew: it is over, and runs.

        Raises:
            EngineUnavailableError: it cannot be told now.
        """
        seen = await self._inspect_ours(identity)
        if seen is None or seen.labels.get(COMPONENT_LABEL) != order.spec.name:
            return None
        local = await self._prove_local(seen)
        life = self._attend(order, seen, local)
        if identity.pid is not None and local is not None and local[0] != identity.pid:
            life.renounce()
        # The wall clock is all that the engine tells.
        life.backdate(max(0.0, time.time() - _instant(seen.started_at)))
        return life

    async def end_strays(self, keep: Collection[str]) -> tuple[Stray, ...]:
        """End and remove this home's containers, but for the lives with these nonces and those made here.

        Their last output goes into their component's log first. May be called while lives are launched.

        Raises:
            EngineUnavailableError: the engine cannot be asked now. Where it goes away in between, the
                rest is ended when it is back.
        """
        strays = [one for one in await self._engine.list_ours() if not self._is_claimed(one, keep)]
        async with trio.open_nursery() as tasks:
            for stray in strays:
                tasks.start_soon(self._end_stray, stray)
        return tuple(
            Stray(
                component=one.labels.get(COMPONENT_LABEL, ""),
                container_id=one.id,
                gone=one.labels.get(NONCE_LABEL, "") not in self._disowned,
            )
            for one in strays
        )

    def _is_claimed(self, one: Listed, keep: Collection[str]) -> bool:
        nonce = one.labels.get(NONCE_LABEL, "")
        is_known = one.id in self._attendances or one.id in self._leaving
        return is_known or nonce in keep or nonce in self._launching or nonce in self._disowned

    async def wait_removed(self) -> None:
        """Wait until every container that is over is removed; not for an engine that is away."""
        while (self._leaving or self._disowned) and not self._engine.trouble:
            if self._leaving:
                await next(iter(self._leaving.values())).wait()
            else:
                await self._engine.wait_listing()

    async def _end_stray(self, stray: Listed) -> None:
        try:
            await self._bury(stray)
        except EngineUnavailableError:
            self._disown(stray.labels.get(NONCE_LABEL, ""))

    async def has_image(self, image: str) -> bool:
        """Whether the engine has this image.

        Raises:
            EngineUnavailableError: the engine cannot be asked now.
        """
        try:
            await self._engine.call(lambda api: api.inspect_image(image))  # type: ignore[no-untyped-call]
        except EngineRefusedError as exc:
            if not exc.is_missing:
                raise EngineUnavailableError(f"the Docker Engine answers with an error: {exc}") from exc
            return False
        return True

    # Making one.

    async def _end_namesakes(self, component: str) -> None:
        """End what this home still has of a component: there is at most one life."""
        for one in await self._engine.list_ours():
            if one.labels.get(COMPONENT_LABEL) == component:
                await self._bury(one)

    async def _create(self, order: LaunchOrder, runs: ContainerSpec) -> str:
        while True:
            try:
                return await self._engine.call(partial(self._ask_create, order, runs))
            except EngineRefusedError as exc:
                if exc.is_missing:
                    raise SpawnFailedError(self._missing(runs, str(exc))) from exc
                if not exc.is_conflict:
                    raise SpawnFailedError(f"container {runs.name} could not be created: {exc}") from exc
                await self._clear_name(order, runs)
            await trio.sleep(GLANCE)

    async def _clear_name(self, order: LaunchOrder, runs: ContainerSpec) -> None:
        """Remove our own container from the name that is wanted; refuse to touch another's."""
        seen = await inspect(self._engine, runs.name)
        if seen is None:
            return
        labels = seen.labels
        if labels.get(HOME_LABEL) != self._engine.home or labels.get(COMPONENT_LABEL) != order.spec.name:
            raise SpawnFailedError(
                f"the name {runs.name} belongs to container {seen.id[:12]}, which is not of this component:"
                f" rename or remove it (docker rm {seen.id[:12]}),"
                f" or set component.{order.spec.name}.container.name"
            )
        await self._bury(Listed(id=seen.id, state="running" if seen.running else "exited", labels=labels))

    def _ask_create(self, order: LaunchOrder, runs: ContainerSpec, api: APIClient) -> str:
        from docker.utils.ports import build_port_bindings

        try:
            bindings = build_port_bindings(list(runs.ports))
        except ValueError as exc:
            raise SpawnFailedError(f"component.{order.spec.name}.container.ports: {exc}") from exc
        host_config = api.create_host_config(
            binds=list(runs.volumes),
            extra_hosts=dict(runs.extra_hosts) or None,
            network_mode=runs.network,
            port_bindings=bindings,
            restart_policy={"Name": "no"},
        )
        created = api.create_container(
            runs.image,
            command=None if runs.command is None else list(runs.command),
            entrypoint=None if runs.entrypoint is None else list(runs.entrypoint),
            environment=self._container_environment(order, runs),
            host_config=host_config,
            labels=self._labels(order, runs),
            name=runs.name,
            ports=[tuple(port.split("/")) for port in bindings],
            user=runs.user,
            working_dir=runs.working_dir,
            use_config_proxy=False,
        )
        return str(created["Id"])

    def _container_environment(self, order: LaunchOrder, runs: ContainerSpec) -> dict[str, str]:
        passed = {name: self._environment[name] for name in runs.pass_env if name in self._environment}
        ours = {
            "STIGMER_HOME": self._engine.home,
            "STIGMER_COMPONENT": order.spec.name,
            "STIGMER_LIFE": order.nonce,
        }
        return {**passed, **runs.env, **ours}

    def _labels(self, order: LaunchOrder, runs: ContainerSpec) -> dict[str, str]:
        return {
            **runs.labels,
            HOME_LABEL: self._engine.home,
            COMPONENT_LABEL: order.spec.name,
            LIFE_LABEL: str(order.life),
            NONCE_LABEL: order.nonce,
            DEFINITION_LABEL: order.spec.definition,
        }

    def _missing(self, runs: ContainerSpec, refusal: str) -> str:
        if "no such image" not in refusal.lower():
            return f"container {runs.name} could not be created: {refusal}"
        failure = None if runs.pull == "never" else self._pulls.take_failure(runs.image)
        if failure is not None:
            return f"image {runs.image} could not be pulled: {failure}; try `docker pull {runs.image}`"
        return (
            f"image {runs.image} is missing: get it with `docker pull {runs.image}`,"
            f" or build it with `docker build -t {runs.image} FOLDER`"
        )

    async def _start(self, container_id: str, runs: ContainerSpec) -> None:
        try:
            await self._engine.call(lambda api: api.start(container_id))
        except EngineRefusedError as exc:
            raise SpawnFailedError(f"container {runs.name} could not be started: {exc}") from exc

    async def _prove_local(self, seen: Seen) -> tuple[int, int] | None:
        return await self._reserve.run(partial(prove_local, seen.pid, seen.id), self._proving)

    def _attend(self, order: LaunchOrder, seen: Seen, local: tuple[int, int] | None) -> ContainerLife:
        """Begin to copy the output of a container and to hear of it. ``local``: its init, if that is of this host."""
        identity = Identity(
            nonce=order.nonce,
            boot_id=self._boot_id,
            pid=local[0] if local else None,
            start_ticks=local[1] if local else None,
            container_id=seen.id,
        )
        log = self._log(order.spec.name, seen.id)
        tree = Tree(local[0], seen.id, self._reserve) if local else None
        life = ContainerLife(
            self._engine,
            seen,
            identity,
            log=log,
            tree=tree,
            farewell=self._let_go,
            conceal=order.spec.conceal,
        )
        attendance = self._attendances[seen.id] = Attendance(life)
        self._engine.watch(life.watch)
        self._nursery.start_soon(self._follow, attendance)
        return life

    async def _follow(self, attendance: Attendance) -> None:
        life = attendance.life
        try:
            with attendance.scope:
                await life.log.run()
                attendance.drained.set()
                await trio.sleep_forever()
        finally:
            self._engine.unwatch(life.watch)

    def _log(self, component: str, container_id: str) -> ContainerLog:
        place = self._places / container_id
        return ContainerLog(self._engine, container_id, open_log=partial(self._open_log, component), place=place)

    # Ending one.

    async def _let_go(self, life: ContainerLife) -> None:
        container_id = life.watch.container_id
        if container_id in self._attendances:
            self._leaving[container_id] = trio.Event()
            self._nursery.start_soon(self._see_off, self._attendances.pop(container_id))
        await self._wait_left(container_id)

    async def _wait_left(self, container_id: str) -> None:
        if container_id in self._leaving:
            await self._leaving[container_id].wait()

    async def _see_off(self, attendance: Attendance) -> None:
        life = attendance.life
        try:
            await self._drain(life.log, attendance.drained.wait)
            attendance.scope.cancel()
            await self._remove(life.watch.container_id, life.log, life.identity.nonce)
        finally:
            self._leaving.pop(life.watch.container_id).set()

    async def _drain(self, log: ContainerLog, wait: Callable[[], Awaitable[None]]) -> None:
        """Let the last output reach the log, for as long as there is progress and an engine."""
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as tasks:
                tasks.start_soon(self._give_up_when_stuck, log, scope)
                await wait()
                tasks.cancel_scope.cancel()

    async def _give_up_when_stuck(self, log: ContainerLog, scope: trio.CancelScope) -> None:
        copied = -1
        while not self._engine.trouble and copied != log.copied:
            copied = log.copied
            await trio.sleep(DRAIN_LIMIT)
        scope.cancel()

    async def _remove(self, container_id: str, log: ContainerLog, nonce: str) -> None:
        """Remove a container that is over; what cannot be removed now is removed later."""
        try:
            await self._engine.call(lambda api: api.remove_container(container_id, v=True, force=True))
        except (EngineUnavailableError, EngineRefusedError) as exc:
            if not (isinstance(exc, EngineRefusedError) and exc.is_missing):
                self._disown(nonce)
                return
        self._disowned.pop(nonce, None)
        log.forget()

    def _disown(self, nonce: str) -> None:
        """See to it that the container of this life is removed once the engine shows it."""
        self._disowned[nonce] = None
        self._hurry_until = trio.current_time() + HURRY
        self._engine.look_again()
        if len(self._disowned) > DISOWNED_LIMIT:
            del self._disowned[next(iter(self._disowned))]

    async def _remove_disowned(self) -> None:
        while True:
            for one in await self._engine.wait_listing():
                if one.labels.get(NONCE_LABEL) in self._disowned:
                    with suppress(EngineUnavailableError):
                        await self._bury(one)
            if trio.current_time() < self._hurry_until:
                await trio.sleep(HURRY_PERIOD)
                self._engine.look_again()

    async def _bury(self, one: Listed) -> None:
        """End a container of ours, copy its last output, and remove it."""
        if one.id in self._leaving:
            await self._wait_left(one.id)
            return
        self._leaving[one.id] = trio.Event()
        try:
            if one.state in RUNNING:
                await self._end(one.id)
            log = await self._copy_last(one)
            await self._remove(one.id, log, one.labels.get(NONCE_LABEL, ""))
        finally:
            self._leaving.pop(one.id).set()

    async def _copy_last(self, one: Listed) -> ContainerLog:
        """Copy what is left of a container's output: by whoever copies it already, so that it is there once."""
        attendance = self._attendances.pop(one.id, None)
        if attendance is not None:
            await self._drain(attendance.life.log, attendance.drained.wait)
            attendance.scope.cancel()
            return attendance.life.log
        component = one.labels.get(COMPONENT_LABEL, "")
        log = self._log(component, one.id)
        # A label is anybody's word, and only a component's name may become a path.
        if one.state != "created" and re.fullmatch(NAME_PATTERN, component):
            await self._drain(log, log.run)
        return log

    async def _end(self, container_id: str) -> None:
        # Refused where it is over, or not paused: what follows tells.
        with suppress(EngineRefusedError):
            await self._engine.call(lambda api: api.kill(container_id, "SIGKILL"))
        with suppress(EngineRefusedError):
            await self._engine.call(lambda api: api.unpause(container_id))
        with trio.move_on_after(END_LIMIT):
            await self._wait_ended(container_id)

    async def _wait_ended(self, container_id: str) -> None:
        while True:
            seen = await inspect(self._engine, container_id)
            if seen is None or not seen.running:
                return
            await trio.sleep(GLANCE)

    # Looking.

    async def _inspect_ours(self, identity: Identity) -> Seen | None:
        if identity.container_id is None:
            return None
        seen = await inspect(self._engine, identity.container_id)
        if seen is None or seen.id != identity.container_id:
            return None
        ours = seen.labels.get(HOME_LABEL) == self._engine.home and seen.labels.get(NONCE_LABEL) == identity.nonce
        return seen if ours else None


def _container(spec: ComponentSpec) -> ContainerSpec:
    if not isinstance(spec.runs, ContainerSpec):
        raise TypeError(f"component {spec.name} is no container")
    return spec.runs


def _instant(at: str) -> float:
    """Seconds since the epoch of the engine's RFC 3339 text; now, where it is none."""
    try:
        # Nanoseconds are more than datetime takes.
        return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", at)).timestamp()
    except ValueError:
        return time.time()
