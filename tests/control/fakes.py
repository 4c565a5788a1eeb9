"""A daemon's operations without a daemon, and a peer that says what it likes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import trio
from trio_util import AsyncValue

from stigmerd.control.endpoint import open_folder, socket_address
from stigmerd.core.event import Entry
from stigmerd.core.order import Change
from stigmerd.core.status import DaemonDocument, StatusDocument
from stigmerd.engine.journal import Feed
from stigmerd.engine.operations import Answer, Refusal, RefusedError


class FakeOperations:
    """Carries out nothing, notes what was asked, and knows one component, ``web``.

    ``work`` is awaited by every operation that takes time; set from the start, so that none does.
    ``called`` and ``subscribed`` count the calls so far, and the event subscribers there are now.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, object]] = []
        self.called = AsyncValue(0)
        self.subscribed = AsyncValue(0)
        self.ended: list[str] = []
        self.work = trio.Event()
        self.work.set()
        self.version = 1
        self.changed = trio.Event()
        self.feeds: list[Feed] = []
        self.history: list[Entry] = []
        self.is_hung = False
        self.status_takes = 0.0

    async def status(self, names: Sequence[str] = (), *, verbose: bool = False) -> StatusDocument:
        self._note("status", names=tuple(names), verbose=verbose)
        await trio.sleep(self.status_takes)
        daemon = DaemonDocument(
            pid=1, version="9", protocol=1, started_at="", uptime=float(self.version), home="/h", config=None
        )
        return StatusDocument(daemon=daemon, healthy=True)

    async def start(self, names: Sequence[str] = (), *, timeout: float | None = None) -> tuple[Answer, ...]:
        return await self._work("start", names, timeout=timeout)

    async def stop(
        self, names: Sequence[str] = (), *, timeout: float | None = None, now: bool = False
    ) -> tuple[Answer, ...]:
        return await self._work("stop", names, timeout=timeout, now=now)

    async def restart(
        self, names: Sequence[str] = (), *, timeout: float | None = None, now: bool = False
    ) -> tuple[Answer, ...]:
        return await self._work("restart", names, timeout=timeout, now=now)

    async def signal(self, names: Sequence[str], signal: str) -> tuple[Answer, ...]:
        return await self._work("signal", names, signal=signal)

    async def reload(self, *, dry_run: bool = False) -> Change:
        self._note("reload", dry_run=dry_run)
        return Change(added=("web",))

    async def explain(self, name: str) -> dict[str, Any]:
        if name == "buggy":
            raise ZeroDivisionError("a bug")
        self._check([name])
        return {"name": name, "text": "a lone \ud800 surrogate\u2028"}

    async def shutdown(self, *, timeout: float | None = None, now: bool = False) -> tuple[Answer, ...]:
        return await self._work("shutdown", (), timeout=timeout, now=now)

    async def reexec(self) -> None:
        self._note("reexec")

    @contextmanager
    def watch_events(self, since: int | None, names: Sequence[str] = ()) -> Iterator[Feed]:
        self._check(names)
        backlog = [entry for entry in self.history if since is not None and entry.seq > since]

        async def read() -> list[Entry]:
            await self.work.wait()
            if self.is_hung:
                raise RefusedError(Refusal.FAILED, "the event history does not answer")
            return backlog

        feed = Feed(frozenset(names), read if since is not None else None)
        self.feeds.append(feed)
        self.subscribed.value += 1
        try:
            yield feed
        finally:
            self.feeds.remove(feed)
            self.subscribed.value -= 1

    async def wait_status_change(self, seen: int) -> int:
        while self.version == seen:
            await self.changed.wait()
        return self.version

    def change_status(self) -> None:
        """Make the status another one."""
        self.version += 1
        self.changed.set()
        self.changed = trio.Event()

    def record(self, message: str = "") -> Entry:
        """Have one more event."""
        entry = Entry(seq=len(self.history) + 1, at="", component="web", life=1, event="running", message=message)
        self.history.append(entry)
        for feed in self.feeds:
            feed.put(entry)
        return entry

    def _note(self, operation: str, **arguments: object) -> None:
        self.calls.append((operation, arguments))
        self.called.value += 1

    def _check(self, names: Sequence[str]) -> None:
        for name in names:
            if name != "web":
                raise RefusedError(Refusal.UNKNOWN_COMPONENT, f"there is no component {name}")

    async def _work(self, operation: str, names: Sequence[str], **arguments: object) -> tuple[Answer, ...]:
        self._note(operation, names=tuple(names), **arguments)
        self._check(names)
        await self.work.wait()
        self.ended.append(operation)
        return (Answer(name="web", state="stopped", ok=False, message="no", survivors=(7,)),)


class Peer:
    """One raw connection to a control socket."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._received = b""

    async def __aenter__(self) -> Peer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await trio.aclose_forcefully(self.stream)

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        await self.stream.send_all(data)

    async def ask(self, method: str, **params: object) -> None:
        """Send one well-formed request, with 1 as its id."""
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        await self.send(json.dumps(request).encode() + b"\n")

    async def call(self, method: str, **params: object) -> dict[str, Any]:
        """Send one well-formed request, and return what is said next."""
        await self.ask(method, **params)
        message = await self.receive()
        assert message is not None
        return message

    async def receive(self) -> dict[str, Any] | None:
        """The next line, decoded as strictly as any client might; None at the end."""
        while b"\n" not in self._received:
            try:
                data = await self.stream.receive_some()
            except trio.BrokenResourceError:
                data = b""
            if not data:
                assert self._received == b"", "the last line is whole"
                return None
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        message = json.loads(line.decode("utf-8"))
        assert message["jsonrpc"] == "2.0"
        assert isinstance(message, dict)
        return message

    async def receive_all(self) -> list[dict[str, Any]]:
        """Every line until the end."""
        messages = []
        while (message := await self.receive()) is not None:
            messages.append(message)
        return messages


def new_socket() -> trio.socket.SocketType:
    """A socket that is to be a peer's."""
    return trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)


async def connect_peer(run_dir: str, unconnected: trio.socket.SocketType | None = None) -> Peer:
    """Connect to the control socket in a folder."""
    folder = open_folder(run_dir)
    try:
        return await connect_in(folder, run_dir, unconnected or new_socket())
    finally:
        os.close(folder)


async def connect_in(folder: int, run_dir: str, unconnected: trio.socket.SocketType) -> Peer:
    """Connect to the control socket in an open folder, with no more descriptors than are given."""
    with socket_address(folder, run_dir) as address:
        while True:
            try:
                await unconnected.connect(address)
                return Peer(trio.SocketStream(unconnected))
            except BlockingIOError:  # as many as may wait do so already
                await trio.sleep(0.005)
            except OSError:
                unconnected.close()
                raise
