"""The rules of supervision, over a fake world under a clock that jumps."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import NoReturn

import pytest
import trio
from trio.testing import MockClock

from stigmerd.core.exit_status import ExitStatus
from stigmerd.core.health import Outcome, Verdict
from stigmerd.core.lifecycle import Phase
from stigmerd.core.spec import (
    ComponentSpec,
    Condition,
    ProbeSpec,
    ProcessHandler,
    ProcessSpec,
    RestartPolicy,
    RestartWhen,
    StopPolicy,
    TcpHandler,
)
from stigmerd.engine.board import View
from stigmerd.engine.operations import Answer
from stigmerd.engine.ports import LaunchOrder, Shut
from stigmerd.engine.supervisor import Supervisor
from tests.engine.conftest import Supervise
from tests.engine.fakes import FakeLife, FakeProbe, FakeProbes, FakeWorld, Program, component


def probe(**changes: object) -> ProbeSpec:
    defaults = {"handler": ProcessHandler(), "period": 1.0, "failure_threshold": 3}
    return ProbeSpec(**{**defaults, **changes})  # type: ignore[arg-type]


async def test_instant_crasher_starts_eleven_times_and_is_failed(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.launcher.programs["web"] = Program(lives_for=0.0)
    async with supervise(component()) as supervisor:
        began = trio.current_time()
        await supervisor.begin(["web"], None)
        view = await supervisor.board.wait_view("web", lambda v: v.phase is Phase.FAILED)
    starts = [round(at - began) for at in world.launcher.starts("web")]
    assert starts == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243, 303]
    assert view.state.restarts == 10
    assert "10 restarts within 600 s" in view.note
    assert world.events.of("web").count("exited") == 11


async def test_backoff_counts_from_the_exit_however_long_the_rest_takes_to_die(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.launcher.programs["web"] = Program(lives_for=5.0, child_outlives=None, kill_takes=0.4)
    async with supervise(component()) as supervisor:
        await supervisor.begin(["web"], None)
        await trio.sleep(14)
    starts = world.launcher.starts("web")
    assert [round(b - a, 3) for a, b in pairwise(starts)] == [6.0, 7.0]


async def test_dead_component_is_not_shown_as_running_while_the_rest_of_it_is_ended(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.launcher.programs["web"] = Program(lives_for=5.0, child_outlives=None, kill_takes=0.4)
    async with supervise(component()) as supervisor:
        await supervisor.begin(["web"], None)
        view = await supervisor.board.wait_view("web", lambda v: v.last_exit is not None)
        shown = view.to_document(trio.current_time(), 0.0)
        assert (shown.state, shown.healthy, shown.ready, shown.pid) == ("stopping", False, False, None)
        await supervisor.board.wait_view("web", lambda v: v.phase is Phase.BACKOFF)
    assert "unready" not in world.events.of("web")


async def test_long_life_resets_the_backoff(supervise: Supervise, world: FakeWorld, autojump_clock: MockClock) -> None:
    world.launcher.programs["web"] = Program(lives_for=10.0)
    async with supervise(component()) as supervisor:
        await supervisor.begin(["web"], None)
        await trio.sleep(50)
    starts = world.launcher.starts("web")
    assert [round(b - a, 3) for a, b in pairwise(starts)] == [11.0] * 4


async def test_success_completes_under_on_failure(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.launcher.programs["web"] = Program(lives_for=1.0, status=ExitStatus(code=0))
    spec = component(restart=RestartPolicy(when=RestartWhen.ON_FAILURE))
    async with supervise(spec) as supervisor:
        (answer,) = await supervisor.start(["web"], "operator")
        await supervisor.board.wait_view("web", lambda v: v.phase is Phase.COMPLETED)
    assert answer.ok
    assert world.events.of("web") == ["starting", "running", "ready", "exited", "completed"]


async def test_fatal_exit_is_failed_at_once(supervise: Supervise, world: FakeWorld, autojump_clock: MockClock) -> None:
    world.launcher.programs["web"] = Program(lives_for=1.0, status=ExitStatus(code=78))
    async with supervise(component(restart=RestartPolicy(recovery=5.0))) as supervisor:
        await supervisor.begin(["web"], None)
        await supervisor.board.wait_view("web", lambda v: v.phase is Phase.FAILED)
        await trio.sleep(100)
    assert len(world.launcher.starts("web")) == 1


async def test_trial_that_lives_long_enough_empties_the_window(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.launcher.programs["web"] = Program(lives_for=0.0)
    policy = RestartPolicy(max_restarts=1, recovery=30.0)
    async with supervise(component(restart=policy)) as supervisor:
        await supervisor.begin(["web"], None)
        await supervisor.board.wait_view("web", lambda v: v.phase is Phase.FAILED)
        failed_at = trio.current_time()
        world.launcher.programs["web"] = Program()
        view = await supervisor.board.wait_view("web", lambda v: v.phase is Phase.RUNNING and not v.state.trial)
        assert trio.current_time() - failed_at == pytest.approx(40.0)
        assert view.state.history.counted == ()


async def test_trial_that_dies_is_failed_and_waits_anew(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.launcher.programs["web"] = Program(lives_for=0.0)
    policy = RestartPolicy(max_restarts=0, recovery=30.0)
    async with supervise(component(restart=policy)) as supervisor:
        began = trio.current_time()
        await supervisor.begin(["web"], None)
        await trio.sleep(100)
    assert [round(at - began) for at in world.launcher.starts("web")] == [0, 30, 60, 90]


async def test_failed_spawn_is_an_attempt_without_an_exit(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.launcher.programs["web"] = Program(spawn_error="/opt/web: No such file or directory")
    async with supervise(component()) as supervisor:
        (answer,) = await supervisor.start(["web"], "operator", timeout=2.0)
        view = supervisor.component("web").view
    assert not answer.ok
    assert "/opt/web: No such file or directory" in (view.last_error or "")
    assert view.state.life == 2
    assert "exited" not in world.events.of("web")
    assert world.events.of("web")[:2] == ["start_failed", "restarting"]


async def test_spawn_that_hangs_is_given_up_after_ten_seconds(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.launcher.programs["web"] = Program(spawn_takes=math.inf)
    async with supervise(component()) as supervisor:
        began = trio.current_time()
        await supervisor.begin(["web"], None)
        await supervisor.board.wait_view("web", lambda v: v.phase is Phase.BACKOFF)
        assert trio.current_time() - began == pytest.approx(10.0)


async def test_stop_while_spawning_ends_stopped_with_no_process(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.launcher.programs["web"] = Program(spawn_takes=3.0)
    async with supervise(component()) as supervisor:
        await supervisor.begin(["web"], None)
        (answer,) = await supervisor.stop(["web"], "operator")
        assert answer.ok
        assert supervisor.component("web").view.phase is Phase.DOWN
        assert not world.launcher.last("web").is_alive()


async def test_stop_while_a_spawn_hangs_is_bounded_by_the_grace(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.launcher.programs["web"] = Program(spawn_takes=math.inf)
    async with supervise(component(stop=StopPolicy(grace=2.0))) as supervisor:
        await supervisor.begin(["web"], None)
        began = trio.current_time()
        (answer,) = await supervisor.stop(["web"], "operator")
        assert answer.ok
        assert trio.current_time() - began <= 2.5


async def test_stop_in_backoff_stays_stopped(supervise: Supervise, world: FakeWorld, autojump_clock: MockClock) -> None:
    world.launcher.programs["web"] = Program(lives_for=0.0)
    async with supervise(component()) as supervisor:
        await supervisor.begin(["web"], None)
        await supervisor.board.wait_view("web", lambda v: v.phase is Phase.BACKOFF)
        (answer,) = await supervisor.stop(["web"], "operator")
        await trio.sleep(100)
        assert answer.ok
        assert supervisor.component("web").view.phase is Phase.DOWN
    assert len(world.launcher.starts("web")) == 1


async def test_process_that_ignores_the_signal_is_killed_after_the_grace(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.launcher.programs["web"] = Program(dies_after=None)
    async with supervise(component(stop=StopPolicy(grace=7.0, pre_stop=("drain",)))) as supervisor:
        await supervisor.start(["web"], "operator")
        began = trio.current_time()
        (answer,) = await supervisor.stop(["web"], "operator")
        assert answer.ok
        assert trio.current_time() - began == pytest.approx(7.0)
    life = world.launcher.last("web")
    assert (life.ran, life.signals) == ([("drain",)], ["SIGTERM"])
    assert world.events.of("web")[-4:] == ["stopping", "killed", "exited", "stopped"]


@pytest.mark.parametrize(("grace", "took"), [(7.0, 5.0), (1.0, 0.5)])
async def test_hook_that_hangs_leaves_some_of_the_grace_to_the_signal(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock, grace: float, took: float
) -> None:
    world.launcher.programs["web"] = Program(hook_takes=math.inf)
    async with supervise(component(stop=StopPolicy(grace=grace, pre_stop=("drain",)))) as supervisor:
        await supervisor.start(["web"], "operator")
        began = trio.current_time()
        (answer,) = await supervisor.stop(["web"], "operator")
        assert answer.ok
        assert trio.current_time() - began == pytest.approx(took)
    assert world.launcher.last("web").signals == ["SIGTERM"]
    assert "killed" not in world.events.of("web")


async def test_second_request_leaves_some_of_the_shorter_grace_to_the_signal_too(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.launcher.programs["web"] = Program(hook_takes=math.inf)
    spec = component(stop=StopPolicy(grace=60.0, pre_stop=("drain",)))
    async with supervise(spec) as supervisor, trio.open_nursery() as nursery:
        await supervisor.start(["web"], "operator")
        began = trio.current_time()
        nursery.start_soon(supervisor.stop, ["web"], "operator")
        await trio.sleep(1.0)
        await supervisor.stop(["web"], "operator", 5.0)
        assert trio.current_time() - began == pytest.approx(4.0)
    assert world.launcher.last("web").signals == ["SIGTERM"]


async def test_second_request_cuts_the_grace(supervise: Supervise, world: FakeWorld, autojump_clock: MockClock) -> None:
    world.launcher.programs["web"] = Program(dies_after=None)
    async with supervise(component(stop=StopPolicy(grace=100.0))) as supervisor, trio.open_nursery() as nursery:
        await supervisor.start(["web"], "operator")
        began = trio.current_time()
        nursery.start_soon(supervisor.close)
        await trio.sleep(1.0)
        await supervisor.hurry()
        await supervisor.board.wait_view("web", lambda v: v.phase is Phase.DOWN)
        assert trio.current_time() - began == pytest.approx(1.0)


async def test_second_request_leaves_the_order_as_it_is(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    for name in ("db", "web"):
        world.launcher.programs[name] = Program(dies_after=None)
    patient = StopPolicy(grace=100.0)
    web = component("web", stop=patient, depends_on={"db": Condition.STARTED})
    async with supervise(component("db", stop=patient), web) as supervisor, trio.open_nursery() as nursery:
        await supervisor.start(["web"], "operator")
        began = trio.current_time()
        nursery.start_soon(supervisor.close)
        await trio.sleep(1.0)
        await supervisor.hurry()
        await supervisor.board.wait_view("db", lambda v: v.phase is Phase.DOWN)
        assert trio.current_time() - began == pytest.approx(1.0)
    ends = [(e.component, e.event) for e in world.events.entries if e.event in {"stopping", "stopped"}]
    assert ends == [("web", "stopping"), ("web", "stopped"), ("db", "stopping"), ("db", "stopped")]


async def test_members_that_outlive_the_leader_have_the_rest_of_the_grace(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.launcher.programs["web"] = Program(dies_after=1.0, child_outlives=3.0)
    async with supervise(component()) as supervisor:
        await supervisor.start(["web"], "operator")
        began = trio.current_time()
        await supervisor.stop(["web"], "operator")
        assert trio.current_time() - began == pytest.approx(4.0)
    assert "killed" not in world.events.of("web")


async def test_unkillable_is_failed_and_blocks_the_next_life_until_it_is_gone(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.launcher.programs["web"] = Program(dies_after=None, child_outlives=None, unkillable=True)
    async with supervise(component(stop=StopPolicy(grace=1.0))) as supervisor:
        await supervisor.start(["web"], "operator")
        began = trio.current_time()
        (answer,) = await supervisor.stop(["web"], "operator")
        pid = world.launcher.last("web").identity.pid
        assert (answer.ok, answer.survivors) == (False, (pid,))
        assert trio.current_time() - began <= 6.0
        view = supervisor.component("web").view
        assert view.phase is Phase.FAILED
        assert str(pid) in view.note
        (late,) = await supervisor.start(["web"], "operator", timeout=5.0)
        assert not late.ok
        assert len(world.launcher.starts("web")) == 1
        (again,) = await supervisor.stop(["web"], "operator")
        assert (again.state, again.survivors) == ("failed", (pid,))
        await supervisor.begin(["web"], "operator")
        world.launcher.last("web").free()
        await supervisor.board.wait_view("web", lambda v: v.phase is Phase.RUNNING)
    assert world.events.of("web").count("exited") == 1


async def test_restart_on_a_machine_too_busy_to_look_at_all_processes_comes_to_its_new_life(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.launcher.programs["web"] = Program(child_outlives=None, kill_takes=20.0, look_takes=20.0)
    async with supervise(component(stop=StopPolicy(grace=0.1))) as supervisor:
        await supervisor.start(["web"], "operator")
        (answer,) = await supervisor.restart(["web"], "operator")
        assert (answer.ok, supervisor.component("web").view.state.life) == (True, 2)
    assert "failed" not in world.events.of("web")


async def test_crash_on_a_machine_too_busy_to_look_at_all_processes_is_followed_by_a_restart(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.launcher.programs["web"] = Program(child_outlives=None, kill_takes=20.0, look_takes=20.0)
    async with supervise(component()) as supervisor:
        await supervisor.start(["web"], "operator")
        world.launcher.last("web").exit(ExitStatus(code=1))
        await supervisor.board.wait_view("web", lambda v: v.state.life == 2)
    assert "failed" not in world.events.of("web")


async def test_liveness_failure_condemns_and_restarts(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    async with supervise(component(liveness=probe())) as supervisor:
        await supervisor.start(["web"], "operator")
        world.probes.answers["web"] = Outcome(passed=False, message="NOT_SERVING")
        view = await supervisor.board.wait_view("web", lambda v: v.phase is Phase.BACKOFF)
        assert view.last_error == "liveness probe failed 3 times: NOT_SERVING"
        world.probes.answers["web"] = Outcome(passed=True)
        view = await supervisor.board.wait_view("web", lambda v: v.phase is Phase.RUNNING)
        assert view.state.restarts == 1
    assert [e.reason for e in world.events.entries if e.event in {"unhealthy", "restarting"}] == ["liveness_probe"] * 2


async def test_look_for_a_stranger_that_takes_long_is_no_fault_of_the_component(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.ports.takes = math.inf
    spec = component(startup=probe(handler=TcpHandler(host="127.0.0.1", port=80), failure_threshold=1))
    async with supervise(spec) as supervisor:
        began = trio.current_time()
        (answer,) = await supervisor.start(["web"], "operator")
        assert answer.ok
        assert trio.current_time() - began < 1.5


async def test_probe_that_hangs_is_a_failure_at_one_second(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.probes.takes["web"] = math.inf
    async with supervise(component(startup=probe(failure_threshold=1))) as supervisor:
        began = trio.current_time()
        await supervisor.begin(["web"], None)
        view = await supervisor.board.wait_view("web", lambda v: v.phase is Phase.CONDEMNED)
        assert trio.current_time() - began == pytest.approx(1.0)
        assert "timed out after 1 s" in (view.last_error or "")


async def test_readiness_changes_ready_and_nothing_else(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    async with supervise(component(readiness=probe())) as supervisor:
        await supervisor.start(["web"], "operator")
        await supervisor.board.wait_view("web", lambda v: v.ready)
        world.probes.answers["web"] = Outcome(passed=False)
        await supervisor.board.wait_view("web", lambda v: not v.ready)
        await trio.sleep(60)
        assert supervisor.component("web").view.phase is Phase.RUNNING
    assert world.events.of("web") == ["starting", "running", "ready", "unready"]


async def test_late_attempts_are_inconclusive(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    async with supervise(component(liveness=probe(failure_threshold=1))) as supervisor:
        await supervisor.start(["web"], "operator")
        await trio.sleep(5)
        world.probes.takes["web"] = 0.5
        world.probes.answers["web"] = Outcome(passed=False)
        world.clock.asleep += 0.0
        view = await supervisor.board.wait_view("web", lambda v: v.phase is Phase.CONDEMNED)
    assert view.phase is Phase.CONDEMNED  # the control: an attempt in time does condemn


async def test_attempt_across_a_sleep_of_the_host_counts_as_nothing(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.probes.takes["web"] = 0.5
    async with supervise(component(liveness=probe(failure_threshold=1))) as supervisor:
        world.probes.answers["web"] = Outcome(passed=False)
        await supervisor.start(["web"], "operator")
        boot = world.clock.boot
        ticks = iter(range(10**6))
        world.clock.boot = lambda: boot() + next(ticks)  # type: ignore[method-assign]
        await trio.sleep(8)
        assert supervisor.component("web").view.phase is Phase.RUNNING


async def test_dependent_waits_for_ready_and_stops_first(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    db = component("db", startup=probe(initial_delay=5.0))
    web = component("web", depends_on={"db": Condition.READY})
    async with supervise(web, db) as supervisor:
        began = trio.current_time()
        await supervisor.begin(["web", "db"], None)
        view = await supervisor.board.wait_view("web", lambda v: v.blocked_by == "db")
        assert view.note == "waiting for db to be ready"
        await supervisor.board.wait_view("web", lambda v: v.phase is Phase.RUNNING)
        assert trio.current_time() - began == pytest.approx(5.0)
        await supervisor.close()
    stopped = [(e.component, e.event) for e in world.events.entries if e.event in {"stopping", "stopped"}]
    assert stopped == [("web", "stopping"), ("web", "stopped"), ("db", "stopping"), ("db", "stopped")]


async def test_start_after_waiting_for_a_dependency_is_not_counted(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    web = component("web", depends_on={"db": Condition.STARTED})
    async with supervise(component("db"), web) as supervisor:
        await supervisor.start(["web"], "operator")
        await supervisor.stop(["db"], "operator")
        world.launcher.last("web").exit(ExitStatus(code=1))
        await supervisor.board.wait_view("web", lambda v: v.phase is Phase.WAITING and v.blocked_by == "db")
        await supervisor.start(["db"], "operator")
        view = await supervisor.board.wait_view("web", lambda v: v.phase is Phase.RUNNING)
        assert (view.state.restarts, view.state.history.counted) == (0, ())


async def test_start_begins_stopped_dependencies_first(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    async with supervise(component("db"), component("web", depends_on={"db": Condition.READY})) as supervisor:
        (answer,) = await supervisor.start(["web"], "operator")
        assert answer.ok
    assert [name for name, _ in world.launcher.launched] == ["db", "web"]


async def test_dependent_that_asks_for_it_is_restarted_with_its_dependency(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    web = component("web", depends_on={"db": Condition.READY}, restart_with_dependency=True)
    bystander = component("cache", depends_on={"db": Condition.READY})
    async with supervise(component("db"), web, bystander) as supervisor:
        await supervisor.start(["web", "cache"], "operator")
        world.launcher.last("db").exit(ExitStatus(code=1))
        await supervisor.board.wait_view("web", lambda v: v.state.life == 2 and v.phase is Phase.RUNNING)
        assert supervisor.component("web").view.state.restarts == 0
        assert supervisor.component("cache").view.state.life == 1


async def test_port_of_a_stranger_is_waited_for_without_budget(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.launcher.programs["web"].shut = Shut(reason="port", message="port 80 is taken by pid 12 (nginx)")
    async with supervise(component(ports=(80,))) as supervisor:
        await supervisor.begin(["web"], None)
        view = await supervisor.board.wait_view("web", lambda v: "nginx" in v.note)
        assert view.phase is Phase.WAITING
        await trio.sleep(10)
        world.launcher.programs["web"].shut = None
        view = await supervisor.board.wait_view("web", lambda v: v.phase is Phase.RUNNING)
        assert view.state.restarts == 0
    assert world.events.of("web").count("waiting") == 1


async def test_ten_concurrent_restarts_are_one_new_life_and_ten_answers(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.launcher.programs["web"] = Program(dies_after=0.1, spawn_takes=0.01)
    answers: list[Answer] = []
    async with supervise(component()) as supervisor:
        await supervisor.start(["web"], "operator")

        async def restart(after: float) -> None:
            await trio.sleep(after)
            answers.extend(await supervisor.restart(["web"], "operator"))

        async with trio.open_nursery() as nursery:
            for i in range(10):
                nursery.start_soon(restart, i * 0.02)
        view = supervisor.component("web").view
        assert (view.state.life, view.state.restarts) == (2, 0)
    assert [answer.message for answer in answers if not answer.ok] == []
    assert len(answers) == 10


async def test_restart_of_everything_leaves_what_was_stopped_by_hand(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    async with supervise(component("db"), component("web", depends_on={"db": Condition.READY})) as supervisor:
        await supervisor.start(["web"], "operator")
        await supervisor.restart(["db", "web"], "operator")
        lives = {name: supervisor.component(name).view.state.life for name in ("db", "web")}
        assert lives == {"db": 2, "web": 2}
    order = [name for name, _ in world.launcher.launched]
    assert order == ["db", "web", "db", "web"]


async def test_bug_in_one_component_fails_that_component_only(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.launcher.programs["bad"] = Program(bug=ZeroDivisionError("planted"))
    async with supervise(component("bad"), component("good")) as supervisor:
        await supervisor.begin(["bad", "good"], None)
        view = await supervisor.board.wait_view("bad", lambda v: v.phase is Phase.FAILED)
        assert "ZeroDivisionError: planted" in view.note
        await supervisor.board.wait_view("good", lambda v: v.phase is Phase.RUNNING)
        world.launcher.programs["bad"] = Program()
        (answer,) = await supervisor.start(["bad"], "operator")
        assert answer.ok


async def test_component_that_a_bug_has_failed_has_its_trial_too(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.launcher.programs["web"] = Program(bug=ZeroDivisionError("planted"))
    async with supervise(component(restart=RestartPolicy(recovery=30.0))) as supervisor:
        await supervisor.begin(["web"], None)
        await supervisor.board.wait_view("web", lambda v: v.phase is Phase.FAILED)
        world.launcher.programs["web"] = Program()
        await supervisor.board.wait_view("web", lambda v: v.phase is Phase.RUNNING)
    first, second = world.launcher.starts("web")
    assert second - first == pytest.approx(30)


async def test_bug_while_alive_leaves_no_process(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeProbes, "__call__", _explode)
    async with supervise(component(startup=probe(failure_threshold=1))) as supervisor:
        await supervisor.begin(["web"], None)
        await supervisor.board.wait_view("web", lambda v: v.phase is Phase.FAILED)
        assert not world.launcher.last("web").is_alive()
    assert world.events.of("web").count("exited") == 1


async def test_who_asks_for_what_a_bug_strikes_does_not_wait_for_ever(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with supervise(component()) as supervisor:
        await supervisor.start(["web"], "operator")
        monkeypatch.setattr(world.logs, "rule", _explode)
        with trio.fail_after(60):
            await reload(supervisor, component(optional=True))
            await supervisor.board.wait_view("web", lambda v: v.phase is Phase.FAILED)


async def test_probe_that_raises_anything_has_failed_with_the_reason_and_nothing_else_has(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeProbe, "attempt", _explode)
    async with supervise(component(readiness=probe(failure_threshold=2))) as supervisor:
        await supervisor.start(["web"], "operator")
        view = await supervisor.board.wait_view("web", _has_verdict)
    (readiness,) = view.probes.values()
    assert (view.phase, readiness.streak.verdict) == (Phase.RUNNING, Verdict.FAILING)
    assert readiness.streak.message == "internal error: ZeroDivisionError: planted (see stigmerd.log)"
    assert "failed" not in world.events.of("web")


def _explode(*_: object) -> NoReturn:
    raise ZeroDivisionError("planted")


def _has_verdict(view: View) -> bool:
    return any(probe.streak.verdict is not None for probe in view.probes.values())


async def test_component_that_cannot_even_be_failed_is_failed_when_it_can_be_and_ends_nobody_else(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [ZeroDivisionError("one"), ZeroDivisionError("two")]
    kill = FakeLife.kill

    async def kill_at_last(life: FakeLife) -> None:
        if errors:
            raise errors.pop()
        await kill(life)

    monkeypatch.setattr(FakeLife, "kill", kill_at_last)
    world.launcher.programs["bad"] = Program(child_outlives=None)  # else there is nothing left to be killed
    async with supervise(component("bad"), component("good")) as supervisor:
        await supervisor.begin(["bad", "good"], None)
        await supervisor.board.wait_view("bad", lambda v: v.phase is Phase.RUNNING)
        world.launcher.last("bad").exit(ExitStatus(code=1))
        view = await supervisor.board.wait_view("bad", lambda v: v.phase is Phase.FAILED)
        assert "ZeroDivisionError: one" in view.note
        assert not world.launcher.last("bad").is_alive()
        assert supervisor.component("good").view.phase is Phase.RUNNING



async def test_closing_begins_no_life(supervise: Supervise, world: FakeWorld, autojump_clock: MockClock) -> None:
    world.launcher.programs["web"] = Program(dies_after=2.0)
    db = component("db", startup=probe(initial_delay=1.0))
    web = component("web", depends_on={"db": Condition.READY})
    async with supervise(db, web) as supervisor:
        await supervisor.begin(["db", "web"], None)
        await supervisor.close()
        await trio.sleep(5)
    assert [name for name, _ in world.launcher.launched] == ["db"]


async def test_reload_restarts_what_changed_and_touches_nothing_else(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    old = (component("a"), component("b"), component("c"), component("d"))
    async with supervise(*old) as supervisor:
        await supervisor.start(["a", "b", "c"], "operator")
        new = {
            "a": component("a"),
            "b": component("b", runs=ProcessSpec(argv=("b", "--new"), cwd="/")),
            "d": component("d", restart=RestartPolicy(max_restarts=3)),
            "e": component("e"),
        }
        change = supervisor.plan(new)
        await supervisor.apply(new, change)
        await supervisor.board.wait_view("e", lambda v: v.phase is Phase.RUNNING)
        lives = {name: supervisor.component(name).view.state.life for name in new}
        assert lives == {"a": 1, "b": 2, "d": 0, "e": 1}
        assert supervisor.board.names() == ("a", "b", "d", "e")
        assert "c" not in world.state.records
        assert (change.added, change.removed, change.changed, change.restarted) == (("e",), ("c",), ("b", "d"), ("b",))


async def test_reload_restarts_what_is_wanted_up_and_nothing_that_is_down(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    by_hand, down, leaves = component("hand", enabled=False), component("down"), component("leaves")
    async with supervise(by_hand, down, leaves) as supervisor:
        await supervisor.start(["hand", "leaves"], "operator")
        elsewhere = ProcessSpec(argv=("other",), cwd="/")
        new = {
            "hand": component("hand", enabled=False, runs=elsewhere),
            "down": component("down", runs=elsewhere),
            "leaves": component("leaves", enabled=False, runs=elsewhere),
        }
        change = supervisor.plan(new)
        assert (change.changed, change.restarted) == (("hand", "down", "leaves"), ("hand",))
        await supervisor.apply(new, change)
        await supervisor.board.wait_view("hand", lambda v: v.phase is Phase.RUNNING and v.state.life == 2)
        assert [supervisor.component(name).view.phase for name in ("down", "leaves")] == [Phase.DOWN, Phase.DOWN]


async def test_restart_by_an_operator_empties_the_budget_and_leaves_the_last_delay_known(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    async with supervise(component()) as supervisor:
        await supervisor.start(["web"], "operator")
        world.launcher.last("web").exit(ExitStatus(code=1))
        await supervisor.board.wait_view("web", lambda v: v.phase is Phase.RUNNING and v.state.life == 2)
        await supervisor.restart(["web"], "operator")
        shown = supervisor.component("web").view.to_document(trio.current_time(), 0.0)
    assert (shown.restarts, shown.restarts_in_window, shown.backoff) == (1, 0, 1.0)


async def reload(supervisor: Supervisor, *specs: ComponentSpec) -> None:
    new = {spec.name: spec for spec in specs}
    await supervisor.apply(new, supervisor.plan(new))


async def test_probe_that_a_reload_adds_looks_at_the_life_that_had_none(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    async with supervise(component()) as supervisor:
        await supervisor.start(["web"], "operator")
        await reload(supervisor, component(readiness=probe()))
        view = await supervisor.board.wait_view("web", lambda v: v.ready)
        assert (view.state.life, len(view.probes)) == (1, 1)
        await reload(supervisor, component())
        await reload(supervisor, component(liveness=probe(failure_threshold=1)))
        world.probes.answers["web"] = Outcome(passed=False)
        await supervisor.board.wait_view("web", lambda v: v.phase is Phase.CONDEMNED)
    assert world.events.of("web")[:5] == ["starting", "running", "ready", "unready", "ready"]


async def test_probe_that_a_reload_leaves_as_it_is_keeps_its_verdict(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    patient = probe(initial_delay=5.0, success_threshold=3)
    async with supervise(component(readiness=patient, liveness=probe())) as supervisor:
        await supervisor.start(["web"], "operator")
        await supervisor.board.wait_view("web", lambda v: v.ready)
        await reload(supervisor, component(readiness=patient, liveness=probe(period=7.0)))
        assert supervisor.component("web").view.ready
        world.probes.answers["web"] = Outcome(passed=False)
        await supervisor.board.wait_view("web", lambda v: not v.ready)  # it goes on looking
    assert world.events.of("web").count("unready") == 1


async def test_what_depends_on_it_through_a_component_that_goes_on_is_stopped_first(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.launcher.programs["web"] = Program(dies_after=2.0)
    db, cache = component("db"), component("cache", depends_on={"db": Condition.STARTED})
    web = component("web", depends_on={"cache": Condition.STARTED})
    async with supervise(db, cache, web) as supervisor:
        await supervisor.start(["web"], "operator")
        await supervisor.stop(["db", "web"], "operator")
    stops = [entry.component for entry in world.events.entries if entry.event in {"stopping", "stopped"}]
    assert stops == ["web", "web", "db", "db"]


async def test_dependency_that_goes_down_while_the_ports_are_looked_at_is_waited_for(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.launcher.programs["web"].gate_takes = 2.0
    web = component("web", ports=(80,), depends_on={"db": Condition.STARTED})
    async with supervise(component("db"), web) as supervisor:
        await supervisor.begin(["db", "web"], None)
        await trio.sleep(1)
        await supervisor.stop(["db"], "operator")
        await trio.sleep(10)
        view = supervisor.component("web").view
    assert (view.phase, view.blocked_by) == (Phase.WAITING, "db")


async def test_stop_in_the_instant_in_which_the_gate_opens_is_a_stop(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    names = [f"web{number}" for number in range(20)]  # which of the two comes first is a matter of chance
    for name in names:
        world.launcher.programs[name].gate_takes = 2.0
    async with supervise(*(component(name, ports=(80,)) for name in names)) as supervisor:
        await supervisor.begin(names, None)
        began = trio.current_time()
        async with trio.open_nursery() as stops:
            for name in names:
                stops.start_soon(stop_at, supervisor, name, began + 2.0)
        await trio.sleep(5)
        assert {supervisor.component(name).view.phase for name in names} == {Phase.DOWN}
    for name in names:
        assert world.events.of(name).count("starting") == world.events.of(name).count("exited"), name


async def stop_at(supervisor: Supervisor, name: str, instant: float) -> None:
    await trio.sleep_until(instant)
    await supervisor.stop([name], "operator")


async def test_stranger_on_a_port_is_a_problem_for_as_long_as_it_is_waited_for(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    taken = "port 80 is taken by pid 7 (httpd)"
    world.launcher.programs["web"].shut = Shut(reason="port", message=taken)
    async with supervise(component(ports=(80,))) as supervisor:
        await supervisor.begin(["web"], None)
        await trio.sleep(5)
        assert supervisor.component("web").stranger == f"web: {taken}"
        world.launcher.programs["web"].shut = None
        await supervisor.board.wait_view("web", lambda v: v.phase is Phase.RUNNING)
        assert supervisor.component("web").stranger == ""


async def test_recovery_that_a_reload_sets_is_waited_from_then_on(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.launcher.programs["web"] = Program(lives_for=0.0)
    once = RestartPolicy(max_restarts=0)
    async with supervise(component(restart=once)) as supervisor:
        await supervisor.begin(["web"], None)
        await supervisor.board.wait_view("web", lambda v: v.phase is Phase.FAILED)
        await trio.sleep(100)
        began = trio.current_time()
        await reload(supervisor, component(restart=replace(once, recovery=30.0)))
        await supervisor.board.wait_view("web", lambda v: v.state.life == 2)
    assert world.launcher.starts("web")[1] - began == pytest.approx(30)


async def test_recovery_that_a_reload_changes_counts_from_the_failure(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.launcher.programs["web"] = Program(lives_for=0.0)
    once = RestartPolicy(max_restarts=0, recovery=100.0)
    async with supervise(component(restart=once)) as supervisor:
        await supervisor.begin(["web"], None)
        await supervisor.board.wait_view("web", lambda v: v.phase is Phase.FAILED)
        failed = trio.current_time()
        await trio.sleep(20)
        await reload(supervisor, component(restart=replace(once, recovery=30.0)))
        await supervisor.board.wait_view("web", lambda v: v.state.life == 2)
    assert world.launcher.starts("web")[1] - failed == pytest.approx(30)


async def test_component_that_was_removed_and_comes_back_goes_on_numbering_its_lives(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    only_a = {"a": component("a")}
    both = {**only_a, "b": component("b")}
    async with supervise(*both.values()) as supervisor:
        await supervisor.start(["b"], "operator")
        await supervisor.apply(only_a, supervisor.plan(only_a))
        await supervisor.apply(both, supervisor.plan(both))
        await supervisor.board.wait_view("b", lambda v: v.phase is Phase.RUNNING)
        assert supervisor.component("b").view.state.life == 2


@pytest.mark.parametrize("operation", ["start", "stop", "restart"])
async def test_what_a_reload_removes_in_the_middle_of_an_operation_is_answered_for(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock, operation: str
) -> None:
    world.launcher.programs["slow"] = Program(dies_after=2.0)
    slow, leaves = component("slow", depends_on={"leaves": Condition.STARTED}), component("leaves")
    answers: list[Answer] = []

    async def operate() -> None:
        answers.extend(await getattr(supervisor, operation)(["slow", "leaves"], "operator"))

    async with supervise(leaves, slow) as supervisor, trio.open_nursery() as nursery:
        await supervisor.start(["slow", "leaves"], "operator")
        nursery.start_soon(operate)
        await trio.lowlevel.checkpoint()
        await reload(supervisor, component("slow"))
    assert {answer.name for answer in answers} == {"leaves", "slow"}
    assert all(answer.ok for answer in answers if answer.name == "slow")
    assert not world.launcher.last("leaves").is_alive()


async def test_start_does_not_bring_back_what_a_reload_is_about_to_remove(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.launcher.programs["slow"] = Program(dies_after=2.0)
    async with supervise(component("leaves"), component("slow")) as supervisor, trio.open_nursery() as nursery:
        await supervisor.start(["leaves", "slow"], "operator")
        nursery.start_soon(reload, supervisor)
        await trio.sleep(1)
        (answer,) = await supervisor.start(["leaves"], "operator")
        assert not answer.ok
        await trio.sleep(5)
    assert supervisor.board.names() == ()
    assert len(world.launcher.starts("leaves")) == 1


async def test_start_with_no_time_to_wait_finds_what_runs_already(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    async with supervise(component()) as supervisor:
        await supervisor.start(["web"], "operator")
        (answer,) = await supervisor.start(["web"], "operator", timeout=0.0)
        assert answer == Answer(name="web", state="running", ok=True)


async def test_restart_waits_for_what_is_awaited_and_says_of_the_rest_how_it_is(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.launcher.programs["crashes"] = Program(spawn_error="no such file")
    async with supervise(component("web"), component("crashes", optional=True)) as supervisor:
        began = trio.current_time()
        up, down = await supervisor.restart(
            ["web", "crashes"], "operator", is_awaited=lambda spec: not spec.optional
        )
        assert trio.current_time() - began < 1
        assert (up.ok, down.ok) == (True, False)
        (late,) = await supervisor.start(["crashes"], "operator", timeout=0.5)
    assert late.message == (
        "not up after 0.5 s: no such file; restarts after 1 s (attempt 1/10); log: /logs/crashes.log"
    )


async def test_restart_after_a_restart_is_another_life(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    async with supervise(component()) as supervisor:
        await supervisor.start(["web"], "operator")
        await supervisor.restart(["web"], "operator")
        await trio.sleep(0.3)
        await supervisor.restart(["web"], "operator")
        assert supervisor.component("web").view.state.life == 3


async def test_stop_between_the_plan_of_a_reload_and_its_begin_has_the_last_word(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    new = {"web": component(runs=ProcessSpec(argv=("web", "-v"), cwd="/"))}
    async with supervise(component()) as supervisor:
        await supervisor.start(["web"], "operator")
        change = supervisor.plan(new)
        await supervisor.stop(["web"], "operator")
        await supervisor.apply(new, change)
        await trio.sleep(10)
        assert supervisor.component("web").view.phase is Phase.DOWN


async def test_stop_in_the_middle_of_a_reload_has_the_last_word(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.launcher.programs["web"] = Program(dies_after=2.0)
    old, new = component(), component(runs=ProcessSpec(argv=("web", "-v"), cwd="/"))
    async with supervise(old) as supervisor, trio.open_nursery() as nursery:
        await supervisor.start(["web"], "operator")
        change = supervisor.plan({"web": new})
        nursery.start_soon(supervisor.apply, {"web": new}, change)
        await trio.sleep(1)
        await supervisor.stop(["web"], "operator")
        await trio.sleep(10)
        assert supervisor.component("web").view.phase is Phase.DOWN
    assert len(world.launcher.starts("web")) == 1


async def test_intent_is_on_record_before_a_launch_is_begun(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    begun: list[tuple[int, bool]] = []

    def note(order: LaunchOrder) -> None:
        identity = world.state.records["web"].identity
        begun.append((order.life, identity is not None and identity.nonce == order.nonce))

    world.launcher.on_begin = note
    world.launcher.programs["web"] = Program(lives_for=0.0)
    at_once = RestartPolicy(initial_backoff=0.0, max_restarts=3)
    async with supervise(component(restart=at_once)) as supervisor:
        await supervisor.begin(["web"], None)
        await supervisor.board.wait_view("web", lambda v: v.phase is Phase.FAILED)
    assert begun == [(1, True), (2, True), (3, True), (4, True)]


async def test_launch_that_was_begun_when_a_bug_struck_is_ended(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    def strike(order: LaunchOrder) -> None:
        raise AssertionError("planted")

    world.launcher.on_begin = strike
    async with supervise(component()) as supervisor:
        await supervisor.begin(["web"], None)
        view = await supervisor.board.wait_view("web", lambda v: v.phase is Phase.FAILED)
    assert "planted" in view.note
    assert [life.is_alive() for life in world.launcher.lives["web"]] == [False]


async def test_bug_while_a_life_is_ended_leaves_no_process(
    supervise: Supervise, world: FakeWorld, autojump_clock: MockClock
) -> None:
    world.launcher.programs["web"] = Program(stop_bugs=[ZeroDivisionError("planted")])
    async with supervise(component()) as supervisor:
        await supervisor.start(["web"], "operator")
        await supervisor.stop(["web"], "operator")
        view = supervisor.component("web").view
    assert (view.phase, view.survivors) == (Phase.FAILED, ())
    assert "ZeroDivisionError: planted" in view.note
    assert not world.launcher.last("web").is_alive()
