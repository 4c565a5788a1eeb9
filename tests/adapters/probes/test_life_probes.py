"""The probes that ask the life itself: process, exec, container."""

from __future__ import annotations

import errno

from stigmerd.adapters.probes.container import ContainerProbe
from stigmerd.adapters.probes.exec import ExecProbe
from stigmerd.adapters.probes.process import ProcessProbe
from stigmerd.core.exit_status import ExitStatus
from stigmerd.core.health import Outcome
from stigmerd.core.spec import ExecHandler, ProcessHandler
from stigmerd.engine.ports import CommandResult, EngineUnavailableError, SpawnFailedError
from tests.adapters.probes.fakes import TOKEN, FakeContainerLife, FakeLife, hide_token, show_all
from tests.adapters.probes.servers import attempt

COMMAND = ExecHandler(command=("check", "--now"))


def exec_probe(result: CommandResult | Exception | None) -> ExecProbe:
    return ExecProbe(COMMAND, FakeLife(result=result).as_life(), hide_token)


async def test_process_that_is_alive_passes() -> None:
    assert await attempt(ProcessProbe(ProcessHandler(), FakeLife().as_life())) == Outcome(passed=True)


async def test_process_that_is_dead_fails() -> None:
    outcome = await attempt(ProcessProbe(ProcessHandler(), FakeLife(alive=False, age=99).as_life()))
    assert outcome == Outcome(passed=False, message="the process is not alive")


async def test_process_passes_once_it_is_as_old_as_asked() -> None:
    handler = ProcessHandler(min_uptime=10)
    young = await attempt(ProcessProbe(handler, FakeLife(age=3.25).as_life()))
    assert young == Outcome(passed=False, message="alive for 3.2 s of 10 s")
    assert await attempt(ProcessProbe(handler, FakeLife(age=10).as_life())) == Outcome(passed=True)


async def test_command_that_exits_with_0_passes_with_its_output() -> None:
    result = CommandResult(status=ExitStatus(code=0), tail="all well\n")
    life = FakeLife(result=result)
    outcome = await attempt(ExecProbe(COMMAND, life.as_life(), show_all))
    assert outcome == Outcome(passed=True, message="all well")
    assert life.commands == [("check", "--now")]


async def test_command_that_fails_fails_with_the_end_of_its_output() -> None:
    outcome = await attempt(exec_probe(CommandResult(status=ExitStatus(code=3), tail="x" * 300)))
    assert outcome == Outcome(passed=False, message="x" * 256)


async def test_secret_in_the_output_is_concealed_before_that_is_cut() -> None:
    outcome = await attempt(exec_probe(CommandResult(status=ExitStatus(code=3), tail=f"{TOKEN}{'x' * 252}")))
    assert outcome == Outcome(passed=False, message="KEN}" + "x" * 252)


async def test_command_that_fails_in_silence_fails_with_its_exit_status() -> None:
    outcome = await attempt(exec_probe(CommandResult(status=ExitStatus(signal="SIGKILL"), tail="")))
    assert outcome == Outcome(passed=False, message="killed by SIGKILL")


async def test_command_that_cannot_be_spawned_fails_with_the_reason() -> None:
    outcome = await attempt(exec_probe(SpawnFailedError("check: no such file", errno=errno.ENOENT)))
    assert outcome == Outcome(passed=False, message="check: no such file")


async def test_command_that_finds_no_room_for_a_process_tells_nothing_of_the_component() -> None:
    outcome = await attempt(exec_probe(SpawnFailedError("check: no more processes", errno=errno.EAGAIN)))
    assert outcome is not None
    assert not outcome.conclusive


async def test_command_in_a_container_whose_engine_is_away_is_inconclusive() -> None:
    outcome = await attempt(exec_probe(EngineUnavailableError("no Docker Engine")))
    assert outcome == Outcome(passed=True, message="no Docker Engine", conclusive=False)


async def test_command_that_hangs_is_cut_off_and_the_probe_says_what_it_did() -> None:
    probe = exec_probe(None)
    assert await attempt(probe, limit=0.05) is None
    assert probe.stage == "running the command"


async def test_container_is_as_healthy_as_its_engine_says() -> None:
    sick = Outcome(passed=False, message="unhealthy: no answer on 80")
    away = Outcome(passed=True, message="the Docker Engine is hung", conclusive=False)
    for outcome in (sick, away, Outcome(passed=True, message="healthy")):
        assert await attempt(ContainerProbe(FakeContainerLife(outcome).as_life())) == outcome


async def test_container_that_is_paused_passes_and_says_so() -> None:
    life = FakeContainerLife(Outcome(passed=True), note="container is paused")
    assert await attempt(ContainerProbe(life.as_life())) == Outcome(passed=True, message="container is paused")


async def test_container_that_has_ended_fails_and_is_not_condemned_for_it() -> None:
    life = FakeContainerLife(Outcome(passed=True), alive=False)
    outcome = await attempt(ContainerProbe(life.as_life()))
    assert outcome == Outcome(passed=False, message="the container is not running", conclusive=False)


async def test_container_probe_of_a_process_fails_with_the_way_out() -> None:
    outcome = await attempt(ContainerProbe(FakeLife().as_life()))
    assert outcome == Outcome(passed=False, message="this component is a process: give it another probe")
