"""One process as a life: its exit, its signals, its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trio.testing

from stigmerd.adapters.processes import proc
from stigmerd.core.exit_status import ExitStatus
from tests.adapters.processes import bench, end, is_running, on_every_platform, wait_until


@on_every_platform
@pytest.mark.parametrize("code", [0, 1, 78, 255])
async def test_exit_code_is_told(tmp_path: Path, offer: str, code: int) -> None:
    async with bench(tmp_path, offer) as at:
        life = await at.sh(f"exit {code}")
        assert await life.wait_exit() == ExitStatus(code=code)
        assert not life.is_alive()
        await end(life)
        assert await life.wait_exit() == ExitStatus(code=code)


@on_every_platform
async def test_signal_that_killed_is_told(tmp_path: Path, offer: str) -> None:
    async with bench(tmp_path, offer) as at:
        life = await at.launch("sleep", "60")
        assert life.is_alive()
        await life.signal_leader("SIGUSR1")
        assert (await life.wait_exit()).signal == "SIGUSR1"
        await end(life)


@on_every_platform
async def test_exit_is_seen_within_50_ms_and_the_leader_is_not_reaped_by_that(tmp_path: Path, offer: str) -> None:
    async with bench(tmp_path, offer) as at:
        life = await at.launch("sleep", "60")
        assert life.identity.pid is not None
        os.kill(life.identity.pid, signal.SIGKILL)
        began = trio.current_time()
        await life.wait_exit()
        assert trio.current_time() - began < 0.05
        assert proc.read_stat(life.identity.pid) is not None
        await end(life)
        assert proc.read_stat(life.identity.pid) is None


@on_every_platform
async def test_any_number_of_tasks_wait_for_one_exit_and_may_give_up(tmp_path: Path, offer: str) -> None:
    seen: list[ExitStatus] = []
    async with bench(tmp_path, offer) as at:
        life = await at.launch("sleep", "60")

        async def watch() -> None:
            seen.append(await life.wait_exit())

        async with trio.open_nursery() as nursery:
            with trio.move_on_after(0.03):
                async with trio.open_nursery() as impatient:
                    impatient.start_soon(life.wait_gone)
                    await trio.testing.wait_all_tasks_blocked()
                    for _ in range(5):
                        nursery.start_soon(watch)
            await life.signal_leader("SIGTERM")
        assert seen == [ExitStatus(signal="SIGTERM")] * 5
        await end(life)


@on_every_platform
async def test_process_that_ignores_sigterm_is_killed(tmp_path: Path, offer: str) -> None:
    async with bench(tmp_path, offer) as at:
        life = await at.sh("trap '' TERM; echo ready > ready; while :; do sleep 0.01; done")
        await at.read("ready")
        await life.terminate("SIGTERM")
        with trio.move_on_after(0.05) as grace:
            await life.wait_gone()
        assert grace.cancelled_caught
        assert life.identity.pid in await life.survivors()
        await end(life)
        assert await life.survivors() == ()


@on_every_platform
async def test_stopped_process_sees_the_stop_signal(tmp_path: Path, offer: str) -> None:
    async with bench(tmp_path, offer) as at:
        life = await at.launch("sleep", "60")
        await life.signal_leader("SIGSTOP")
        await life.terminate("SIGTERM")
        with trio.fail_after(5):
            assert (await life.wait_exit()).signal == "SIGTERM"
            await life.wait_gone()
        await end(life)


async def test_process_whose_main_thread_has_exited_still_runs(tmp_path: Path) -> None:
    script = """
import ctypes, threading, time
threading.Thread(target=lambda: (time.sleep(0.2), print("other thread ends", flush=True))).start()
open("ready", "w").write("yes\\n")
ctypes.CDLL(None).pthread_exit(None)
"""
    async with bench(tmp_path) as at:
        life = await at.python(script)
        await at.read("ready")
        stat = Path(f"/proc/{life.identity.pid}/stat")
        await wait_until(lambda: " Z " in stat.read_text())
        assert life.is_alive()
        assert await life.members() == {life.identity.pid}
        assert (await life.wait_exit()).code == 0
        assert at.log == "other thread ends\n"
        await end(life)


TRACER = """
import ctypes, sys, time
if ctypes.CDLL(None).ptrace(0x4206, int(sys.argv[1]), None, None) != 0:
    sys.exit(1)
print("tracing", flush=True)
time.sleep(60)
"""
"""PTRACE_SEIZE, and no wait for what happens to the tracee: a debugger at its prompt."""

TRACEABLE = """
import ctypes, time
ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1))  # PR_SET_PTRACER: where only ancestors may, anybody may
open("ready", "w").write("ready\\n")
time.sleep(60)
"""


async def test_exit_under_a_debugger_that_takes_no_note_of_it_is_seen(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        life = await at.python(TRACEABLE)
        pid = life.identity.pid or 0
        await at.read("ready")
        with subprocess.Popen([sys.executable, "-c", TRACER, str(pid)], stdout=subprocess.PIPE, text=True) as tracer:
            assert tracer.stdout is not None
            assert await trio.to_thread.run_sync(tracer.stdout.readline) == "tracing\n"
            os.kill(pid, signal.SIGKILL)
            with trio.fail_after(5):
                assert await life.wait_exit() == ExitStatus(signal="SIGKILL")
                await end(life)
            assert not life.is_alive()
            tracer.kill()
        await wait_until(lambda: proc.read_stat(pid) is None)  # and no zombie stays


async def test_age_counts_from_the_spawn(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        life = await at.launch("sleep", "60")
        await trio.sleep(0.05)
        assert 0.05 <= life.age() < 1
        await end(life)


async def test_usage_is_of_the_whole_tree(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        life = await at.sh("(while :; do :; done) & wait")
        with trio.fail_after(10):  # on a busy machine the loop may not run while it is looked at
            while not ((usage := await life.usage()).cpu_percent or 0) > 5:
                pass
        assert usage.memory_bytes is not None
        assert usage.memory_bytes > 100_000
        await end(life)


async def test_life_that_is_over_can_be_asked_anything(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        life = await at.sh("exit 3")
        await life.wait_exit()
        await end(life)
        await life.signal_leader("SIGTERM")
        await life.terminate("SIGTERM")
        await life.wait_gone()
        await life.kill()
        assert await life.members() == frozenset()
        assert (await life.usage()).memory_bytes == 0


async def test_hundreds_of_lives_leave_no_descriptor_and_no_process(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        await end(await at.launch("true"))
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(100):
            lives = [await at.launch("sleep", "60", name=f"worker-{n}") for n in range(3)]
            for life in lives:
                await end(life)
                assert life.identity.pid is not None
                assert not is_running(life.identity.pid)
        assert len(os.listdir("/proc/self/fd")) == before
