"""The Docker Engine, asked such that it can hang as it likes.

Every call runs in one of the engine's own few threads, under a scope that lets go after
``CALL_LIMIT``. While the engine is known to be absent or hung, and while too many threads that
were let go are still stuck, further calls fail at once. One thread listens to the engine's events;
one look at its list of containers each :data:`PERIOD` finds what the events missed.

It knows nothing of components.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from stigmerd.adapters.containers.address import EngineAddress, find_engine
from stigmerd.adapters.containers.client import (
    CALL_LIMIT,
    EngineRefusedError,
    Reading,
    connect,
    hung,
    knock,
    translated,
)
from stigmerd.adapters.containers.labels import HOME_LABEL
from stigmerd.engine.ports import EngineUnavailableError

if TYPE_CHECKING:
    from docker import APIClient

PERIOD = 5.0
"""Seconds between two looks at the engine, whether it is there or not."""

CALLS = 8
"""Calls, and so threads, that are under way at one time; the others wait for their turn."""

RELISTEN = 0.5
"""Seconds until a broken event stream is opened anew, for an engine that breaks each at once."""

HEARD = ("die", "destroy", "pause", "rename", "start", "unpause")
"""The engine's events that say something about a life. Health checks alone make three a second."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One container of this home, as the engine's list has it."""

    id: str
    state: str
    labels: Mapping[str, str]


class Watch:
    """What the engine tells unasked about one container.

    ``died`` says that its end was told, and ``exit_code`` the code that was told with it.
    """

    def __init__(self, container_id: str) -> None:
        self.container_id = container_id
        self.changed = trio.Event()
        self.died = False
        self.exit_code: int | None = None
        self._listed = ""

    def stir(self) -> None:
        """Wake whoever waits for ``changed``; who waits from now on waits for the next change."""
        self.changed.set()
        self.changed = trio.Event()

    def hear(self, event: Mapping[str, Any]) -> None:
        """Take in one event."""
        if event.get("Action") == "die" and not self.died:
            code = str(event["Actor"].get("Attributes", {}).get("exitCode", ""))
            self.died, self.exit_code = True, int(code) if code.isdigit() else None
        self.stir()

    def compare(self, state: str) -> None:
        """Take in the state of one listing, "" for not listed."""
        # A listing may be older than the container, so it can only prompt a closer look.
        if state != self._listed or state != "running":
            self._listed = state
            self.stir()


class DockerEngine:
    """One Docker Engine, as one daemon uses it. :meth:`serve` has to run while it is used."""

    def __init__(self, environment: Mapping[str, str], *, home: str) -> None:
        self.home = home
        self._label = f"{HOME_LABEL}={home}"
        self._environment = dict(environment)
        self._client_at: tuple[EngineAddress, APIClient] | None = None
        self._url = "its address"
        self._trouble = ""
        self._up = trio.Event()
        self._look_due = trio.Event()
        self._listed = trio.Event()
        self._listing: tuple[Listed, ...] = ()
        self._serving = False
        self._watches: set[Watch] = set()
        self._calls = trio.CapacityLimiter(CALLS)
        self._running: set[object] = set()
        self._let_go: set[object] = set()

    @property
    def trouble(self) -> str:
        """One sentence about why the engine cannot be asked now; "" when it can."""
        return self._trouble

    async def wait_up(self) -> None:
        """Wait until the engine answers again, if it does not."""
        if self._trouble:
            await self._up.wait()

    async def wait_listing(self) -> tuple[Listed, ...]:
        """Wait for the next list of this home's containers."""
        await self._listed.wait()
        return self._listing

    def look_again(self) -> None:
        """Look at the list now, and not at the end of the period."""
        self._look_due.set()

    def watch(self, watch: Watch) -> None:
        """Tell ``watch`` what is heard of its container, until :meth:`unwatch`."""
        self._watches.add(watch)

    def unwatch(self, watch: Watch) -> None:
        """Tell it nothing more."""
        self._watches.discard(watch)

    # Asking.

    async def call(self, work: Callable[[APIClient], T]) -> T:
        """Run ``work`` with a client of the engine, in a thread, for at most ``CALL_LIMIT``.

        Raises:
            EngineUnavailableError: it is absent, hung or not permitted.
            EngineRefusedError: it answered with an error.
        """
        if self._trouble and self._serving:
            raise EngineUnavailableError(self._trouble)
        return await self._call(work)

    async def list_ours(self) -> tuple[Listed, ...]:
        """The containers of this home, running or not.

        Raises:
            EngineUnavailableError: they cannot be told now.
        """
        try:
            return await self.call(self._list)
        except EngineRefusedError as exc:
            raise EngineUnavailableError(f"the Docker Engine answers with an error: {exc}") from exc

    async def read(self, work: Callable[[APIClient, Reading], T], limiter: trio.CapacityLimiter) -> T:
        """Run ``work``, which reads a streaming answer, in a thread of ``limiter``, however long it takes.

        Raises as :meth:`call` does.
        """
        reading = Reading()
        try:
            return await _in_thread(lambda: reading.run(lambda: self._ask(lambda api: work(api, reading))), limiter)
        finally:
            reading.close()

    async def _call(self, work: Callable[[APIClient], T]) -> T:
        try:
            answer = await self._call_bounded(work)
        except EngineUnavailableError as exc:
            self._lose(str(exc))
            raise
        except EngineRefusedError:
            self._regain()
            raise
        self._regain()
        return answer

    async def _call_bounded(self, work: Callable[[APIClient], T]) -> T:
        self._let_go &= self._running
        if len(self._let_go) >= CALLS:
            raise EngineUnavailableError(hung(self._url))
        ticket = object()
        with trio.move_on_after(CALL_LIMIT):
            try:
                return await _in_thread(partial(self._ask_noted, ticket, work), self._calls)
            finally:
                self._let_go.add(ticket)  # counts for as long as its thread runs, which is mostly over
        raise EngineUnavailableError(hung(self._url))

    def _ask_noted(self, ticket: object, work: Callable[[APIClient], T]) -> T:
        self._running.add(ticket)
        try:
            return self._ask(work)
        finally:
            self._running.discard(ticket)

    def _ask(self, work: Callable[[APIClient], T]) -> T:
        """Run ``work`` in this thread, and translate what it raises."""
        try:
            with translated(lambda: self._url):
                return work(self._client())
        except EngineUnavailableError:
            self._client_at = None  # another engine may be there the next time, of another version
            raise

    def _list(self, api: APIClient) -> tuple[Listed, ...]:
        found = api.containers(all=True, filters={"label": [self._label]})
        return tuple(Listed(id=one["Id"], state=one["State"], labels=one.get("Labels") or {}) for one in found)

    def _client(self) -> APIClient:
        address = find_engine(self._environment)
        self._url = address.url
        knock(address)
        client = self._client_at
        if client is None or client[0] != address:
            client = self._client_at = (address, connect(address))
        return client[1]

    def _lose(self, trouble: str) -> None:
        if not self._trouble:
            self._up = trio.Event()
        self._trouble = trouble

    def _regain(self) -> None:
        if self._trouble:
            self._trouble = ""
            self._up.set()

    # Watching.

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look at the engine once a period and listen to it, until cancelled."""
        self._serving = True
        try:
            async with trio.open_nursery() as tasks:
                tasks.start_soon(self._look_often)
                tasks.start_soon(self._listen_often)
                task_status.started()
        finally:
            self._serving = False

    async def _look_often(self) -> None:
        while True:
            self._look_due = trio.Event()
            with suppress(EngineUnavailableError, EngineRefusedError):
                await self._look()
            with trio.move_on_after(PERIOD):
                await self._look_due.wait()

    async def _look(self) -> None:
        self._listing = await self._call(self._list)
        self._listed.set()
        self._listed = trio.Event()
        states = {listed.id: listed.state for listed in self._listing}
        for watch in self._watches:
            watch.compare(states.get(watch.container_id, ""))

    async def _listen_often(self) -> None:
        limiter = trio.CapacityLimiter(1)
        while True:
            await self.wait_up()
            with suppress(EngineUnavailableError, EngineRefusedError):
                await self.read(partial(self._listen, trio.lowlevel.current_trio_token()), limiter)
            # What happens until the next stream is open can only be seen by looking.
            self.look_again()
            await trio.sleep(RELISTEN)

    def _listen(self, token: trio.lowlevel.TrioToken, api: APIClient, reading: Reading) -> None:
        filters = {"type": "container", "event": list(HEARD), "label": [self._label]}
        events = api.events(filters=filters, decode=True)
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(self.look_again)
            for event in reading.items(events):
                token.run_sync_soon(self._hear, event)

    def _hear(self, event: Mapping[str, Any]) -> None:
        for watch in self._watches:
            if watch.container_id == event["Actor"]["ID"]:
                watch.hear(event)


async def _in_thread(work: Callable[[], T], limiter: trio.CapacityLimiter) -> T:
    try:
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=limiter)
    except RuntimeError as exc:
        if "new thread" not in str(exc):
            raise
        raise EngineUnavailableError("the Docker Engine cannot be asked: no thread can be started") from exc
