"""What a daemon decides to begin with, from what the last one left."""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Iterator

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from stigmerd.adapters.containers.container import Stray
from stigmerd.adapters.disk.home import Home
from stigmerd.adapters.disk.state import Loaded
from stigmerd.adapters.processes import identity
from stigmerd.core.lifecycle import Phase, State
from stigmerd.core.record import ComponentRecord, DaemonRecord, Identity
from stigmerd.core.spec import ComponentSpec, ContainerSpec, ProcessSpec
from stigmerd.daemon.start import StartError
from stigmerd.daemon.succession import Beginning, Succession
from stigmerd.engine.board import View
from stigmerd.engine.journal import Journal
from stigmerd.engine.ports import EngineUnavailableError
from stigmerd.engine.restore import to_record
from tests.engine.fakes import BOOT_ID, FakeWorld, component, look_at_once

WEB = component()
OTHER_WEB = component(runs=ProcessSpec(argv=("web", "--new"), cwd="/"))


class StoppedClock:
    """It is the beginning of all times."""

    def wall(self) -> float:
        return 0.0

    def boot(self) -> float:
        return 0.0


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


@pytest.fixture
def life() -> Iterator[Identity]:
    """A process that provably is the life it is said to be."""
    marks = {"STIGMER_HOME": "/home", "STIGMER_COMPONENT": "web", "STIGMER_LIFE": "3-abc"}
    with subprocess.Popen(["sleep", "60"], env=marks) as process:
        pid = process.pid
        yield Identity(nonce="3-abc", boot_id=identity.boot_id(), pid=pid, start_ticks=identity.start_ticks(pid))
        process.kill()


def last_daemon(*, boot_id: str = BOOT_ID, clean: bool = False, source: str | None = "/a.toml") -> DaemonRecord:
    return DaemonRecord(
        pid=2**22, start_ticks=1, boot_id=boot_id, version="1", started_at="then", source=source, clean=clean
    )


def record(
    spec: ComponentSpec = WEB, phase: Phase = Phase.RUNNING, *, wanted: bool = True, life: Identity | None = None
) -> ComponentRecord:
    view = View(spec=spec, log="/log", state=State(phase=phase, wanted=wanted, life=3), identity=life)
    return to_record(view, spec.definition, now=0.0, clock=StoppedClock())


def after(*records: ComponentRecord, daemon: DaemonRecord | None = None) -> Succession:
    """Where a daemon stands after one that died, or ended as ``daemon`` says."""
    left = Loaded(daemon=daemon or last_daemon(), components={each.name: each for each in records})
    return Succession(home=Home("/home"), left=left, boot_id=BOOT_ID)


def beginning(
    stopping: tuple[str, ...] = (), starting: tuple[str, ...] = (), returning: tuple[str, ...] = ()
) -> Beginning:
    return Beginning(stopping=frozenset(stopping), starting=frozenset(starting), returning=frozenset(returning))


def specs(*components: ComponentSpec) -> dict[str, ComponentSpec]:
    return {each.name: each for each in components}


def test_component_that_goes_on_unchanged_is_neither_stopped_nor_started() -> None:
    assert after(record()).plan(specs(WEB)) == beginning()


def test_component_stopped_by_hand_stays_stopped_after_a_crash_though_its_definition_changed() -> None:
    assert after(record(phase=Phase.DOWN, wanted=False)).plan(specs(OTHER_WEB)) == beginning()


def test_component_with_another_definition_is_stopped_and_begun_anew() -> None:
    assert after(record()).plan(specs(OTHER_WEB)) == beginning(stopping=("web",), starting=("web",))


def test_component_that_is_disabled_by_now_is_stopped_for_good() -> None:
    plan = after(record()).plan(specs(component(enabled=False)))
    assert plan == beginning(stopping=("web",))


def test_component_that_is_disabled_by_now_does_not_come_up_again_whatever_else_is_so() -> None:
    running, returning = record(), record(component("other"), Phase.DOWN)
    off = specs(component(runs=OTHER_WEB.runs, enabled=False), component("other", enabled=False))
    assert after(running, returning).plan(off) == beginning(stopping=("web", "other"))


def test_component_that_is_new_or_enabled_by_now_is_begun() -> None:
    known = record(component(enabled=False), Phase.DOWN, wanted=False)
    assert after(known).plan(specs(WEB, component("new"))) == beginning(starting=("web", "new"))


