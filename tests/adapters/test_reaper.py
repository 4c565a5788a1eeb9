"""Orphans: no zombies of them, and no exit code stolen from anybody."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio
import trio.testing

from stigmerd.adapters.processes import proc
from stigmerd.adapters.processes.reaper import Children
from tests.adapters.processes import bench, end, wait_until

ORPHANER = """
import os, sys
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        if os.fork() == 0:
            os.setsid()
        os._exit(0)
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
sys.exit(11)
"""
"""Leaves as many orphans as it is told."""


def _zombies() -> list[int]:
    stats = (proc.read_stat(pid) for pid in proc.pids())
    return [s.pid for s in stats if s is not None and s.ppid == os.getpid() and not s.is_alive]


async def test_orphans_leave_no_zombies_and_all_exit_codes_are_right(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        codes: list[int | None] = []

        async def one(number: int) -> None:
            if number % 10 == 0:
                life = await at.launch(sys.executable, "-S", "-c", ORPHANER, "100", name=f"worker-{number}")
            else:
                life = await at.launch("sh", "-c", f"exit {number}", name=f"worker-{number}")
            codes.append((await life.wait_exit()).code)
            await end(life)

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(one, number)
        assert sorted(code or 0 for code in codes) == sorted(11 if n % 10 == 0 else n for n in range(100))
        await wait_until(lambda: _zombies() == [])


async def test_commands_keep_their_exit_codes_among_orphans(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        life = await at.launch(sys.executable, "-S", "-c", ORPHANER, "200")
        for number in range(30):
            assert (await life.run(["sh", "-c", f"exit {number}"])).status.code == number
        await end(life)


async def test_orphans_are_reaped_behind_a_life_that_is_dead_and_not_released(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        dead = await at.launch("true", name="dead")
        await dead.wait_exit()
        life = await at.launch(sys.executable, "-S", "-c", ORPHANER, "20")
        assert (await life.wait_exit()).code == 11
        await end(life)
        await wait_until(lambda: _zombies() == [dead.identity.pid])
        assert (await dead.wait_exit()).code == 0
        await end(dead)


async def test_child_that_somebody_here_waits_for_is_left_to_them(tmp_path: Path) -> None:
    async with bench(tmp_path):
        process = subprocess.Popen(["sh", "-c", "exit 5"])
        await wait_until(lambda: process.pid in _zombies())
        await trio.testing.wait_all_tasks_blocked()
        assert process.wait() == 5


def test_session_leader_may_be_a_spawn_that_is_not_claimed_yet() -> None:
    children = Children()
    with children.spawning():
        process = subprocess.Popen(["sh", "-c", "exit 5"], start_new_session=True)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        children.reap_hidden()
        children.claim(process.pid)
    children.reap_hidden()
    children.reap_visible()
    assert process.wait() == 5


def test_disclaimed_child_is_reaped_when_it_dies() -> None:
    children = Children()
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    children.claim(process.pid)
    children.disclaim(process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    children.reap_hidden()
    assert proc.read_stat(process.pid) is None
    process.returncode = -9


@pytest.mark.skipif(sys.platform != "linux", reason="orphans come to us on Linux only")
def test_children_that_were_here_before_are_no_orphans_to_be_killed() -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as before:
        children = Children()
        with subprocess.Popen(["sleep", "60"], start_new_session=True) as orphan:
            deadline = time.monotonic() + 10
            while children.kill_orphans():
                assert time.monotonic() < deadline
            assert proc.read_stat(orphan.pid) is None
        assert before.poll() is None
        before.kill()
