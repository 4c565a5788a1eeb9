"""What a stop needs is there although threads and descriptors have run out."""

from __future__ import annotations

import errno
import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import trio

from stigmerd.adapters.processes import cgroup, proc
from stigmerd.adapters.processes.reserve import Reserve, describe_shortage
from tests.adapters.processes import bench, end, is_running, on_every_platform

HUGE = 1 << 46
"""Bytes that no thread can have for its stack."""

RESIDENT = frozenset(threading.enumerate())
"""Threads that were there before any test, and are no workers."""


@contextmanager
def no_more_threads() -> Iterator[None]:
    """Let no thread be started, and none of those that are there be idle."""
    former = threading.stack_size()
    over = threading.Event()
    held = {threading.current_thread()}

    def hold() -> None:
        held.add(threading.current_thread())
        over.wait()

    threading.stack_size(HUGE)
    try:
        deadline = time.monotonic() + 5
        # What an earlier test left to itself may still be at work, and its thread be idle in a moment.
        while _workers() - held and time.monotonic() < deadline:
            with suppress(RuntimeError):
                while True:  # those that idle are made use of first
                    trio.lowlevel.start_thread_soon(hold, lambda _: None)
            time.sleep(0.005)
        yield
    finally:
        threading.stack_size(former)
        over.set()


def _workers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread not in RESIDENT and thread.name != "reserve"}


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Leave this many descriptors, and room for no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1 + count, hard))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(2))
        for _ in range(count):
            os.close(taken.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)


async def test_job_is_done_in_the_thread_held_back_where_no_other_can_be_started() -> None:
    limiter = trio.CapacityLimiter(1)
    with Reserve() as reserve, no_more_threads():
        assert await reserve.run(lambda: threading.current_thread().name, limiter) == "reserve"
    assert limiter.borrowed_tokens == 0


async def test_error_of_a_job_is_its_callers_wherever_it_was_done() -> None:
    with Reserve() as reserve:
        with pytest.raises(ZeroDivisionError):
            await reserve.run(lambda: 1 // 0, trio.CapacityLimiter(1))
        with no_more_threads(), pytest.raises(ZeroDivisionError):
            await reserve.run(lambda: 1 // 0, trio.CapacityLimiter(1))


async def test_job_that_was_given_up_holds_up_only_the_thread() -> None:
    go_on = threading.Event()
    with Reserve() as reserve, no_more_threads():
        with trio.move_on_after(0.05) as scope:
            await reserve.run(go_on.wait, trio.CapacityLimiter(1))
        assert scope.cancelled_caught
        go_on.set()
        assert await reserve.run(lambda: "done", trio.CapacityLimiter(1)) == "done"


@pytest.mark.parametrize("is_held_back", [True, False])
async def test_job_for_which_no_thread_could_be_held_back_waits_until_there_is_one(is_held_back: bool) -> None:
    done: list[str] = []

    async def run(reserve: Reserve) -> None:
        done.append(await reserve.run(lambda: "done", trio.CapacityLimiter(1)))

    with trio.fail_after(10), ExitStack() as stack:
        async with trio.open_nursery() as jobs:
            with no_more_threads():
                reserve = Reserve()
                if is_held_back:
                    stack.enter_context(reserve)
                jobs.start_soon(run, reserve)
                await trio.sleep(0.3)
                assert done == []
        assert done == ["done"]


async def test_thread_that_a_shortage_refused_is_held_back_for_the_next_one() -> None:
    with trio.fail_after(10), ExitStack() as stack:
        with no_more_threads():
            reserve = stack.enter_context(Reserve())
        assert await reserve.run(lambda: "done", trio.CapacityLimiter(1)) == "done"
        with no_more_threads():
            assert await reserve.run(lambda: threading.current_thread().name, trio.CapacityLimiter(1)) == "reserve"


async def test_what_a_shortage_refuses_is_tried_until_it_is_over() -> None:
    answers = iter([errno.EMFILE, errno.ENFILE, 0])

    def look() -> str:
        if number := next(answers):
            raise OSError(number, os.strerror(number))
        return "seen"

    assert await Reserve().run(look, trio.CapacityLimiter(1)) == "seen"


@on_every_platform
async def test_life_is_ended_with_all_of_it_where_no_thread_can_be_started(tmp_path: Path, offer: str) -> None:
    async with bench(tmp_path, offer) as at:
        life = await at.sh("setsid sh -c 'echo $$ > escaped; exec sleep 60' & exec sleep 60")
        escaped = await at.pid("escaped")
        with no_more_threads():
            await end(life)
        assert not is_running(escaped)


def test_who_cannot_be_looked_at_is_not_taken_for_absent() -> None:
    with descriptors_left(0):
        for look in (proc.look, lambda: proc.read_stat(os.getpid()), lambda: proc.read_marks(os.getpid())):
            with pytest.raises(OSError, match="Too many open files"):
                look()
        assert cgroup.Leaf("/").is_populated()
    assert not cgroup.Leaf("/").is_populated()


def test_shortage_of_descriptors_is_said_and_how_many_are_left() -> None:
    assert describe_shortage(2) is None
    with descriptors_left(5):
        assert (describe_shortage(2) or "").startswith("5 descriptors are left of ")
    with descriptors_left(0):
        assert (describe_shortage(2) or "").startswith("no descriptor is left")
    assert describe_shortage(2) is None
