"""The root of the tree: one task per component behind a bulkhead, and what spans several of them.

It knows the order of things and waits for them; what happens to one component is that component's
own business.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

import trio

from stigmerd.core.describe import describe_lateness
from stigmerd.core.lifecycle import Event, Phase
from stigmerd.core.order import (
    Change,
    difference,
    direct_dependents,
    followers,
    nearest_dependents,
    start_order,
    stop_order,
    with_dependencies,
)
from stigmerd.core.spec import ComponentSpec
from stigmerd.engine.board import Board, View
from stigmerd.engine.component import Component
from stigmerd.engine.journal import Journal
from stigmerd.engine.operations import Answer
from stigmerd.engine.ports import World
from stigmerd.engine.telling import unkillable
from stigmerd.engine.turns import Door, Turns

START_TIMEOUT = 60.0
"""Seconds that a start waits where the operator names no timeout."""

STOP_MARGIN = 5.0
"""Seconds past its grace in which a stop has its answer."""

STALL_PERIOD = 1.0
"""Seconds between two looks at the clocks for a stall of the daemon or a sleep of the host."""

STALL_LIMIT = 2.0
"""Seconds late from which a stall is worth an entry in the history."""

BULKHEAD_PAUSE = 1.0
"""Seconds until a component whose bug keeps it from being failed is failed again."""

log = logging.getLogger("stigmerd")


def _is_any(spec: ComponentSpec) -> bool:
    """Every component is waited for, unless somebody says otherwise."""
    return True


class Supervisor:
    """Owns the components. Every method may be called from any task; each component queues what it is asked."""

    def __init__(self, specs: Mapping[str, ComponentSpec], world: World, restored: Mapping[str, View]) -> None:
        self.board = Board()
        self.journal = Journal(world.events, world.clock, world.look)
        self._world = world
        self._turns = Turns()
        self._exit_door = Door()
        """Before each stop, since a thousand are often asked for in one instant."""
        self._specs: dict[str, ComponentSpec] = dict(specs)
        self._dependents = direct_dependents(specs)
        self._components: dict[str, Component] = {}
        self._scopes: dict[str, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        self._closing = False
        self._in_a_hurry = False
        self._leaving: frozenset[str] = frozenset()
        """What a reload is about to remove: nothing of it may begin once it was stopped."""
        self._restored = restored

    @property
    def specs(self) -> Mapping[str, ComponentSpec]:
        """What is supervised, in the order of the file."""
        return self._specs

    @property
    def is_closing(self) -> bool:
        """Whether a shutdown has begun."""
        return self._closing

    def component(self, name: str) -> Component:
        """One component, by name."""
        return self._components[name]

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Supervise until cancelled. Cancelling touches no component: they run on, as after a crash."""
        async with trio.open_nursery() as self._nursery:
            for spec in self._specs.values():
                self._add(spec, self._restored.get(spec.name))
            self._nursery.start_soon(self._watch_stalls)
            task_status.started()

    async def wait_proven(self) -> None:
        """Wait until of every life that an earlier daemon left it is known whether it goes on."""
        for component in list(self._components.values()):
            await component.proven.wait()

    # Components come and go.

    def _add(self, spec: ComponentSpec, restored: View | None) -> None:
        assert self._nursery is not None
        component = Component(
            spec,
            self._world,
            self.board,
            self.journal,
            self._turns,
            on_new_life=self._tell_dependents,
            is_closing=lambda: self._closing or spec.name in self._leaving,
            restored=restored,
        )
        self._components[spec.name] = component
        self._scopes[spec.name] = trio.CancelScope()
        self._nursery.start_soon(self._contain, component, self._scopes[spec.name])

    def _remove(self, name: str) -> None:
        self._scopes.pop(name).cancel()
        self._components.pop(name).retire()
        self.board.remove(name)
        self._world.state.forget(name)

    async def _contain(self, component: Component, scope: trio.CancelScope) -> None:
        """The bulkhead: a bug in one component's task fails that component, and no other."""
        error = ""
        with scope:
            while True:
                try:
                    if error:
                        await component.fail_internally(error)
                    error = ""
                    await component.run()
                except Exception as exc:
                    log.exception("internal error in the task of %s", component.view.spec.name)
                    if error:  # it could not even be failed
                        await trio.sleep(BULKHEAD_PAUSE)
                    error = f"internal error: {_innermost(exc)} (see stigmerd.log)"

    def _tell_dependents(self, name: str) -> None:
        for other in self._dependents.get(name, ()):
            if self._specs[other].restart_with_dependency:
                self._components[other].follow()

    # What operators ask for.

    async def start(
        self,
        names: Iterable[str],
        reason: str,
        timeout: float | None = None,
        *,
        is_awaited: Callable[[ComponentSpec], bool] = _is_any,
    ) -> tuple[Answer, ...]:
        """Start components after those of their dependencies that are stopped or failed, and wait for them."""
        named = tuple(names)
        # Held here, because a reload may remove what has not been asked yet.
        components = [self._components[name] for name in with_dependencies(named, self._specs)]
        asked: dict[Component, View] = {}
        for component in components:
            if component.name in named:
                asked[component] = await component.ask(Event.UP, reason)
            elif component.view.phase in {Phase.DOWN, Phase.FAILED}:
                await component.ask(Event.UP, reason)
        return await self._wait_up(asked, START_TIMEOUT if timeout is None else timeout, is_awaited)

    async def begin(self, names: Iterable[str], reason: str | None, *, resuming: Collection[str] = ()) -> None:
        """Want components up, and wait for nothing. Those in ``resuming`` were stopped to come up again,
        and stay down if somebody has asked for that since."""
        for component in self._in_order(names):
            await component.ask(Event.UP, reason, resumes=component.name in resuming)

    async def stop(
        self, names: Iterable[str], reason: str, cap: float | None = None, *, returning: Collection[str] = ()
    ) -> tuple[Answer, ...]:
        """Stop components, dependents first, and wait until nothing of them is alive.

        Of those in ``returning`` it is remembered that they are to come up again: by the caller, or
        by the next daemon should this one die before.
        """
        named = frozenset(names)
        components = {name: self._components[name] for name in self._specs if name in named}
        answers: dict[str, Answer] = {}
        done = {name: trio.Event() for name in components}
        earlier = nearest_dependents(named, self._specs)

        async def stop_one(name: str) -> None:
            for other in earlier[name]:
                await done[other].wait()
            await self._exit_door.pass_through()
            answers[name] = await self._stop_one(components[name], reason, cap, returns=name in returning)
            done[name].set()

        async with trio.open_nursery() as stops:
            for name in stop_order(self._specs):
                if name in components:
                    stops.start_soon(stop_one, name)
        return tuple(answers[name] for name in components)

    async def restart(
        self,
        names: Iterable[str],
        reason: str,
        timeout: float | None = None,
        cap: float | None = None,
        *,
        is_awaited: Callable[[ComponentSpec], bool] = _is_any,
    ) -> tuple[Answer, ...]:
        """Stop and start at once, with an empty budget: one in a single step, several in order."""
        components = self._in_order(names)
        limit = START_TIMEOUT if timeout is None else timeout
        if len(components) == 1:
            (component,) = components
            return await self._wait_up({component: await component.ask(Event.BOUNCE, reason, cap)}, limit, is_awaited)
        named = [component.name for component in components]
        await self.stop(named, reason, cap, returning=named)
        asked = {component: await component.ask(Event.UP, reason, resumes=True) for component in components}
        return await self._wait_up(asked, limit, is_awaited)

    def _in_order(self, names: Iterable[str]) -> list[Component]:
        """The components, dependencies first. Who waits between two of them holds on to these: a reload
        may remove some meanwhile."""
        chosen = set(names)
        return [self._components[name] for name in start_order(self._specs) if name in chosen]

    def plan(self, specs: Mapping[str, ComponentSpec]) -> Change:
        """What going over to a new configuration does. Only what is wanted up is restarted."""
        change = difference(self._specs, specs)
        up = {name for name in specs if name in self._components and self._components[name].view.state.wanted}
        restarted = tuple(name for name in change.restarted if name in up and name not in change.stopped)
        following = tuple(name for name in followers(restarted, specs) if name in up and name not in change.stopped)
        return replace(change, restarted=restarted, following=following)

    async def apply(self, specs: Mapping[str, ComponentSpec], change: Change) -> None:
        """Go over to a new configuration, as planned. Returns once everything is under way."""
        up = {*(n for n in change.added if specs[n].enabled), *change.started, *change.restarted}
        leave = (*change.removed, *change.restarted, *change.stopped)
        self._leaving = frozenset(change.removed)
        await self.stop(leave, "reload", returning=change.restarted)
        for name in change.removed:
            self._remove(name)
        self._leaving = frozenset()
        self._specs = dict(specs)
        self._dependents = direct_dependents(specs)
        for name in change.added:
            self._add(specs[name], None)
        self.board.reorder(tuple(specs))
        for name in change.changed:
            await self._components[name].respec(specs[name], returns=name in change.started)
        await self.begin(up, "reload", resuming=change.restarted)

    async def close(self, cap: float | None = None) -> tuple[Answer, ...]:
        """Stop everything in reverse order of dependency. No life begins after this was called.

        Bounded by the longest chain of graces, and a margin for what cannot be killed.
        """
        self._closing = True
        # Wanted up by the operator still: a daemon that dies now must not leave half of it stopped.
        wanted = [name for name, component in self._components.items() if component.is_wanted]
        lifeless = [component for component in self._components.values() if not component.view.state.has_life]
        for component in lifeless:
            await component.ask(Event.DOWN, "shutdown", cap, returns=component.name in wanted)
        return await self.stop(self._components, "shutdown", cap, returning=wanted)

    def remember_rest(self) -> None:
        """Have it remembered that everything rests, once that is known to be so. Until then what had no life when
        :meth:`close` was called is remembered as it was: failed, completed, in a backoff."""
        for component in self._components.values():
            component.remember_rest()

    async def hurry(self) -> None:
        """Cut the graces of a shutdown to 0: of what stops now, and of what has to wait for its dependents still."""
        self._in_a_hurry = True
        for component in list(self._components.values()):
            if component.view.phase is Phase.STOPPING:
                await component.ask(Event.DOWN, "shutdown", 0.0, returns=component.is_wanted)

    # Waiting for them.

    async def _stop_one(self, component: Component, reason: str, cap: float | None, *, returns: bool) -> Answer:
        name = component.name
        view = component.view
        life = view.state.life
        cap = 0.0 if self._in_a_hurry else cap
        grace = view.spec.stop.grace if cap is None else min(cap, view.spec.stop.grace)
        with trio.move_on_after(grace + STOP_MARGIN):
            # Not at once where it is not known yet what an earlier daemon left.
            view = await component.ask(Event.DOWN, reason, cap, returns=returns)
            life = view.state.life
            if self._in_a_hurry and cap != 0.0:  # since that was asked
                await component.ask(Event.DOWN, reason, 0.0, returns=returns)
            await self._wait_view(component, lambda v: not v.state.has_life or v.state.life != life)
        view = component.view
        over = view.state.life != life or not (view.state.has_life or view.survivors)
        running = [n for n in self._dependents.get(name, ()) if self._components[n].view.state.has_life]
        if not over:
            pids = view.survivors or ((view.identity.pid,) if view.identity and view.identity.pid else ())
            message = f"{unkillable(view, pids)}; log: {view.log}"
            return Answer(name=name, state=view.shown, ok=False, message=message, survivors=pids)
        message = f"still running and depending on it: {', '.join(running)}" if running else ""
        return Answer(name=name, state=view.shown, ok=True, message=message)

    async def _wait_up(
        self, asked: Mapping[Component, View], timeout: float, is_awaited: Callable[[ComponentSpec], bool]
    ) -> tuple[Answer, ...]:
        """Wait until each that is awaited is up or has failed, and answer for all.

        ``asked``: each as it was when the wish was taken in.
        """
        began = trio.current_time()
        places = {name: place for place, name in enumerate(self._specs)}
        # What runs now is what was asked for; otherwise only a life that starts after the wish is.
        lives = {c: 0 if view.phase is Phase.RUNNING else view.started_life for c, view in asked.items()}

        async def wait_one(component: Component, old: int) -> None:
            await self._wait_view(component, lambda v: _is_settled(v, old))
            answers[component] = _up_answer(component, old)

        answers: dict[Component, Answer] = {}
        with trio.move_on_after(timeout):
            async with trio.open_nursery() as waits:
                for component, old in lives.items():
                    if is_awaited(component.view.spec):
                        waits.start_soon(wait_one, component, old)
        waited = trio.current_time() - began
        for component, old in lives.items():
            answers.setdefault(component, _late_answer(component, old, waited))
        return tuple(sorted(answers.values(), key=lambda answer: places.get(answer.name, len(places))))

    async def _wait_view(self, component: Component, predicate: Callable[[View], bool]) -> None:
        """Wait until a component is as ``predicate`` asks; one that has left will not change any more."""
        if not component.is_retired:
            await self.board.wait_view(component.name, predicate)

    async def _watch_stalls(self) -> None:
        """Write down when the daemon was stopped, starved, or the host slept."""
        while True:
            due, boot = trio.current_time() + STALL_PERIOD, self._world.clock.boot() + STALL_PERIOD
            await trio.sleep_until(due)
            late = max(trio.current_time() - due, self._world.clock.boot() - boot)
            if late > STALL_LIMIT:
                message = f"the daemon or the host did not run for {late:.1f} s"
                self.journal.record("suspended", message=message, seconds=round(late, 3))


def _up_answer(component: Component, old: int) -> Answer:
    view = component.view
    if _is_up(view, old):
        return Answer(name=component.name, state=view.shown, ok=True)
    why = "it was removed from the configuration" if component.is_retired else view.note or view.last_error
    return Answer(
        name=component.name, state=view.shown, ok=False, message=f"{why or view.shown}; log: {view.log}"
    )


def _late_answer(component: Component, old: int, waited: float) -> Answer:
    view = component.view
    if _is_settled(view, old):
        return _up_answer(component, old)
    message = f"{describe_lateness(waited, view.shown, view.note, view.last_error)}; log: {view.log}"
    return Answer(name=component.name, state=view.shown, ok=False, message=message)


def _is_up(view: View, old: int) -> bool:
    return view.phase is Phase.COMPLETED or view.started_life > old


def _is_settled(view: View, old: int) -> bool:
    return _is_up(view, old) or view.phase in {Phase.FAILED, Phase.DOWN}


def _innermost(exc: BaseException) -> str:
    """The first real error in nested groups, as one phrase."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return f"{type(exc).__name__}: {exc}"
