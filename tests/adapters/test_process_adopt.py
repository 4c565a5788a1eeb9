"""After the death of a daemon: what is proven to be ours is taken over, what is not is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import trio

from stigmerd.adapters.processes import proc
from stigmerd.adapters.processes.identity import boot_id
from stigmerd.adapters.processes.process import ProcessLife
from stigmerd.core.record import Identity
from stigmerd.engine.ports import LaunchOrder
from tests.adapters.processes import Bench, bench, end, is_running, on_every_platform

FORMER_DAEMON = """
import os, sys, msgspec, trio
from pathlib import Path
from stigmerd.core.record import Identity
from tests.adapters.processes import bench

async def main():
    async with bench(Path(sys.argv[1]), sys.argv[2]) as at:
        order = at.order(*sys.argv[3:], nonce="1-former")
        life = await at.launcher.launch(order)
        sys.stdout.buffer.write(msgspec.json.encode(life.identity))
        sys.stdout.flush()
        os._exit(9)

trio.run(main)
"""


async def _orphan(at: Bench, offer: str, *argv: str) -> tuple[LaunchOrder, Identity]:
    """A life whose daemon died as by SIGKILL, right after writing down who it is."""
    process = await trio.run_process(
        [sys.executable, "-c", FORMER_DAEMON, at.home, offer, *argv], capture_stdout=True, check=False
    )
    return at.order(*argv, nonce="1-former"), msgspec.json.decode(process.stdout, type=Identity)


async def _adopt(at: Bench, order: LaunchOrder, identity: Identity) -> ProcessLife:
    life = await at.launcher.adopt(order, identity)
    assert life is not None
    return life


@on_every_platform
async def test_life_of_a_dead_daemon_is_adopted_and_ended_with_all_of_it(tmp_path: Path, offer: str) -> None:
    async with bench(tmp_path, offer) as at:
        script = "setsid sh -c 'echo $$ > child; exec sleep 60' & wait"
        order, identity = await _orphan(at, offer, "sh", "-c", script)
        child = await at.pid("child")
        life = await _adopt(at, order, identity)
        assert life.identity == identity
        assert life.is_alive()
        assert {identity.pid, child} <= await life.members()
        assert 0 <= life.age() < 60
        await life.terminate("SIGTERM")
        await life.wait_exit()
        await end(life)
        assert not is_running(child)


@pytest.mark.parametrize("offer", ["everything", "no cgroup"])
@pytest.mark.parametrize(("script", "status"), [("exit 7", (7, None)), ("kill -USR1 $$", (None, "SIGUSR1"))])
async def test_exit_of_an_adopted_life_is_seen_at_once_and_exact(
    tmp_path: Path, offer: str, script: str, status: tuple[int | None, str | None]
) -> None:
    async with bench(tmp_path, offer) as at:
        wait = f"while [ -e {tmp_path}/hold ]; do sleep 0.01; done; "
        (tmp_path / "hold").touch()
        order, identity = await _orphan(at, offer, "sh", "-c", wait + script)
        life = await _adopt(at, order, identity)
        (tmp_path / "hold").unlink()
        with trio.fail_after(5):
            seen = await life.wait_exit()
        assert (seen.code, seen.signal) == status
        await end(life)


async def test_own_child_that_died_while_the_program_was_replaced_is_adopted_with_its_exit_code(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as at:
        life = await at.launch("sh", "-c", "exit 6", nonce="1-own")
        await life.wait_exit()
        order = at.order("sh", "-c", "exit 6", nonce="1-own")
        adopted = await _adopt(at, order, life.identity)
        assert (await adopted.wait_exit()).code == 6
        await end(adopted)
        await end(life)


async def test_zombie_is_left_to_adoption_by_the_reaper_of_the_next_program(tmp_path: Path) -> None:
    script = """
import os, subprocess, sys, trio
from stigmerd.adapters.processes.reaper import Children
if sys.argv[1:] == []:
    child = subprocess.Popen(["sh", "-c", "exit 6"], start_new_session=True)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    os.execv(sys.executable, [sys.executable, "-c", open("/proc/self/cmdline").read().split("\\0")[2], str(child.pid)])
