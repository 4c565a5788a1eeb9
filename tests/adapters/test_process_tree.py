"""Everything that comes from a life: found wherever it went, ended with it, and nobody else with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from stigmerd.adapters.processes import cgroup, proc
from stigmerd.adapters.processes.kin import LOOK_PERIOD, Scans, find_members
from stigmerd.adapters.processes.proc import Marks, Seen, Stat
from stigmerd.adapters.processes.reserve import Reserve
from tests.adapters.processes import bench, end, is_running, on_every_platform, wait_until

ESCAPE = """
import os, time
environment = {{}} if {clears} else dict(os.environ)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve("/bin/sh", ["sh", "-c", 'echo $$ > escaped; exec sleep 60'], environment)
    os._exit(0)
os.wait()
time.sleep(60)
"""
"""Double-forks a grandchild into a session of its own."""

SWARM = """
import os, sys, time
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        os.setsid()
        end = time.monotonic() + 20
        while time.monotonic() < end:
            time.sleep(float(sys.argv[2]))
            if os.fork():
                os._exit(0)
        os._exit(0)
open("ready", "w").write("yes\\n")
time.sleep(60)
"""
"""Some, never more, each in a session of its own, who go on as a new process at each beat for 20 seconds."""


@on_every_platform
async def test_grandchild_in_another_session_dies_with_the_life(tmp_path: Path, offer: str) -> None:
    async with bench(tmp_path, offer) as at:
        life = await at.python(ESCAPE.format(clears=False))
        escaped = await at.pid("escaped")
        assert escaped in await life.members()
        await end(life)
        assert not is_running(escaped)


async def test_grandchild_that_cleared_its_environment_dies_with_the_life_where_there_are_leaves(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as at:
        if at.platform.cgroup is None:
            return  # the documentation admits it
        for _ in range(5):
            life = await at.python(ESCAPE.format(clears=True))
            escaped = await at.pid("escaped")
            assert escaped in await life.members()
            await end(life)
            assert not is_running(escaped)
            (tmp_path / "escaped").unlink()


@on_every_platform
async def test_child_that_cleared_its_environment_dies_with_its_parent(tmp_path: Path, offer: str) -> None:
    async with bench(tmp_path, offer) as at:
        life = await at.sh("env -i setsid sh -c 'echo $$ > escaped; exec sleep 60' & wait")
        escaped = await at.pid("escaped")
        await end(life)
        assert not is_running(escaped)


@pytest.mark.skipif(sys.platform != "linux", reason="orphans come to us on Linux only")
async def test_orphan_that_nothing_told_apart_is_ended_once_no_life_goes_on(tmp_path: Path) -> None:
    async with bench(tmp_path, "no cgroup") as at:
        stays = await at.launch("sleep", "60", name="stays")
        life = await at.sh("(env -i setsid sh -c 'echo $$ > escaped; exec sleep 60' &); sleep 60")
        escaped = await at.pid("escaped")
        await wait_until(lambda: escaped in (proc.children() or ()))
        await end(life)
        assert is_running(escaped)
        await at.launcher.end_orphans()
        assert not is_running(escaped)
        assert stays.is_alive()  # it has an owner
        await end(stays)


@on_every_platform
async def test_exit_is_told_while_a_grandchild_holds_stdout(tmp_path: Path, offer: str) -> None:
    async with bench(tmp_path, offer) as at:
        life = await at.sh("sleep 60 & echo $! > left; exit 5")
        with trio.fail_after(2):
            assert (await life.wait_exit()).code == 5
        left = await at.pid("left")
        assert is_running(left)
        assert await life.survivors() == (left,)
        await end(life)
        assert not is_running(left)


@on_every_platform
async def test_life_is_not_gone_before_the_child_that_ignores_sigterm(tmp_path: Path, offer: str) -> None:
    async with bench(tmp_path, offer) as at:
        life = await at.sh("touch hold; (trap '' TERM; echo > ready; while [ -e hold ]; do sleep 0.01; done) & wait")
        await at.read("ready")
        await life.terminate("SIGTERM")
        assert (await life.wait_exit()).signal == "SIGTERM"
        assert len(await life.survivors()) >= 1
        os.unlink(tmp_path / "hold")
        with trio.fail_after(5):
            await life.wait_gone()
        assert await life.survivors() == ()
        await end(life)


@pytest.mark.parametrize(("offer", "size", "beat"), [("everything", 8, 0.002), ("no cgroup", 3, 0.02)])
async def test_forking_swarm_is_ended(tmp_path: Path, offer: str, size: int, beat: float) -> None:
    async with bench(tmp_path, offer) as at:
        life = await at.python(SWARM, str(size), str(beat))
        await at.read("ready")
        await end(life)
        assert await life.survivors() == ()


async def test_processes_of_a_life_in_nested_cgroups_die_with_it(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        if at.platform.cgroup is None:
            return
        life = await at.launch("sleep", "60")
        leaf = Path(life.identity.cgroup or "")
        (leaf / "inner").mkdir()
        (leaf / "inner" / "cgroup.procs").write_text(str(life.identity.pid))
        assert await life.members() == {life.identity.pid}
        await end(life)
        assert cgroup.leaves(at.home) == []


@on_every_platform
async def test_neighbours_and_strangers_live_on(tmp_path: Path, offer: str) -> None:
    async with bench(tmp_path, offer) as at:
        stranger = subprocess.Popen(["sleep", "60"])
        neighbour = await at.launch("sleep", "60", name="neighbour")
        life = await at.launch("sleep", "60")
        await end(life)
        assert neighbour.is_alive()
        assert stranger.poll() is None
        stranger.kill()
        stranger.wait()
        await end(neighbour)


DESERTER = """
import os, time
if os.fork() == 0:
    os.setsid()
    with open({root!r} + "/cgroup.procs", "w") as procs:
        procs.write("0")
    if os.fork() == 0:
        os.execv("/bin/sh", ["sh", "-c", "echo $$ > escaped; exec sleep 60"])
    os._exit(0)
