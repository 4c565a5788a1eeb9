"""Whatever a state says that could be read: the supervisor goes on from there, and no bug of its own stops it."""

from __future__ import annotations

import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from trio.testing import MockClock

from stigmerd.core.event import Entry
from stigmerd.core.lifecycle import FailedBecause, Phase
from stigmerd.core.record import ComponentRecord, Identity
from stigmerd.core.spec import RestartPolicy, RestartWhen
from stigmerd.core.status import ComponentDocument, ExitDocument
from stigmerd.engine.restore import is_to_return, restored_view
from stigmerd.engine.supervisor import Supervisor
from tests.engine.fakes import BOOT_ID, FakeLife, FakeWorld, Program, component

NONCE = "3-abc"
SECONDS = st.floats(-(2.0**40), 2.0**40)
INSTANTS = st.none() | SECONDS
COUNTERS = st.integers(0, 2**31 - 1)

IDENTITIES = st.none() | st.builds(
    Identity,
    nonce=st.sampled_from([NONCE, ""]),
    boot_id=st.sampled_from([BOOT_ID, "another"]),
    pid=st.none() | st.integers(2, 2**31 - 1),
    start_ticks=st.none() | st.integers(),
    container_id=st.none() | st.text(max_size=3),
)

EXITS = st.none() | st.builds(ExitDocument, code=st.none() | st.integers(), signal=st.none() | st.text(max_size=9))

DOCUMENTS = st.builds(
    ComponentDocument,
    name=st.just("web"),
    kind=st.sampled_from(["process", "container", ""]),
    state=st.text(max_size=9),
    healthy=st.booleans(),
    started_at=st.none() | st.text(max_size=30),
    last_restart_at=st.none() | st.text(max_size=30),
    last_exit=EXITS,
    last_error=st.none() | st.text(max_size=30),
)

RECORDS = st.builds(
    ComponentRecord,
    name=st.just("web"),
    phase=st.sampled_from(Phase).map(lambda phase: phase.name),
    wanted=st.booleans(),
    life=COUNTERS,
    definition=st.sampled_from([component().definition, "another"]),
    shown=DOCUMENTS,
    identity=IDENTITIES,
    spawned_boot=INSTANTS,
    due_boot=INSTANTS,
    charge=st.booleans(),
    trial=st.booleans(),
    restarts=COUNTERS,
    counted_boot=st.lists(SECONDS, max_size=12).map(tuple),
    streak=COUNTERS,
    delay=INSTANTS,
    failed_because=st.none() | st.sampled_from(FailedBecause).map(lambda why: why.name),
)

TOLD = st.lists(st.sampled_from(["starting", "start_failed", "running", "exited", "restarting", "failed", "stopped"]))

POLICIES = st.builds(RestartPolicy, when=st.sampled_from(RestartWhen), max_restarts=st.integers(1, 3))


async def go_on(record: ComponentRecord, policy: RestartPolicy, told: list[str], *, is_there: bool) -> None:
    """Restore a component, start and stop it, and see that it never fails by a bug."""
    world, spec = FakeWorld(), component(restart=policy)
    for number, event in enumerate(told, 1):
        world.events.append(Entry(seq=number, at="then", component="web", life=record.life, event=event, details={}))
    if is_there and record.identity is not None:
        world.launcher.adoptable[NONCE] = FakeLife(Program(), record.identity)
    view = restored_view(record, spec, "/log", trio.current_time(), world.clock.boot())
    supervisor = Supervisor({"web": spec}, world.world, {"web": view})
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await supervisor.wait_proven()
        if is_to_return(record):
            await supervisor.begin(["web"], None, resuming=["web"])
        await trio.sleep(5)
        (started,) = await supervisor.start(["web"], "operator")
        assert started.ok, started
        (stopped,) = await supervisor.stop(["web"], "operator")
        assert (stopped.ok, stopped.state) == (True, "stopped")
        nursery.cancel_scope.cancel()
    assert [entry.message for entry in world.events.entries if entry.reason == "internal"] == []


BORN_WHILE_SPAWNING = ComponentRecord(
    name="web",
    phase=Phase.SPAWNING.name,
    wanted=True,
    life=3,
    definition=component().definition,
    shown=ComponentDocument(name="web", kind="process", state="starting", healthy=False),
    identity=Identity(nonce=NONCE, boot_id=BOOT_ID, container_id=""),
)


@settings(deadline=None)
@example(record=BORN_WHILE_SPAWNING, policy=RestartPolicy(), told=[], is_there=False)
@example(record=BORN_WHILE_SPAWNING, policy=RestartPolicy(), told=[], is_there=True)
@example(record=replace(BORN_WHILE_SPAWNING, wanted=False, life=0), policy=RestartPolicy(), told=[], is_there=True)
@given(record=RECORDS, policy=POLICIES, told=TOLD, is_there=st.booleans())
def test_any_record_that_can_be_read_can_be_gone_on_from(
    record: ComponentRecord, policy: RestartPolicy, told: list[str], is_there: bool
) -> None:
    async def run() -> None:
        await go_on(record, policy, told, is_there=is_there)

    trio.run(run, clock=MockClock(autojump_threshold=0))
