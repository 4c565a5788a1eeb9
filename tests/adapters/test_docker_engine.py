"""An engine that is absent, hangs or is restarted: it is said, it is bounded, and it touches nothing else."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from stigmerd.adapters.containers import engine as docker_engine
from stigmerd.adapters.containers.engine import CALLS, DockerEngine
from stigmerd.adapters.containers.exec import UnreachableError
from stigmerd.adapters.probes.exec import ExecProbe
from stigmerd.core.spec import ExecHandler
from stigmerd.engine.ports import EngineUnavailableError, Shut
from tests.adapters.containers import Yard, make_launcher, open_yard, order_of, until
from tests.adapters.probes.fakes import show_all
from tests.docker import SDK_LEAVES_SOCKETS, OwnEngine, own_engine, restartable

__all__ = ["own_engine", "restartable"]


@pytest.fixture
async def yard(own_engine: OwnEngine, tmp_path: Path) -> AsyncIterator[Yard]:
    async with open_yard(own_engine.host, tmp_path) as yard:
        yield yard


@pytest.fixture
def mute(tmp_path: Path) -> Iterator[str]:
    """The address of an engine that takes connections and says nothing."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "mute.sock"))
        server.listen(100)
        yield f"unix://{tmp_path}/mute.sock"


# Absent.


async def test_absent_engine_shuts_the_gate_with_what_to_do(tmp_path: Path) -> None:
    host = f"unix://{tmp_path}/absent.sock"
    async with trio.open_nursery() as tasks:
        _, launcher = make_launcher(host, tmp_path)
        await tasks.start(launcher.serve)
        shut = await launcher.check_gate(order_of("name").spec)
        assert shut == Shut(
            reason="engine",
            message=f"no Docker Engine answers at {host}: start it (systemctl start docker), or set DOCKER_HOST",
        )
        with pytest.raises(EngineUnavailableError, match="no Docker Engine answers"):
            await launcher.launch(order_of("name"))
        tasks.cancel_scope.cancel()


@contextlib.contextmanager
def without_privilege() -> Iterator[None]:
    """Be another user than root, for as long as it lasts."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_socket_that_is_not_permitted_is_told(tmp_path: Path) -> None:
    path = tmp_path / "closed.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        path.chmod(0)
        engine = DockerEngine({"DOCKER_HOST": f"unix://{path}"}, home=str(tmp_path))
        with without_privilege(), pytest.raises(EngineUnavailableError, match="group docker"):
            await engine.list_ours()


# Hung.


async def test_call_gives_up_after_five_seconds_and_the_next_at_once(mute: str, tmp_path: Path) -> None:
    async with trio.open_nursery() as tasks:
        engine, launcher = make_launcher(mute, tmp_path)
        await tasks.start(launcher.serve)
        asked = trio.current_time()
        with pytest.raises(EngineUnavailableError, match="does not answer within 5 s"):
            await engine.list_ours()
        assert 4.5 < trio.current_time() - asked < 6
        asked = trio.current_time()
        assert await launcher.check_gate(order_of("name").spec) is not None
        assert trio.current_time() - asked < 0.5
        tasks.cancel_scope.cancel()


async def test_threads_of_a_hung_engine_are_few_and_its_own(mute: str, tmp_path: Path) -> None:
    engine = DockerEngine({"DOCKER_HOST": mute}, home=str(tmp_path))
    before = threading.active_count()

    async def ask() -> None:
        with trio.move_on_after(0.2):
            await engine.list_ours()

    async with trio.open_nursery() as tasks:
        for _ in range(40):
            tasks.start_soon(ask)
    assert threading.active_count() - before <= CALLS + 1
    assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
    asked = trio.current_time()
    with pytest.raises(EngineUnavailableError, match="does not answer"):
        await engine.list_ours()
    assert trio.current_time() - asked < 0.1


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten what a test would otherwise wait for."""
    monkeypatch.setattr(docker_engine, "CALL_LIMIT", 0.5)
    monkeypatch.setattr(docker_engine, "PERIOD", 0.3)


@contextlib.contextmanager
def frozen(engine: OwnEngine) -> Iterator[None]:
    engine.freeze()
    try:
        yield
    finally:
        engine.thaw()


