"""What is due in one instant: spread, and probe attempts also bounded, and none of them late for that."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from stigmerd.core.health import Outcome
from stigmerd.core.lifecycle import Phase
from stigmerd.core.spec import ProbeSpec, ProcessHandler, RestartPolicy, RestartWhen
from stigmerd.engine.turns import PLACES, Turns
from tests.engine.conftest import Supervise
from tests.engine.fakes import FakeWorld, component


class _Passes(trio.abc.Instrument):
    """Counts the passes of the loop."""

    count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


async def test_attempts_of_one_instant_begin_one_in_each_pass_of_the_loop() -> None:
    turns, passes, begun = Turns(), _Passes(), list[int]()

    async def attempt() -> None:
        async with turns.turn("tcp"):
            begun.append(passes.count)

    trio.lowlevel.add_instrument(passes)
    async with trio.open_nursery() as attempts:
        for _ in range(20):
            attempts.start_soon(attempt)
    trio.lowlevel.remove_instrument(passes)
    assert len(begun) == len(set(begun)) == 20


async def test_stops_of_one_instant_begin_one_in_each_pass_of_the_loop(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    passes, stopping = _Passes(), list[int]()
    names = [f"web-{number}" for number in range(20)]
    async with supervise(*(component(name) for name in names)) as supervisor:

        async def watch(name: str) -> None:
            await supervisor.board.wait_view(name, lambda v: v.phase is Phase.STOPPING)
            stopping.append(passes.count)

        await supervisor.start(names, "operator")
        trio.lowlevel.add_instrument(passes)
        async with trio.open_nursery() as watchers:
            for name in names:
                watchers.start_soon(watch, name)
            await trio.testing.wait_all_tasks_blocked()
            await supervisor.stop(names, "operator")
        trio.lowlevel.remove_instrument(passes)
    assert len(stopping) == len(set(stopping)) == 20


async def test_kind_that_hangs_takes_its_own_places_and_no_others(autojump_clock: MockClock) -> None:
    turns, hanging = Turns(), list[int]()

    async def hang(number: int) -> None:
        async with turns.turn("container"):
            hanging.append(number)
            await trio.sleep_forever()

    async with trio.open_nursery() as attempts:
        for number in range(2 * PLACES):
            attempts.start_soon(hang, number)
        await trio.testing.wait_all_tasks_blocked()
        assert len(hanging) == PLACES
        async with turns.turn("tcp"):
            attempts.cancel_scope.cancel()


async def test_attempt_that_waited_for_its_turn_is_no_late_one(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    names = [f"web-{number}" for number in range(3 * PLACES)]
    startup = ProbeSpec(handler=ProcessHandler(), period=10.0, failure_threshold=1)
    for name in names:
        world.probes.takes[name] = 0.9
        world.probes.answers[name] = Outcome(passed=False)
    policy = RestartPolicy(when=RestartWhen.NEVER)
    async with supervise(*(component(name, startup=startup, restart=policy) for name in names)) as supervisor:
        began = trio.current_time()
        await supervisor.begin(names, None)
        for name in names:
            await supervisor.board.wait_view(name, lambda v: v.phase is Phase.FAILED)
        # The first attempt of each counted, though the last of them began 1.8 s after it was due.
        assert trio.current_time() - began == pytest.approx(3 * 0.9)