time.sleep(60)
"""
"""Moves a grandchild into another cgroup, which root can."""


def root_of_cgroups() -> str:
    """Where root may move processes to."""
    base = cgroup.find_base("/")
    if os.geteuid() != 0 or base is None:
        pytest.skip("Linux only, and only where root has cgroups of its own")
    return os.path.dirname(base)


@pytest.mark.parametrize("ending", ["stop", "kill"])
async def test_stop_ends_who_left_the_leaf(tmp_path: Path, ending: str) -> None:
    async with bench(tmp_path) as at:
        life = await at.python(DESERTER.format(root=root_of_cgroups()))
        escaped = await at.pid("escaped")
        if ending == "kill":
            await life.kill()
        else:
            await life.terminate("SIGTERM")
            with trio.move_on_after(0.3) as grace:
                await life.wait_gone()
            assert grace.cancelled_caught, "somebody is alive"
            assert await life.survivors() == (escaped,)
            await life.kill()
        assert not is_running(escaped)
        await life.release()


async def test_who_left_the_leaf_of_a_life_that_crashed_is_ended_a_moment_later(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        life = await at.python(DESERTER.format(root=root_of_cgroups()))
        escaped = await at.pid("escaped")
        await life.signal_leader("SIGKILL")
        await life.wait_exit()
        await life.kill()
        await life.release()
        other = await at.launch("sleep", "60")
        await wait_until(lambda: not is_running(escaped))
        assert other.is_alive()
        await end(other)


async def test_simple_stop_does_not_wait_out_a_period_of_looking(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        taken = []
        for _ in range(10):
            life = await at.launch("sleep", "60")
            await wait_until(lambda life=life: b"sleep" in Path(f"/proc/{life.identity.pid}/comm").read_bytes())  # type: ignore[misc]
            began = trio.current_time()
            await life.terminate("SIGTERM")
            await life.wait_gone()
            await end(life)
            taken.append(trio.current_time() - began)
        assert min(taken) < LOOK_PERIOD


async def test_looks_are_shared_by_all_who_asked_before_one_began() -> None:
    scans = Scans(Reserve())
    seen: list[list[Seen]] = []

    async def ask() -> None:
        seen.append(await scans.fresh())

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(ask)
    assert len(seen) == 50
    assert len({id(one) for one in seen}) <= 2


async def test_look_that_is_given_up_leaves_the_others_theirs() -> None:
    scans = Scans(Reserve())
    with trio.CancelScope() as scope:
        scope.cancel()
        await scans.fresh()
    assert any(seen.pid == os.getpid() for seen in await scans.fresh())


def _seen(pid: int, ppid: int, *, session: int = 0, nonce: str | None = None) -> Seen:
    marks = Marks("/home", "worker", nonce) if nonce is not None else None
    return Seen(Stat(pid, "S", ppid, session, False, 1, 100, 0), marks)


def test_descendants_are_members_and_we_ourselves_never() -> None:
    us = os.getpid()
    everybody = [
        _seen(us, 1, nonce="1-a"),
        _seen(1_000_001, us, nonce="1-a"),
        _seen(1_000_002, 1_000_001),
        _seen(1_000_003, 1_000_002),
        _seen(1_000_004, us),
        _seen(1_000_005, 1, session=1_000_001),
        _seen(1_000_006, 1, nonce="1-b"),
        _seen(1_000_007, 1),
    ]
    members = find_members(
        everybody, 1_000_001, {(1_000_007, 100), (1_000_004, 99)}, lambda marks: marks.nonce == "1-a"
    )
    assert {seen.pid for seen in members} == {1_000_001, 1_000_002, 1_000_003, 1_000_005, 1_000_007}


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
async def test_daemon_inside_a_leaf_survives_the_end_of_that_leaf(tmp_path: Path) -> None:
    script = """
import os, subprocess, sys
from stigmerd.adapters.processes.cgroup import Leaf
child = subprocess.Popen(["sleep", "60"])
Leaf(sys.argv[1]).kill()
print("killed by", -child.wait(), flush=True)
"""
    async with bench(tmp_path) as at:
        if at.platform.cgroup is None:
            return
        order = at.order(sys.executable, "-c", script, f"{at.platform.cgroup}/worker.1-inside", nonce="1-inside")
        life = await at.launcher.launch(order)
        assert (await life.wait_exit()).code == 0
        assert at.log == "killed by 9\n"
        await end(life)