@pytest.mark.docker
async def test_life_keeps_its_state_while_the_engine_hangs(own_engine: OwnEngine, yard: Yard, quick: None) -> None:
    life = await yard.launch()
    with frozen(own_engine):
        await until(lambda: yard.engine.trouble)
        assert life.is_alive()
        assert "does not answer" in life.note
        with trio.fail_after(1.0):
            outcome = await life.health()
        assert (outcome.passed, outcome.conclusive) == (True, False)
        with pytest.raises(UnreachableError):
            await life.run(["/bin/true"])
    await until(lambda: not life.note)
    assert (await life.health()).conclusive


@pytest.mark.docker
async def test_attempt_that_the_hang_overtakes_is_inconclusive(own_engine: OwnEngine, yard: Yard) -> None:
    life = await yard.launch()
    with frozen(own_engine):
        with trio.fail_after(0.3):
            outcome = await life.health()
        assert (outcome.passed, outcome.conclusive) == (True, False)
        with trio.fail_after(0.3):
            outcome = await ExecProbe(ExecHandler(command=("/bin/true",)), life, show_all).attempt()
        assert (outcome.passed, outcome.conclusive) == (True, False)


@pytest.mark.docker
async def test_stop_waits_for_a_hung_engine(own_engine: OwnEngine, yard: Yard, quick: None) -> None:
    life = await yard.launch()
    async with trio.open_nursery() as tasks:
        with frozen(own_engine):
            await until(lambda: yard.engine.trouble)
            tasks.start_soon(life.kill)
            await trio.sleep(0.3)
            assert life.is_alive()
    assert (await life.wait_exit()).code == 137


@pytest.mark.docker
async def test_launch_given_up_while_the_engine_hung_leaves_no_container(
    own_engine: OwnEngine, yard: Yard, quick: None
) -> None:
    with frozen(own_engine), pytest.raises(EngineUnavailableError):
        await yard.launcher.launch(yard.order())
    await until(lambda: not yard.engine.trouble)
    life = await yard.launch()
    assert yard.nonces() == {life.identity.nonce}


# Restarted.


@pytest.mark.docker
@SDK_LEAVES_SOCKETS
async def test_exit_during_a_restart_of_the_engine_is_seen_by_looking(
    restartable: OwnEngine, yard: Yard, quick: None
) -> None:
    life = await yard.launch("/bin/sh", "-c", "echo before; sleep 1000")
    assert life.identity.pid is not None
    await trio.to_thread.run_sync(restartable.stop)
    os.kill(life.identity.pid, signal.SIGKILL)
    await trio.to_thread.run_sync(restartable.start)
    with trio.fail_after(10):
        status = await life.wait_exit()
        await life.release()
    assert status.code in {137, 255, None}  # 255 is what an engine says that has missed it
    await until(lambda: not yard.ours())
    assert yard.log() == "before\n"


@pytest.mark.docker
@SDK_LEAVES_SOCKETS
async def test_release_without_an_engine_removes_the_container_later(
    restartable: OwnEngine, yard: Yard, quick: None
) -> None:
    life = await yard.launch("/bin/sh", "-c", "echo last words")
    await life.wait_exit()
    await trio.to_thread.run_sync(restartable.stop)
    await until(lambda: yard.engine.trouble)
    with trio.fail_after(2):
        await life.release()
    await trio.to_thread.run_sync(restartable.start)
    await until(lambda: not yard.engine.trouble)
    await until(lambda: not yard.ours())
    assert yard.log() == "last words\n"


@pytest.mark.docker
async def test_engine_is_used_once_it_is_there(own_engine: OwnEngine, tmp_path: Path, quick: None) -> None:
    link = tmp_path / "docker.sock"
    async with trio.open_nursery() as tasks:
        engine, launcher = make_launcher(f"unix://{link}", tmp_path)
        await tasks.start(launcher.serve)
        await until(lambda: engine.trouble)
        assert await launcher.check_gate(order_of("name").spec) is not None
        link.symlink_to(own_engine.host.removeprefix("unix://"))
        await until(lambda: not engine.trouble)
        assert await launcher.check_gate(order_of("name").spec) is None
        tasks.cancel_scope.cancel()
