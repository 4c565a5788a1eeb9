"""What a supervisor makes of the state and the history of one that died before."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from stigmerd.core.event import Entry
from stigmerd.core.exit_status import ExitStatus
from stigmerd.core.lifecycle import FailedBecause, Phase, State
from stigmerd.core.record import ComponentRecord, Identity
from stigmerd.core.restart import RestartHistory
from stigmerd.core.spec import RestartPolicy, RestartWhen
from stigmerd.core.status import ExitDocument
from stigmerd.engine.board import View
from stigmerd.engine.component import SURVIVORS_GONE
from stigmerd.engine.operations import Answer
from stigmerd.engine.restore import (
    DIED_IN_SPAWN,
    RECORDED,
    is_to_return,
    restored_view,
    to_record,
    untold_end,
)
from tests.engine.conftest import Supervise
from tests.engine.fakes import BOOT_ID, FakeLife, FakeWorld, Program, component

T = TypeVar("T")

LIFE = Identity(nonce="3-abc", boot_id=BOOT_ID, pid=4711, start_ticks=1)
INTENT = Identity(nonce="3-abc", boot_id=BOOT_ID)


def left(phase: Phase, identity: Identity = LIFE) -> View:
    """A component as an earlier daemon left it, in its third life."""
    return View(spec=component(), log="/log", state=State(phase=phase, wanted=True, life=3), identity=identity)


def told(world: FakeWorld, *events: str, **details: object) -> None:
    """What the earlier daemon still wrote about that life."""
    for event in events:
        seq = world.events.last_seq + 1
        world.events.append(Entry(seq=seq, at="then", component="web", life=3, event=event, details=details))


class StoppedClock:
    """It is the beginning of all times."""

    def wall(self) -> float:
        return 0.0

    def boot(self) -> float:
        return 0.0


def test_record_of_a_component_with_a_huge_budget_does_not_grow_with_its_restarts() -> None:
    counted = tuple(float(at) for at in range(10_000))
    view = left(Phase.RUNNING)
    view = replace(view, state=replace(view.state, history=RestartHistory(counted=counted)))
    record = to_record(view, "digest", now=10_000.0, clock=StoppedClock())
    assert len(record.counted_boot) == RECORDED
    restored = restored_view(record, component(), "/log", now=0.0, boot=0.0)
    assert restored.state.history.counted[-1] == counted[-1] - 10_000.0


async def test_exit_that_the_last_daemon_told_is_believed_and_not_told_again(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    told(world, "exited", code=78)
    async with supervise(component(), restored={"web": left(Phase.RUNNING)}) as supervisor:
        await supervisor.wait_proven()
        view = supervisor.component("web").view
        assert view.phase is Phase.FAILED
        assert view.last_exit is not None
        assert (view.last_exit.code, view.last_exit.at) == (78, "then")
    assert world.events.of("web").count("exited") == 1


async def test_life_that_no_identity_is_known_of_has_ended_and_is_restarted(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    for phase in (Phase.STARTING, Phase.RUNNING, Phase.CONDEMNED, Phase.STOPPING, Phase.SPAWNING):
        told(world, "starting")
        view = replace(left(phase), identity=None)
        async with supervise(component(), restored={"web": view}) as supervisor:
            await supervisor.wait_proven()
            view = supervisor.component("web").view
            assert view.phase in {Phase.BACKOFF, Phase.WAITING, Phase.SPAWNING}, f"from {phase}"
        assert world.events.of("web").count("exited") == 1
        world.events.entries.clear()


async def test_exit_of_a_life_before_says_nothing_about_this_one(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.events.append(Entry(seq=1, at="then", component="web", life=2, event="exited", details={"code": 78}))
    async with supervise(component(), restored={"web": left(Phase.RUNNING)}) as supervisor:
        await supervisor.wait_proven()
        assert supervisor.component("web").view.phase is Phase.BACKOFF
    assert world.events.of("web").count("exited") == 2


async def test_spawn_that_the_daemon_did_not_outlive_is_a_failed_start(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    before = replace(left(Phase.SPAWNING, INTENT), last_error="exited with code 3", last_exit=ExitDocument(code=3))
    async with supervise(component(), restored={"web": before}) as supervisor:
        await supervisor.wait_proven()
        view = supervisor.component("web").view
    assert world.events.of("web") == ["start_failed", "restarting"]
    assert world.events.entries[-1].reason == "spawn"
    assert (view.last_error, view.last_exit) == (DIED_IN_SPAWN, None)


async def test_spawn_that_was_told_and_ended_as_a_stray_has_its_exit(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    told(world, "starting", "running")
    async with supervise(component(), restored={"web": left(Phase.SPAWNING, INTENT)}) as supervisor:
        await supervisor.wait_proven()
    assert world.events.of("web") == ["starting", "running", "exited", "restarting"]


async def test_work_that_was_done_before_the_spawn_was_in_the_state_is_complete(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    told(world, "starting", "running")
    told(world, "exited", code=0)
    spec = component(restart=RestartPolicy(when=RestartWhen.ON_FAILURE))
    before = replace(left(Phase.SPAWNING, INTENT), spec=spec)
    async with supervise(spec, restored={"web": before}) as supervisor:
        await supervisor.wait_proven()
        assert supervisor.component("web").view.phase is Phase.COMPLETED


async def test_life_that_is_found_dead_was_not_killed(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    zombie = FakeLife(Program(), LIFE)
    zombie.exit(ExitStatus(code=3))
    world.launcher.adoptable[LIFE.nonce] = zombie
    async with supervise(component(), restored={"web": left(Phase.RUNNING)}) as supervisor:
        await supervisor.wait_proven()
        assert supervisor.component("web").view.last_error == "exited with code 3"
    assert world.events.of("web") == ["exited", "restarting"]
    assert zombie.released


async def test_end_that_was_under_way_goes_on_for_the_reason_it_had(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    told(world, "starting", "running")
    told(world, "unhealthy", probe="liveness", evidence="liveness probe failed 3 times: refused")
    world.launcher.adoptable[LIFE.nonce] = FakeLife(Program(), LIFE)
    before = replace(left(Phase.CONDEMNED), note="liveness probe failed 3 times: refused")
    async with supervise(component(), restored={"web": before}) as supervisor:
        await supervisor.wait_proven()
        assert supervisor.component("web").view.note == before.note
        await supervisor.board.wait_view("web", lambda view: view.phase is Phase.BACKOFF)
    assert world.events.of("web")[3:] == ["adopted", "exited", "restarting"]
    assert world.events.entries[-1].reason == "liveness_probe"


async def test_stop_that_was_under_way_stays_the_operators(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.events.append(Entry(seq=1, at="then", component="web", life=3, event="stopping", reason="operator"))
    world.launcher.adoptable[LIFE.nonce] = FakeLife(Program(), LIFE)
    stopping = left(Phase.STOPPING)
    before = replace(stopping, state=replace(stopping.state, wanted=False))
    async with supervise(component(), restored={"web": before}) as supervisor:
        await supervisor.board.wait_view("web", lambda view: view.phase is Phase.DOWN)
    assert world.events.entries[-1].reason == "operator"


async def test_stop_that_comes_as_soon_as_a_dead_life_is_to_be_replaced_is_a_stop(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    specs = [component(f"web{number}") for number in range(20)]  # whose task runs first is a matter of chance
    restored = {spec.name: replace(left(Phase.STOPPING), spec=spec) for spec in specs}
    async with supervise(*specs, restored=restored) as supervisor:
        answers = await supervisor.stop(restored, "operator")
        assert {answer.state for answer in answers} == {"stopped"}
    assert "failed" not in {entry.event for entry in world.events.entries}


async def test_what_could_not_be_killed_and_is_gone_can_be_started_again(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    view = left(Phase.FAILED)
    view = replace(view, note="cannot be killed: pid 4711", survivors=(4711,))
    view = replace(view, state=replace(view.state, failed_because=FailedBecause.UNKILLABLE))
    async with supervise(component(), restored={"web": view}) as supervisor:
        await supervisor.wait_proven()
        assert supervisor.component("web").view.note == SURVIVORS_GONE
        (answer,) = await supervisor.start(["web"], "operator")
        assert answer.ok


def long_begun(**state: object) -> View:
    """A component whose life began a while before its daemon died, after three failures in a row."""
    view = left(Phase.RUNNING)
    history = RestartHistory(streak=3, delay=4.0)
    return replace(view, state=replace(view.state, spawned_at=trio.current_time() - 100, history=history, **state))


async def test_life_that_ended_without_a_daemon_lasted_nobody_knows_how_long(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    async with supervise(component(), restored={"web": long_begun()}) as supervisor:
        view = await supervisor.board.wait_view("web", lambda v: v.phase is Phase.BACKOFF)
    (exited,) = (entry for entry in world.events.entries if entry.event == "exited")
    assert exited.details["uptime"] is None
    assert view.state.history.delay == 8.0  # the next after three, as it did not prove to have lasted


async def test_trial_that_ended_without_a_daemon_has_failed(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    policy = RestartPolicy(recovery=1000.0)
    restored = {"web": replace(long_begun(trial=True), spec=component(restart=policy))}
    async with supervise(component(restart=policy), restored=restored) as supervisor:
        view = await supervisor.board.wait_view("web", lambda v: not v.state.has_life)
    assert (view.phase, view.state.failed_because) == (Phase.FAILED, FailedBecause.TRIAL)


async def test_life_whose_end_the_last_daemon_wrote_down_lasted_as_long_as_that_says(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    told(world, "exited", code=1, uptime=99.0)
    async with supervise(component(), restored={"web": long_begun()}) as supervisor:
        view = await supervisor.board.wait_view("web", lambda v: v.state.life == 4)
    assert view.state.history.delay == 1.0


def returning(world: FakeWorld) -> list[str]:
    """Who would come up again if the daemon died now, though it is down."""
    return [name for name, record in world.state.records.items() if is_to_return(record)]


async def test_daemon_that_dies_in_a_shutdown_leaves_nothing_stopped_but_what_was_stopped_by_hand(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    async with supervise(component("by-hand"), component("web"), component("never", enabled=False)) as supervisor:
        await supervisor.start(["web", "by-hand"], "operator")
        await supervisor.stop(["by-hand"], "operator")
        await supervisor.close()
        assert returning(world) == ["web"]


async def test_daemon_that_dies_in_a_shutdown_leaves_what_had_no_life_as_it_was(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    ends = {"failed": 1, "completed": 0, "restarting": 1}
    policies = {
        "failed": RestartPolicy(when=RestartWhen.NEVER),
        "completed": RestartPolicy(when=RestartWhen.ON_FAILURE),
        "restarting": RestartPolicy(initial_backoff=60.0),
    }
    for name, code in ends.items():
        world.launcher.programs[name] = Program(lives_for=1.0, status=ExitStatus(code=code))
    world.launcher.programs["slow"] = Program(dies_after=5.0)
    specs = [component(name, restart=policy) for name, policy in policies.items()]
    async with supervise(component("slow"), *specs) as supervisor, trio.open_nursery() as nursery:
        await supervisor.begin(["slow", *ends], None)
        await trio.sleep(2)
        nursery.start_soon(supervisor.close)
        await trio.sleep(1)
        assert {view.shown for view in map(supervisor.board.view, ends)} == {"stopped"}
        assert {name: Phase[world.state.records[name].phase].value for name in ends} == {name: name for name in ends}
        await supervisor.board.wait_view("slow", lambda view: view.phase is Phase.DOWN)
        supervisor.remember_rest()
        assert {world.state.records[name].phase for name in ends} == {"DOWN"}


async def test_daemon_that_dies_in_a_restart_of_several_starts_them_the_next_time(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    seen: list[list[str]] = []
    world.launcher.programs["slow"] = Program(dies_after=5.0)
    async with supervise(component("web"), component("slow")) as supervisor, trio.open_nursery() as nursery:
        await supervisor.start(["web", "slow"], "operator")
        nursery.start_soon(supervisor.restart, ["web", "slow"], "operator")
        await supervisor.board.wait_view("web", lambda view: view.phase is Phase.DOWN)
        await trio.sleep(1)
        seen.append(returning(world))
        await supervisor.board.wait_view("web", lambda view: view.phase is Phase.RUNNING)
        seen.append(returning(world))
    assert seen == [["web"], []]


async def test_what_starts_afresh_is_started_also_by_the_next_daemon_if_this_one_dies_before(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    async with supervise(component("web"), component("never", enabled=False)) as supervisor:
        await supervisor.start(["web", "never"], "operator")
        await supervisor.stop(["web", "never"], "operator")
    async with supervise(component("web"), component("never", enabled=False)):
        assert returning(world) == ["web"]


async def test_component_that_was_never_started_is_remembered_all_the_same(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    async with supervise(component("web"), component("never", enabled=False)):
        assert [(name, record.life) for name, record in world.state.records.items()] == [("web", 0), ("never", 0)]


@pytest.mark.parametrize(
    ("phase", "identity", "told", "end"),
    [
        (Phase.RUNNING, LIFE, {"starting"}, "exited"),
        (Phase.RUNNING, LIFE, {"starting", "exited"}, None),
        (Phase.RUNNING, LIFE, set(), "exited"),  # the begin is in no file any more
        (Phase.FAILED, LIFE, set(), None),
        (Phase.STOPPING, INTENT, set(), "start_failed"),
        (Phase.STOPPING, INTENT, {"starting"}, "exited"),
        (Phase.SPAWNING, INTENT, {"start_failed"}, None),
    ],
)
async def test_life_that_nobody_goes_on_with_has_one_end(
    world: FakeWorld, phase: Phase, identity: Identity, told: set[str], end: str | None
) -> None:
    assert untold_end(to_record(left(phase, identity), "", 0.0, world.clock), told) == end


async def test_what_is_to_return_stays_so_until_it_is_started(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    async with supervise(component()) as supervisor:
        await supervisor.start(["web"], "operator")
        await supervisor.close()
        record: ComponentRecord = world.state.records["web"]
    view = restored_view(record, component(), "/log", 0.0, 0.0)
    assert (view.phase, view.state.wanted, view.returns) == (Phase.DOWN, False, True)


async def test_stop_now_ends_a_spawn_that_is_under_way_rather_than_giving_it_up(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.launcher.programs["web"] = Program(spawn_takes=0.5)
    answers: list[Answer] = []
    async with supervise(component()) as supervisor:
        await supervisor.begin(["web"], None)
        answers.extend(await supervisor.stop(["web"], "operator", 0.0))
    assert [answer.ok for answer in answers] == [True]
    assert not world.launcher.last("web").is_alive()
    assert "start_failed" not in world.events.of("web")


async def test_history_that_takes_long_to_read_holds_up_only_whose_end_may_be_in_it(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    async def look_for_long(look: Callable[[], T]) -> T:
        await trio.sleep(5)
        return look()

    told(world, "exited", code=0)
    world.world = dataclasses.replace(world.world, look=look_for_long)
    restored = {"web": left(Phase.RUNNING)}
    began = trio.current_time()
    async with supervise(component(), component("other"), restored=restored) as supervisor:
        (answer,) = await supervisor.start(["other"], "operator")
        assert (answer.ok, trio.current_time() - began < 1) == (True, True)
        await supervisor.wait_proven()
        assert trio.current_time() - began == 5
        assert supervisor.component("web").view.last_exit == ExitDocument(code=0, at="then")
