"""Containers as lives, with a real Docker Engine."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from stigmerd.adapters.containers import tree
from stigmerd.adapters.containers.container import Stray
from stigmerd.adapters.containers.exec import KILL_LIMIT
from stigmerd.adapters.containers.life import ContainerLife, Seen, inspect
from stigmerd.core.exit_status import ExitStatus
from stigmerd.core.record import Identity
from stigmerd.engine.ports import TAIL_BYTES, SpawnFailedError
from tests.adapters.containers import Yard, container_id, make_launcher, open_yard, until
from tests.adapters.probes.fakes import show_all
from tests.docker import HEALTH_IMAGE, docker_host, own_engine

__all__ = ["docker_host", "own_engine"]

pytestmark = pytest.mark.docker


@pytest.fixture
async def yard(docker_host: str, tmp_path: Path) -> AsyncIterator[Yard]:
    async with open_yard(docker_host, tmp_path) as yard:
        yield yard


# The life.


async def test_exit_code_is_the_engines_number(yard: Yard) -> None:
    life = await yard.launch("/bin/sh", "-c", "exit 7")
    with trio.fail_after(5):
        assert await life.wait_exit() == ExitStatus(code=7, oom=False)
    assert not life.is_alive()


async def test_exit_is_seen_at_once(yard: Yard) -> None:
    life = await yard.launch()
    await trio.sleep(0.3)  # until the first listing is over, which would find it too
    yard.api.kill(container_id(life), "SIGKILL")
    killed = trio.current_time()
    with trio.fail_after(2):
        await life.wait_exit()
    assert trio.current_time() - killed < 1.0


async def test_life_is_alive_and_identified_while_it_runs(yard: Yard) -> None:
    life = await yard.launch()
    assert life.is_alive()
    assert life.note == ""
    assert life.identity.container_id == yard.ours()[0]["Id"]
    assert 0 <= life.age() < 5


async def test_labels_and_environment_mark_a_container_as_ours(yard: Yard) -> None:
    order = yard.order("/bin/env", env={"A": "two\nlines", "STIGMER_LIFE": "forged"}, pass_env=("PASSED", "ABSENT"))
    life = await yard.launcher.launch(order)
    await life.wait_exit()
    container = yard.api.inspect_container(container_id(life))
    labels = container["Config"]["Labels"]
    assert labels["stigmerd.home"] == str(yard.folder)
    assert (labels["stigmerd.component"], labels["stigmerd.life"]) == ("c", "1")
    assert labels["stigmerd.nonce"] == order.nonce
    assert labels["stigmerd.definition"] == order.spec.definition
    environment = container["Config"]["Env"]
    assert {f"STIGMER_LIFE={order.nonce}", "STIGMER_COMPONENT=c", "A=two\nlines", "PASSED=on"} <= set(environment)
    assert not any(entry.startswith("ABSENT") for entry in environment)


async def test_container_is_made_by_its_definition(yard: Yard) -> None:
    life = await yard.launch(
        entrypoint=("/bin/sh",),
        command=("-c", "sleep 1000"),
        user="1000:1000",
        working_dir="/bin",
        volumes=(f"{yard.folder}:/data:ro",),
        labels={"team": "core", "stigmerd.home": "/forged"},
        extra_hosts={"upstream": "127.0.0.1"},
    )
    container = yard.api.inspect_container(container_id(life))
    config, host = container["Config"], container["HostConfig"]
    assert (config["User"], config["WorkingDir"]) == ("1000:1000", "/bin")
    assert (config["Entrypoint"], config["Cmd"]) == (["/bin/sh"], ["-c", "sleep 1000"])
    assert config["Labels"]["team"] == "core"
    assert config["Labels"]["stigmerd.home"] == str(yard.folder)
    assert host["Binds"] == [f"{yard.folder}:/data:ro"]
    assert host["ExtraHosts"] == ["upstream:127.0.0.1"]
    assert host["NetworkMode"] == "host"
    assert host["RestartPolicy"]["Name"] == "no"


async def test_ports_are_published_as_docker_run_would(yard: Yard) -> None:
    order = yard.order(network="none", ports=("127.0.0.1:18080:80", "18081:81/udp"))
    life = await yard.launcher.launch(order)
    bindings = yard.api.inspect_container(container_id(life))["HostConfig"]["PortBindings"]
    assert bindings["80/tcp"] == [{"HostIp": "127.0.0.1", "HostPort": "18080"}]
    assert bindings["81/udp"][0]["HostPort"] == "18081"


async def test_stop_signal_reaches_the_init(yard: Yard) -> None:
    life = await yard.launch("/bin/sh", "-c", "trap 'exit 3' USR1; while :; do sleep 0.1; done")
    await life.terminate("SIGUSR1")
    with trio.fail_after(5):
        await life.wait_gone()
    assert (await life.wait_exit()).code == 3


async def test_kill_ends_what_ignores_every_signal(yard: Yard) -> None:
    life = await yard.launch("/bin/sh", "-c", "trap '' TERM INT; while :; do sleep 0.1; done")
    await life.terminate("SIGTERM")
    with trio.fail_after(5):
        await life.kill()
    assert await life.wait_exit() == ExitStatus(code=137, oom=False)


async def test_waiting_and_ending_a_life_that_is_over_returns_at_once(yard: Yard) -> None:
    life = await yard.launch("/bin/true")
    await life.wait_exit()
    with trio.fail_after(2):
        await life.terminate("SIGTERM")
        await life.signal_leader("SIGHUP")
        await life.wait_gone()
        await life.kill()
        await life.release()
        await life.release()
    assert yard.ours() == []
    assert await life.survivors() == ()


async def test_container_removed_by_hand_is_an_exit(yard: Yard) -> None:
    life = await yard.launch()
    yard.api.remove_container(container_id(life), force=True)
    with trio.fail_after(5):
        status = await life.wait_exit()
        await life.kill()
        await life.release()
    assert status.code in {137, None}


async def test_container_restarted_by_hand_is_an_exit_and_is_ended(yard: Yard) -> None:
    life = await yard.launch()
    yard.api.restart(container_id(life), timeout=0)
    with trio.fail_after(5):
        assert (await life.wait_exit()).code in {137, None}
        await life.kill()
        await life.release()
    assert yard.ours() == []


async def test_paused_container_is_alive_and_says_so(yard: Yard) -> None:
    life = await yard.launch()
    yard.api.pause(container_id(life))
    with trio.move_on_after(0.5):
        await life.wait_exit()
    assert life.is_alive()
    assert "paused" in life.note
    assert (await life.health()).passed
    with trio.fail_after(5):
        await life.terminate("SIGTERM")
        await life.kill()
    assert not life.is_alive()


async def test_renamed_container_is_followed_and_said(yard: Yard) -> None:
    life = await yard.launch()
    yard.api.rename(container_id(life), f"{yard.name}-renamed")
    with trio.move_on_after(0.5):
        await life.wait_exit()
    assert life.note == f"container was renamed to {yard.name}-renamed"
    with trio.fail_after(5):
        await life.kill()
        await life.release()
    assert yard.ours() == []


async def test_out_of_memory_kill_is_told(yard: Yard) -> None:
    life = await yard.launch("/bin/sh", "-c", "sleep 0.5; exec tail /dev/zero")
    yard.api.update_container(container_id(life), mem_limit="16m", memswap_limit="16m")
    with trio.fail_after(20):
        assert await life.wait_exit() == ExitStatus(code=137, oom=True)


async def test_usage_is_that_of_the_containers_processes(yard: Yard) -> None:
    life = await yard.launch("/bin/sh", "-c", "while :; do :; done")
    usage = await life.usage()
    assert usage.memory_bytes
    assert usage.cpu_percent is None or usage.cpu_percent > 5


async def test_usage_is_the_engines_word_where_it_is_on_another_host(yard: Yard) -> None:
    life = await yard.launch("/bin/sh", "-c", "while :; do :; done")
    distant = ContainerLife(
        yard.engine,
        await look(yard, life),
        Identity(nonce=life.identity.nonce, boot_id="boot", container_id=container_id(life)),
        log=life.log,
        tree=None,
        farewell=ContainerLife.release,
        conceal=show_all,
    )
    assert (await distant.usage()).cpu_percent is None
    usage = await distant.usage()
    assert usage.memory_bytes
    assert usage.cpu_percent is not None
    assert await distant.members() == frozenset()


async def look(yard: Yard, life: ContainerLife) -> Seen:
    seen = await inspect(yard.engine, container_id(life))
    assert seen is not None
    return seen


async def test_members_are_the_pids_of_this_host(yard: Yard) -> None:
    life = await yard.launch("/bin/sh", "-c", "sleep 1000 & sleep 1000 & wait")
    if life.identity.pid is None:
        assert await life.members() == frozenset()  # the engine is on another host
        return
    with trio.fail_after(5):
        while True:
            if len(await life.members()) == 3:
                break
            await trio.sleep(0.02)
    assert life.identity.pid in await life.survivors()


# Health.


async def test_health_follows_the_images_health_check_and_shows_no_secret_of_what_it_says(yard: Yard) -> None:
    order = yard.order(image=HEALTH_IMAGE)
    life = await yard.launcher.launch(replace(order, spec=replace(order.spec, secrets={"sick": "${WORD}"})))
    assert isinstance(life, ContainerLife)
    assert (await life.health()).passed
    assert (await life.run(["/bin/touch", "/sick"])).status.code == 0
    with trio.fail_after(10):
        while True:
            outcome = await life.health()
            if not outcome.passed:
                break
            await trio.sleep(0.05)
    assert outcome.conclusive
    assert outcome.message == "container is unhealthy: ${WORD}"


async def test_health_of_a_container_that_is_not_running_fails(yard: Yard) -> None:
    life = await yard.launch("/bin/true")
    await life.wait_exit()
    assert not (await life.health()).passed


async def test_end_that_a_probe_sees_before_any_event_is_an_exit_at_once(yard: Yard) -> None:
    life = await yard.launch()
    yard.engine.unwatch(life.watch)
    ended = None

    async def wait() -> None:
        nonlocal ended
        ended = await life.wait_exit()

    with trio.fail_after(10):
        async with trio.open_nursery() as tasks:
            tasks.start_soon(wait)
            await until(lambda: life.watch.changed.statistics().tasks_waiting)
            yard.api.kill(container_id(life))
            while (await life.health()).passed:
                await trio.sleep(0.02)
    assert ended == ExitStatus(code=137, oom=False)
    await life.release()


# Commands inside.


async def test_command_runs_in_the_containers_environment(yard: Yard) -> None:
    life = await yard.launch(env={"COLOUR": "blue"}, working_dir="/bin")
    result = await life.run(["/bin/sh", "-c", "echo $COLOUR $PWD; exit 4"])
    assert (result.status.code, result.tail) == (4, "blue /bin\n")


async def test_missing_command_is_not_spawned(yard: Yard) -> None:
    life = await yard.launch()
    with pytest.raises(SpawnFailedError, match="nope"):
        await life.run(["/nope"])


async def test_tail_is_the_end_of_a_long_output(yard: Yard) -> None:
    life = await yard.launch()
    result = await life.run(["/bin/sh", "-c", "seq 1 20000"])
    assert len(result.tail) == TAIL_BYTES
    assert result.tail.endswith("\n20000\n")


async def test_cancelled_command_leaves_nothing_behind(yard: Yard) -> None:
    life = await yard.launch()
    if life.identity.pid is None:
        return  # the engine is on another host
    before = await life.members()
    with trio.move_on_after(0.5):
        await life.run(["/bin/sh", "-c", "sleep 500 & (sleep 500 &) ; sleep 500"])
    assert await life.members() == before


async def test_process_that_cannot_be_looked_at_stops_no_other_task(
    yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = await yard.launch()
    if life.identity.pid is None:
        return  # the engine is on another host
    with hung_environment(life.identity.pid, tmp_path / "proc") as procfs:
        monkeypatch.setattr(tree, "PROC", procfs)
        cut = trio.current_time() + 0.3
        async with trio.open_nursery() as tasks:
            tasks.start_soon(run_until, cut, life, "/bin/sleep", "500")
            await trio.sleep_until(cut + 0.2)
            assert trio.current_time() < cut + 0.8
        assert trio.current_time() < cut + KILL_LIMIT + 0.5


async def run_until(deadline: float, life: ContainerLife, *command: str) -> None:
    with trio.CancelScope(deadline=deadline):
        await life.run(command)


@contextmanager
def hung_environment(pid: int, procfs: Path) -> Iterator[Path]:
    """A procfs in which the environment of one process cannot be read for a while, and no other is."""
    shown = procfs / str(pid)
    shown.mkdir(parents=True)
    for name in ("cgroup", "stat", "status"):
        (shown / name).symlink_to(f"/proc/{pid}/{name}")
    environment = shown / "environ"
    os.mkfifo(environment)
    release = threading.Timer(3.0, lambda: os.close(os.open(environment, os.O_RDWR | os.O_NONBLOCK)))
    release.start()
    yield procfs
    release.join()


# Launching.


async def test_missing_image_names_the_pull_command(yard: Yard) -> None:
    with pytest.raises(SpawnFailedError, match="docker pull stigmerd-absent:1"):
        await yard.launch(image="stigmerd-absent:1")


async def test_missing_program_is_told_and_its_container_removed(yard: Yard) -> None:
    with pytest.raises(SpawnFailedError, match="/nope"):
        await yard.launch("/nope")
    await until(lambda: not yard.ours())


async def test_bad_port_is_told(yard: Yard) -> None:
    with pytest.raises(SpawnFailedError, match=r"component\.c\.container\.ports"):
        await yard.launch(network="none", ports=("http",))


async def test_foreign_container_keeps_its_name(yard: Yard) -> None:
    foreign = yard.api.create_container("stigmerd-test:latest", ["/bin/true"], name=yard.name)["Id"]
    try:
        with pytest.raises(SpawnFailedError, match=foreign[:12]):
            await yard.launch()
        assert yard.api.inspect_container(foreign)["Id"] == foreign
    finally:
        yard.api.remove_container(foreign, force=True)


async def test_what_is_left_of_an_earlier_life_is_ended_first(yard: Yard) -> None:
    first = await yard.launch("/bin/sh", "-c", "echo last words; exec sleep 1000")
    await until(yard.log)
    second = yard.order(life=2)
    await yard.launcher.launch(second)
    assert yard.nonces() == {second.nonce}
    assert yard.log() == "last words\n"
    with trio.fail_after(5):
        await first.wait_exit()


async def test_cancelled_launch_leaves_no_container(yard: Yard) -> None:
    for delay in (0.01, 0.03, 0.06, 0.1):
        with trio.move_on_after(delay) as scope:
            await yard.launch()
        if scope.cancelled_caught:
            await until(lambda: not yard.ours())


async def test_gate_is_open_when_the_engine_answers(yard: Yard) -> None:
    assert await yard.launcher.check_gate(yard.order().spec) is None
    assert await yard.launcher.check_gate(yard.order(pull="missing").spec) is None


async def test_gate_is_shut_while_a_stranger_listens_on_a_port(yard: Yard) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        spec = replace(yard.order().spec, ports=(port,))
        shut = await yard.launcher.check_gate(spec)
        assert shut is not None
        assert (shut.reason, shut.message.partition(" (")[0]) == ("port", f"port {port} is taken by pid {os.getpid()}")
    assert await yard.launcher.check_gate(spec) is None


# After the death of a daemon.


async def test_running_container_is_adopted(yard: Yard) -> None:
    order = yard.order()
    life = await yard.launcher.launch(order)
    engine, launcher = make_launcher(yard.host, yard.folder)
    async with trio.open_nursery() as tasks:
        await tasks.start(launcher.serve)
        adopted = await launcher.adopt(order, life.identity)
        assert adopted is not None
        assert adopted.identity == life.identity
        assert adopted.is_alive()
        assert 0 <= adopted.age() < 10
        yard.api.kill(container_id(life), "SIGKILL")
        with trio.fail_after(5):
            assert (await adopted.wait_exit()).code == 137
        assert engine.trouble == ""
        tasks.cancel_scope.cancel()


async def test_nothing_that_is_not_provably_that_life_is_adopted(yard: Yard) -> None:
    order = yard.order()
    identity = (await yard.launcher.launch(order)).identity
    strange = Identity(nonce="other", boot_id="boot", container_id=identity.container_id)
    absent = Identity(nonce=order.nonce, boot_id="boot", container_id="0" * 64)
    other = replace(order, spec=replace(order.spec, name="d"))
    assert await yard.launcher.adopt(replace(order, nonce="other"), strange) is None
    assert await yard.launcher.adopt(order, absent) is None
    assert await yard.launcher.adopt(other, identity) is None


async def test_life_that_ended_unwatched_tells_its_exit_and_its_output_and_is_removed(yard: Yard) -> None:
    order = yard.order("/bin/sh", "-c", "echo first; sleep 0.5; echo last; exit 9")
    async with trio.open_nursery() as tasks:
        _, launcher = make_launcher(yard.host, yard.folder)
        await tasks.start(launcher.serve)
        identity = (await launcher.launch(order)).identity
        await until(yard.log)
        tasks.cancel_scope.cancel()
    await until(lambda: not yard.api.inspect_container(identity.container_id)["State"]["Running"])
    remains = await yard.launcher.adopt(order, identity)
    assert remains is not None
    assert not remains.is_alive()
    with trio.fail_after(5):
        assert await remains.wait_exit() == ExitStatus(code=9, oom=False)
        await remains.kill()
        await remains.release()
    assert yard.log() == "first\nlast\n"
    assert yard.ours() == []


async def test_container_that_was_started_anew_unwatched_is_no_more_that_life_and_is_ended(yard: Yard) -> None:
    order = yard.order()
    identity = (await yard.launcher.launch(order)).identity
    if identity.pid is None:
        return  # the engine is on another host
    _, launcher = make_launcher(yard.host, yard.folder)
    yard.api.restart(identity.container_id, timeout=0)
    async with trio.open_nursery() as tasks:
        await tasks.start(launcher.serve)
        remains = await launcher.adopt(order, identity)
        assert remains is not None
        assert not remains.is_alive()
        with trio.fail_after(10):
            assert await remains.wait_exit() == ExitStatus()
            await remains.kill()
            await remains.release()
        tasks.cancel_scope.cancel()
    assert yard.ours() == []


async def test_life_that_is_made_while_strays_are_ended_is_none(yard: Yard) -> None:
    strays: list[Stray] = []

    async def end_strays() -> None:
        while True:
            strays.extend(await yard.launcher.end_strays(frozenset()))

    async with trio.open_nursery() as tasks:
        tasks.start_soon(end_strays)
        life = await yard.launch()
        await trio.sleep(0.2)
        tasks.cancel_scope.cancel()
    assert life.is_alive()
    assert strays == []


async def test_strays_are_ended_and_their_output_is_kept(yard: Yard, tmp_path: Path) -> None:
    kept = await yard.launch("/bin/sh", "-c", "echo kept; sleep 1000")
    assert await yard.launcher.end_strays(frozenset({kept.identity.nonce})) == ()
    _, launcher = make_launcher(yard.host, yard.folder)
    async with trio.open_nursery() as tasks:
        await tasks.start(launcher.serve)
        with trio.fail_after(15):
            strays = await launcher.end_strays(frozenset())
        tasks.cancel_scope.cancel()
    assert strays == (Stray(component="c", container_id=container_id(kept), gone=True),)
    assert yard.ours() == []
    assert yard.log() == "kept\n"
