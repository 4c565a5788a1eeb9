"""Commands beside a life: hooks and exec probes."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import trio

from stigmerd.adapters.processes import cgroup
from stigmerd.adapters.processes.identity import find_ours
from stigmerd.engine.ports import TAIL_BYTES, SpawnFailedError
from tests.adapters.processes import IS_ROOT, bench, end, is_running, on_every_platform, wait_until


@on_every_platform
async def test_command_has_the_environment_and_folder_of_its_life(tmp_path: Path, offer: str) -> None:
    async with bench(tmp_path, offer) as at:
        life = await at.launch("sleep", "60", env={"OWN": "value"})
        result = await life.run(["sh", "-c", "echo $OWN $STIGMER_LIFE; pwd; exit 3"])
        assert result.status.code == 3
        assert result.tail == f"value {life.identity.nonce}\n{tmp_path}\n"
        await end(life)


async def test_command_runs_as_the_user_of_its_life(tmp_path: Path) -> None:
    if not IS_ROOT:
        return  # only root has other users
    async with bench(tmp_path) as at:
        life = await at.launch("sleep", "60", user="nobody", cwd="/")
        assert (await life.run(["id", "-un"])).tail == "nobody\n"
        await end(life)


@on_every_platform
async def test_end_of_a_long_output_is_kept(tmp_path: Path, offer: str) -> None:
    async with bench(tmp_path, offer) as at:
        life = await at.launch("sleep", "60")
        result = await life.run(["sh", "-c", "head -c 300000 /dev/zero | tr '\\0' x; printf 'é%.0s' $(seq 300)"])
        assert result.tail == "x" * (TAIL_BYTES - 600) + "é" * 300
        assert (await life.run(["printf", r"\377abc"])).tail == "�abc"
        await end(life)


async def test_endless_output_takes_no_memory_and_does_not_hold_up_the_end(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        life = await at.launch("sleep", "60")
        with trio.move_on_after(0.2) as scope:
            await life.run(["yes"])
        assert scope.cancelled_caught
        result = await life.run(["sh", "-c", "yes & sleep 0.05"])
        assert result.status.code == 0
        await end(life)


@on_every_platform
async def test_whole_tree_of_a_cancelled_command_is_dead_soon_after_its_end(tmp_path: Path, offer: str) -> None:
    script = "setsid sleep 60 & echo $! > child; sleep 60 & echo $$ > leader; trap '' TERM; wait; sleep 60"
    async with bench(tmp_path, offer) as at:
        life = await at.launch("sleep", "60")

        async def hang() -> None:
            with scope:
                await life.run(["sh", "-c", script])

        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hang)
            pids = [await at.pid("child"), await at.pid("leader")]
            assert not set(pids) & await life.members()
            scope.cancel()
            cancelled = trio.current_time()
        assert trio.current_time() - cancelled < 0.5
        await wait_until(lambda: not any(map(is_running, pids)))
        assert life.is_alive()
        await wait_until(lambda: [found.pid for found in find_ours(at.home)] == [life.identity.pid])
        await end(life)


@on_every_platform
async def test_what_a_command_leaves_in_its_group_is_ended_with_it(tmp_path: Path, offer: str) -> None:
    async with bench(tmp_path, offer) as at:
        life = await at.launch("sleep", "60")
        assert (await life.run(["sh", "-c", "sleep 60 & echo $! > left"])).status.code == 0
        left = await at.pid("left")
        with trio.fail_after(5):
            while is_running(left):
                await trio.sleep(0.001)
        await end(life)


@on_every_platform
async def test_what_a_command_sends_elsewhere_is_ended_with_the_life(tmp_path: Path, offer: str) -> None:
    async with bench(tmp_path, offer) as at:
        life = await at.launch("sleep", "60")
        await life.run(["sh", "-c", "setsid sh -c 'echo $$ > left; exec sleep 60' & while ! [ -s left ]; do :; done"])
        left = await at.pid("left")
        await end(life)
        assert not is_running(left)


@on_every_platform
async def test_life_can_be_ended_while_its_command_runs(tmp_path: Path, offer: str) -> None:
    async with bench(tmp_path, offer) as at:
        life = await at.launch("sleep", "60")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(life.run, ["sh", "-c", "echo > ready; exec sleep 60"])
            await at.read("ready")
            await life.terminate("SIGTERM")
            with trio.fail_after(5):
                await life.wait_gone()  # the command is no member
            nursery.cancel_scope.cancel()
        await end(life)


async def test_command_that_does_not_exist_is_refused_with_the_reason(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        life = await at.launch("sleep", "60")
        with pytest.raises(SpawnFailedError, match="/no/such: No such file or directory"):
            await life.run(["/no/such"])
        await end(life)


@pytest.mark.parametrize("offer", ["everything", "no cgroup"])
async def test_many_hung_commands_leave_no_process_descriptor_thread_or_leaf(tmp_path: Path, offer: str) -> None:
    async with bench(tmp_path, offer) as at:
        life = await at.launch("sleep", "60")
        await life.run(["true"])
        descriptors = len(os.listdir("/proc/self/fd"))

        async def hang() -> None:
            with trio.move_on_after(0.2):
                await life.run(["sh", "-c", "sleep 60 & wait"])

        for _ in range(4):
            async with trio.open_nursery() as nursery:
                for _ in range(15):
                    nursery.start_soon(hang)
        await wait_until(lambda: [found.pid for found in find_ours(at.home)] == [life.identity.pid])
        await wait_until(lambda: len(cgroup.leaves(at.home)) == (at.platform.cgroup is not None))
        await wait_until(lambda: len(os.listdir("/proc/self/fd")) == descriptors)
        assert threading.active_count() < 20
        await end(life)
