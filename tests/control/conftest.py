"""A control server on a socket of its own, around fake operations."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest
import trio

from stigmerd.control.handlers import Hello
from stigmerd.control.limits import LIMITS, Limits
from stigmerd.control.server import ControlServer
from tests.control.fakes import FakeOperations, Peer, connect_peer


@dataclass
class Served:
    """A running control server, and what it told an operator."""

    home: Path
    server: ControlServer
    operations: FakeOperations
    problems: list[tuple[str, BaseException | None]] = field(default_factory=list)

    @property
    def run_dir(self) -> str:
        """The folder of its socket."""
        return str(self.home / "run")

    async def connect(self) -> Peer:
        """One more peer."""
        return await connect_peer(self.run_dir)


class Serve(Protocol):
    """How a test has a server."""

    def __call__(
        self, limits: Limits = LIMITS, listener: socket.socket | None = None, home: Path | None = None
    ) -> AbstractAsyncContextManager[Served]: ...


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Serve on ``tmp_path/run``, or that of another home, within a block."""

    @asynccontextmanager
    async def serve_within(
        limits: Limits = LIMITS, listener: socket.socket | None = None, home: Path | None = None
    ) -> AsyncIterator[Served]:
        home = home or tmp_path
        operations = FakeOperations()
        problems: list[tuple[str, BaseException | None]] = []

        def on_problem(message: str, error: BaseException | None = None) -> None:
            problems.append((message, error))

        server = ControlServer(
            str(home / "run"),
            Hello(version="1.2.3", pid=4711),
            on_problem=on_problem,
            listener=listener,
            limits=limits,
        )
        with server:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.serve, operations)
                yield Served(home, server, operations, problems)
                nursery.cancel_scope.cancel()

    return serve_within