def test_component_that_was_down_only_to_be_started_again_returns() -> None:
    assert after(record(phase=Phase.DOWN)).plan(specs(WEB)) == beginning(returning=("web",))


@pytest.mark.parametrize("daemon", [last_daemon(clean=True), last_daemon(boot_id="an earlier boot")])
def test_every_enabled_component_begins_afresh_after_an_ordered_stop_or_a_reboot(daemon: DaemonRecord) -> None:
    succession = after(record(phase=Phase.DOWN, wanted=False), daemon=daemon)
    assert succession.plan(specs(WEB, component("off", enabled=False))) == beginning(starting=("web",))


def test_configuration_of_a_daemon_that_died_is_remembered_and_that_of_a_stopped_one_is_not() -> None:
    assert after().config == "/a.toml"
    assert after(daemon=last_daemon(clean=True)).config is None


def test_another_configuration_is_refused_while_something_of_the_last_one_lives(life: Identity) -> None:
    succession = after(record(life=life))
    with pytest.raises(StartError, match=r"of another configuration \(/a\.toml\) these still run: web"):
        succession.refuse_other_config("/b.toml", is_given=True)
    succession.refuse_other_config("/b.toml", is_given=False)
    succession.refuse_other_config("/a.toml", is_given=True)


def test_another_configuration_is_fine_once_nothing_of_the_last_one_lives() -> None:
    after(record()).refuse_other_config("/b.toml", is_given=True)


def boxed(name: str = "box") -> ComponentSpec:
    """A component that is a container."""
    return component(name, runs=ContainerSpec(image="box", name=name))


class Containers:
    """An engine that is away ``absences`` times, and has the container of a life 2-def then."""

    def __init__(self, absences: int = 0) -> None:
        self.absences = absences
        self.kept: list[set[str]] = []

    async def end_strays(self, keep: Collection[str]) -> tuple[Stray, ...]:
        await trio.lowlevel.checkpoint()
        self.kept.append(set(keep))
        if len(self.kept) <= self.absences:
            raise EngineUnavailableError("no Docker Engine answers")
        return (Stray(component="box", container_id="c0ffee" * 10, gone=True),)


BOX = Identity(nonce="2-def", boot_id=BOOT_ID, container_id="c0ffee" * 10)


async def test_daemon_without_containers_asks_no_engine(world: FakeWorld) -> None:
    containers, journal = Containers(), Journal(world.events, world.clock, look_at_once)
    removed = record(component("gone"), life=Identity(nonce="1-abc", boot_id=BOOT_ID, pid=2**22))
    disabled = component("box", runs=boxed().runs, enabled=False)
    await after(record(), removed).end_stray_containers(specs(WEB, disabled), containers, journal)
    assert containers.kept == []


async def test_container_of_a_removed_component_is_ended_once_there_is_an_engine(
    world: FakeWorld, autojump_clock: MockClock
) -> None:
    containers, journal = Containers(absences=2), Journal(world.events, world.clock, look_at_once)
    await after(record(), record(boxed(), life=BOX)).end_stray_containers(specs(WEB), containers, journal)
    assert containers.kept == [set(), set(), set()]
    (entry,) = world.events.entries
    assert (entry.event, entry.component, entry.message) == (
        "orphan_removed",
        "box",
        "container c0ffeec0ffee ended and removed",
    )


@pytest.mark.parametrize(
    ("now", "claimed"),
    [(boxed(), {"2-def"}), (component("box"), set())],
    ids=["still a container", "a process by now"],
)
async def test_container_is_claimed_by_a_component_that_is_one(
    world: FakeWorld, now: ComponentSpec, claimed: set[str]
) -> None:
    containers, journal = Containers(), Journal(world.events, world.clock, look_at_once)
    await after(record(boxed(), life=BOX)).end_stray_containers(specs(now), containers, journal)
    assert containers.kept == [claimed]


async def test_second_daemon_is_refused_while_the_first_lives_though_its_lock_was_removed(life: Identity) -> None:
    assert life.pid is not None
    first = replace(last_daemon(), pid=life.pid, start_ticks=life.start_ticks)
    with pytest.raises(StartError, match=f"is in use by the daemon with pid {life.pid}"):
        await after(daemon=first).refuse_second()


async def test_daemon_that_has_died_holds_up_nobody() -> None:
    await after().refuse_second()
