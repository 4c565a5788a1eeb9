"""What operators ask of the daemon, over the control channel or by a signal, and the refusal of what cannot be done.

Each operation comes down to a call of the supervisor, of the report or of the configuration. How a
request arrives is the business of ``control``; what follows the end, of ``daemon``.
"""

from __future__ import annotations

import signal as signals
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import trio

from stigmerd.config.problems import ConfigError
from stigmerd.core.lifecycle import Phase
from stigmerd.core.order import Change
from stigmerd.core.spec import ComponentSpec, StackSpec
from stigmerd.core.status import StatusDocument
from stigmerd.daemon.configuration import Configuration
from stigmerd.daemon.lookup import Lookup
from stigmerd.daemon.reexec import ask_next_program
from stigmerd.daemon.report import Report
from stigmerd.daemon.start import Start
from stigmerd.engine.component import Component
from stigmerd.engine.operations import Answer, EventFeed, Refusal, RefusedError
from stigmerd.engine.ports import Life
from stigmerd.engine.supervisor import Supervisor

READ_BOUND = 30.0
"""Seconds for reading the event history, after other subscribers have."""

FORBIDDEN_SIGNALS = frozenset({"SIGKILL", "SIGSTOP"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What operators have made of the daemon's end: what a shutdown could not kill, and whether the end
    is only the beginning of the next program."""

    survivors: tuple[int, ...] = ()
    becomes_next: bool = False


class DaemonOperations:
    """The engine's ``Operations``. ``on_reload`` is called once another configuration is in force and applied."""

    def __init__(
        self,
        start: Start,
        supervisor: Supervisor,
        configuration: Configuration,
        report: Report,
        on_reload: Callable[[], None],
    ) -> None:
        self._start = start
        self._supervisor = supervisor
        self._configuration = configuration
        self._report = report
        self._on_reload = on_reload
        self._reading = Lookup("the event history", bound=READ_BOUND)
        self._reloading: trio.Event | None = None
        """Set once the reload that is under way is over."""
        self._has_reload_due = False
        self._end = trio.Event()
        self._ending = Ending()

    @property
    def ending(self) -> Ending:
        """How the daemon is to end. A shutdown may be asked for once more, and add to it, until nobody is answered."""
        return self._ending

    @property
    def is_over(self) -> bool:
        """Whether :meth:`wait_end` would return at once."""
        return self._end.is_set()

    async def wait_end(self) -> None:
        """Wait until the daemon is to end: everything is stopped, or the next program agreed to go on."""
        await self._end.wait()

    # What is so.

    async def status(self, names: Sequence[str] = (), *, verbose: bool = False) -> StatusDocument:
        """The status document."""
        return await self._report.status(self._known(names), verbose=verbose)

    async def explain(self, name: str) -> dict[str, Any]:
        """The report on a component's last failure."""
        (known,) = self._known((name,))
        return await self._report.explain(known)

    def watch_events(self, since: int | None, names: Sequence[str] = ()) -> AbstractContextManager[EventFeed]:
        """Subscribe to the history. What of it was written before is read in a thread: it may be 32 MiB."""
        journal = self._supervisor.journal
        known = self._known(names) if names else ()
        if since is None:
            return journal.watch(known)
        return journal.watch(known, lambda until: self._reading.do(partial(journal.read, since, until)))

    async def wait_status_change(self, seen: int) -> int:
        """Wait for another version of the status."""
        await self._supervisor.board.wait_change(seen)
        version: int = self._supervisor.board.version.value
        return version

    # What components are to do.

    async def start(self, names: Sequence[str] = (), *, timeout: float | None = None) -> tuple[Answer, ...]:
        """Start components and wait for them; without names, all that are enabled."""
        self._refuse_while_closing()
        if names:
            return await self._supervisor.start(self._known(names), "operator", timeout)
        enabled = [name for name, spec in self._supervisor.specs.items() if spec.enabled]
        return await self._supervisor.start(enabled, "operator", timeout, is_awaited=_is_required)

    async def stop(
        self, names: Sequence[str] = (), *, timeout: float | None = None, now: bool = False
    ) -> tuple[Answer, ...]:
        """Stop components."""
        return await self._supervisor.stop(self._known(names), "operator", _cap(timeout, now))

    async def restart(
        self, names: Sequence[str] = (), *, timeout: float | None = None, now: bool = False
    ) -> tuple[Answer, ...]:
        """Restart components; without names, all that were wanted up or have failed."""
        self._refuse_while_closing()
        cap = 0.0 if now else None
        if names:
            return await self._supervisor.restart(self._known(names), "operator", timeout, cap)
        views = {name: self._supervisor.component(name).view for name in self._known(())}
        chosen = [name for name, view in views.items() if view.state.wanted or view.phase is Phase.FAILED]
        return await self._supervisor.restart(chosen, "operator", timeout, cap, is_awaited=_is_required)

    async def signal(self, names: Sequence[str], signal: str) -> tuple[Answer, ...]:
        """Signal the leaders."""
        name = signal.upper() if signal.upper().startswith("SIG") else f"SIG{signal.upper()}"
        if name in FORBIDDEN_SIGNALS or name not in signals.Signals.__members__:
            known = "`stop --now` kills" if name == "SIGKILL" else "give a name such as HUP or USR1"
            raise RefusedError(Refusal.FAILED, f"{signal} cannot be sent: {known}")
        components = [self._supervisor.component(known) for known in self._known(names)]
        return tuple([await _signal_one(component, name) for component in components])

    # Another configuration.

    async def reload(self, *, dry_run: bool = False) -> Change:
        """Apply the changed configuration, or tell what would change."""
        self._refuse_while_closing()
        if self._reloading is not None:
            raise RefusedError(Refusal.BUSY, "another reload is under way")
        over = self._reloading = trio.Event()
        try:
            return await self._reload(dry_run)
        finally:
            self._reloading = None
            over.set()

    async def reload_in_turn(self) -> None:
        """Apply the changed configuration, after a reload that is under way: it may have read what was there before.

        Where that is awaited already, one more adds nothing to it.
        """
        if self._has_reload_due:
            return
        self._has_reload_due = True
        try:
            while self._reloading is not None:
                await self._reloading.wait()
        finally:
            self._has_reload_due = False
        await self.reload()

    async def _reload(self, dry_run: bool) -> Change:
        configuration = self._configuration
        try:
            stack = await configuration.read(must_exist=configuration.stack.source is not None)
        except ConfigError as exc:
            if not dry_run:
                configuration.problem = f"the configuration was not reloaded: {exc}"
            raise RefusedError(Refusal.BAD_CONFIGURATION, str(exc)) from exc
        change = self._plan(stack)
        if dry_run:
            return change
        configuration.put_in_force(stack)
        await self._supervisor.apply(stack.components, change)
        self._on_reload()
        self._supervisor.journal.record(
            "config_reloaded",
            reason="reload",
            added=list(change.added),
            removed=list(change.removed),
            changed=list(change.changed),
            restarted=list(change.restarted),
        )
        return change

    def _plan(self, stack: StackSpec) -> Change:
        old, new = self._configuration.stack.daemon, stack.daemon
        daemon = [each.name for each in fields(new) if getattr(old, each.name) != getattr(new, each.name)]
        return replace(self._supervisor.plan(stack.components), daemon=tuple(daemon))

    # The end.

    async def shutdown(self, *, timeout: float | None = None, now: bool = False) -> tuple[Answer, ...]:
        """Stop everything, then let the daemon end. Asked again, it only becomes faster."""
        self.expect_shutdown()
        cap = _cap(timeout, now)
        if not self._supervisor.is_closing:
            self._supervisor.journal.record("daemon_stopping", reason="shutdown")
        elif cap == 0.0:
            await self._supervisor.hurry()
        answers = await self._supervisor.close(cap)
        survivors = tuple(pid for answer in answers for pid in answer.survivors)
        self._ending = replace(self._ending, survivors=survivors)
        self._end.set()
        return answers

    def expect_shutdown(self) -> None:
        """Take back that the next program goes on: a shutdown has the last word, also before it has begun."""
        if self._ending.becomes_next:
            self._ending = replace(self._ending, becomes_next=False)
            self._end = trio.Event()

    async def reexec(self) -> None:
        """Become the program that is installed now, once it has shown that it loads this configuration."""
        self._refuse_while_closing()
        objection = await ask_next_program(self._start, self._configuration.stack.source)
        if objection is not None:
            raise RefusedError(
                Refusal.FAILED, f"the new program does not load this configuration, nothing was changed: {objection}"
            )
        self._refuse_while_closing()  # a shutdown that began meanwhile has the last word
        self._ending = replace(self._ending, becomes_next=True)
        self._end.set()

    # What is refused.

    def _known(self, names: Sequence[str]) -> tuple[str, ...]:
        for name in names:
            if name not in self._supervisor.specs:
                known = ", ".join(self._supervisor.specs) or "none"
                raise RefusedError(Refusal.UNKNOWN_COMPONENT, f"there is no component {name!r}; there are: {known}")
        return tuple(name for name in self._supervisor.specs if not names or name in names)

    def _refuse_while_closing(self) -> None:
        if self._supervisor.is_closing:
            raise RefusedError(Refusal.SHUTTING_DOWN, "the daemon is shutting down")


async def _signal_one(component: Component, signal: str) -> Answer:
    name = component.name
    life: Life | None = component.life
    state = component.view.state.shown
    if life is None or not life.is_alive():
        log = f"; log: {component.view.log}" if state == "failed" else ""
        return Answer(name=name, state=state, ok=False, message=f"not running: {state}{log}")
    await life.signal_leader(signal)
    return Answer(name=name, state=state, ok=True)


def _is_required(spec: ComponentSpec) -> bool:
    """Whether a stack is not up without it."""
    return spec.enabled and not spec.optional


def _cap(timeout: float | None, now: bool) -> float | None:
    """How an operator bounds the grace: not at all, by a timeout, or to nothing."""
    return 0.0 if now else timeout
