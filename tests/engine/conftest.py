"""The stack under test: a real supervisor over a fake world, for tests on a clock that jumps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import trio

from stigmerd.core.spec import ComponentSpec
from stigmerd.engine.board import View
from stigmerd.engine.supervisor import Supervisor
from tests.engine.fakes import FakeWorld

Supervise = Callable[..., AbstractAsyncContextManager[Supervisor]]


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


@pytest.fixture
def supervise(world: FakeWorld) -> Supervise:
    """``async with supervise(spec, ...) as supervisor``: all components added, none started."""

    @asynccontextmanager
    async def run(*specs: ComponentSpec, restored: Mapping[str, View] | None = None) -> AsyncIterator[Supervisor]:
        supervisor = Supervisor({spec.name: spec for spec in specs}, world.world, restored or {})
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            yield supervisor
            nursery.cancel_scope.cancel()

    return run