children = Children()
children.reap_visible()
children.reap_hidden()
assert os.waitstatus_to_exitcode(os.waitpid(int(sys.argv[1]), 0)[1]) == 6
"""
    await trio.run_process([sys.executable, "-c", script])


@on_every_platform
async def test_life_that_is_over_is_not_adopted_and_what_is_left_of_it_is_ended(tmp_path: Path, offer: str) -> None:
    async with bench(tmp_path, offer) as at:
        life = await at.launch("sh", "-c", "setsid sleep 60 & echo $! > child", nonce="1-former")
        child = await at.pid("child")
        await life.wait_exit()
        await life.release()
        assert is_running(child)
        assert await at.launcher.adopt(at.order("sh", nonce="1-former"), life.identity) is None
        assert not is_running(child)


@on_every_platform
@pytest.mark.parametrize("pid", [-1, 0, 1, pytest.param(os.getpid(), id="own"), None])
async def test_record_that_names_no_component_leads_to_no_signal(tmp_path: Path, offer: str, pid: int | None) -> None:
    async with bench(tmp_path, offer) as at:
        ticks = proc.start_ticks(pid) if pid is not None and pid > 0 else None
        identity = Identity(nonce="1-former", boot_id=boot_id(), pid=pid, start_ticks=ticks)
        assert await at.launcher.adopt(at.order("true"), identity) is None


@on_every_platform
@pytest.mark.parametrize("nonce", ["1-other", None])
async def test_stranger_with_the_pid_and_start_time_of_a_former_life_is_left_alone(
    tmp_path: Path, offer: str, nonce: str | None
) -> None:
    environment = {"PATH": "/bin:/usr/bin"}
    if nonce is not None:
        environment |= {"STIGMER_HOME": "/elsewhere", "STIGMER_COMPONENT": "worker", "STIGMER_LIFE": nonce}
    async with bench(tmp_path, offer) as at:
        former = await at.launch("true", nonce="1-former")
        await former.wait_exit()
        await end(former)
        stranger = await _on_pid(former.identity.pid or 0, environment)
        stolen = msgspec.structs.replace(former.identity, pid=stranger.pid, start_ticks=proc.start_ticks(stranger.pid))
        try:
            assert await at.launcher.adopt(at.order("true"), stolen) is None
            assert await at.launcher.end_strays([]) == []
            await end(former)
            await former.terminate("SIGTERM")
            await former.signal_leader("SIGTERM")
            assert stranger.poll() is None
        finally:
            stranger.kill()
            stranger.wait()


async def _on_pid(pid: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """A stranger, on this very pid where the kernel lets us choose it."""
    for _ in range(50):
        try:
            with open("/proc/sys/kernel/ns_last_pid", "w") as file:
                file.write(str(pid - 1))
        except OSError:
            return subprocess.Popen(["sleep", "60"], env=environment, start_new_session=True)
        stranger = subprocess.Popen(["sleep", "60"], env=environment, start_new_session=True)
        if stranger.pid == pid:
            break
        stranger.kill()
        stranger.wait()
    return stranger


@on_every_platform
async def test_strays_are_ended_and_named_and_claimed_lives_are_kept(tmp_path: Path, offer: str) -> None:
    async with bench(tmp_path, offer) as at:
        kept = await at.launch("sleep", "60", name="kept", nonce="1-kept")
        stray = await at.launch("sh", "-c", "trap '' TERM; sleep 60", name="stray", nonce="3-stray")
        strays = await at.launcher.end_strays(["1-kept"])
        assert [(one.component, one.nonce, one.gone) for one in strays] == [("stray", "3-stray", True)]
        assert stray.identity.pid in strays[0].pids
        assert kept.is_alive()
        assert not stray.is_alive()
        await end(kept)
        await end(stray)


@on_every_platform
async def test_commands_of_a_dead_daemon_are_strays_although_their_life_is_kept(tmp_path: Path, offer: str) -> None:
    async with bench(tmp_path, offer) as at:
        life = await at.launch("sleep", "60")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(life.run, ["sh", "-c", "echo $$ > command; exec sleep 60"])
            command = await at.pid("command")
            strays = await at.launcher.end_strays([life.identity.nonce])
            assert [one.pids for one in strays] == [(command,)]
            nursery.cancel_scope.cancel()
        assert life.is_alive()
        await end(life)
