"""The helper that clones lives into their leaves: bounded, replaced, and never in anybody's way."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest
import trio
import trio.testing

from stigmerd.adapters.processes import cgroup, identity, prepare, proc, spawner, spawner_link
from stigmerd.adapters.processes.cgroup import Leaf
from stigmerd.engine.ports import SpawnFailedError
from tests.adapters.processes import Bench, bench, end, is_running, wait_until


@pytest.fixture
def leaves(tmp_path: Path) -> None:
    """Where no leaves can be made, there is no helper to test. A skip inside a nursery would lose its reason."""
    base = cgroup.find_base(str(tmp_path))
    if base is None:
        pytest.skip("Linux only, with a cgroup v2 folder of our own")
    cgroup.remove_base(base)


@pytest.fixture
async def at(tmp_path: Path, leaves: None) -> AsyncIterator[Bench]:
    """A bench whose lives come from the helper."""
    async with bench(tmp_path) as made:
        yield made


def _helpers() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.ZombieProcess):  # left by another test
            if any("spawner.main" in word for word in child.cmdline()):
                found.append(child)
    return found


async def _helper(at: Bench) -> psutil.Process:
    """The helper, once it has spawned something."""
    await end(await at.launch("true"))
    (helper,) = _helpers()
    return helper


def _leaf(at: Bench, nonce: str) -> Leaf:
    assert at.platform.cgroup is not None
    return cgroup.leaf_in(at.platform.cgroup, "worker", nonce)


def _freeze(leaf: Leaf) -> None:
    """Let nothing that is born in it come as far as its first instruction."""
    leaf.create()
    Path(leaf.path, "cgroup.freeze").write_text("1")


async def test_life_is_a_child_of_ours_and_born_in_its_leaf(at: Bench) -> None:
    life = await at.launch("sh", "-c", "cat /proc/self/cgroup; sleep 60")
    pid = life.identity.pid
    assert pid is not None
    stat = proc.read_stat(pid)
    assert stat is not None
    assert stat.ppid == os.getpid()
    assert life.identity.cgroup is not None
    assert (proc.cgroup_of(pid) or "").endswith(os.path.basename(life.identity.cgroup))
    await end(life)


async def test_helper_is_no_life_of_ours_and_holds_nothing_of_ours(at: Bench) -> None:
    helper = await _helper(at)
    assert helper.pid not in {found.pid for found in identity.find_ours(at.home)}
    names = {os.readlink(f"/proc/{helper.pid}/fd/{fd}").split(":")[0] for fd in os.listdir(f"/proc/{helper.pid}/fd")}
    assert names == {"socket", "/dev/null"}


async def test_helper_that_was_killed_is_buried_and_replaced(at: Bench) -> None:
    helper = await _helper(at)
    helper.kill()
    await wait_until(lambda: proc.read_stat(helper.pid) is None)
    assert (await _helper(at)).pid != helper.pid


async def test_order_that_meets_a_helper_just_killed_is_carried_out_by_the_next(at: Bench) -> None:
    helper = await _helper(at)
    helper.kill()
    os.waitid(os.P_PID, helper.pid, os.WEXITED | os.WNOWAIT)
    await end(await at.launch("true"))


async def test_order_that_dies_with_the_helper_is_a_failed_spawn(at: Bench) -> None:
    helper = await _helper(at)
    helper.suspend()
    async with trio.open_nursery() as nursery:
        with pytest.raises(SpawnFailedError, match="was killed"):  # noqa: PT012  (killed while it is awaited)
            nursery.start_soon(trio.to_thread.run_sync, helper.kill)
            await at.launch("sleep", "60", nonce="1-lost")
    await wait_until(lambda: not os.path.exists(_leaf(at, "1-lost").path))
    await end(await at.launch("true"))


async def test_order_that_was_given_up_before_it_was_read_leaves_nothing_alive(at: Bench) -> None:
    helper = await _helper(at)
    helper.suspend()
    with trio.move_on_after(0.05) as scope:
        await at.launch("sleep", "60", nonce="1-late")
    assert scope.cancelled_caught
    helper.resume()
    await wait_until(lambda: not os.path.exists(_leaf(at, "1-late").path))


async def test_helper_that_says_nothing_for_long_is_replaced(at: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawner_link, "SILENCE", 0.01)
    helper = await _helper(at)
    helper.suspend()
    with trio.move_on_after(0.05) as scope:
        await at.launch("sleep", "60", nonce="1-late")
    assert scope.cancelled_caught
    with trio.fail_after(5):
        await end(await at.launch("true"))
    assert proc.read_stat(helper.pid) is None
    await wait_until(lambda: not os.path.exists(_leaf(at, "1-late").path))


async def test_order_is_given_up_as_well_where_descriptors_are_many(at: Bench) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    helper = await _helper(at)
    helper.suspend()
    with ExitStack() as held:
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1100):
            held.callback(os.close, os.open("/dev/null", os.O_RDONLY))
        with trio.move_on_after(0.05):
            await at.launch("sleep", "60", nonce="1-late")
        helper.resume()
        await wait_until(lambda: not os.path.exists(_leaf(at, "1-late").path))


async def test_order_that_was_never_sent_leaves_no_leaf(at: Bench) -> None:
    helper = await _helper(at)
    helper.suspend()
    for nonce in ("1-sent", "1-waits"):  # the second waits for the end of the first
        with trio.move_on_after(0.05):
            await at.launch("sleep", "60", nonce=nonce)
    assert _leaf(at, "1-waits").path not in {leaf.path for leaf in cgroup.leaves(at.home)}
    helper.resume()
    await wait_until(lambda: not os.path.exists(_leaf(at, "1-sent").path))


async def test_helper_of_another_version_is_done_without(at: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawner_link, "__version__", "0.0.0")
    for _ in range(2):
        life = await at.launch("sleep", "60")
        assert life.is_alive()
        assert life.identity.cgroup is not None
        await end(life)


def test_whatever_keeps_a_child_from_its_program_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*_: object, **__: object) -> None:
        raise TypeError("half of an upgrade")

    monkeypatch.setattr(prepare, "become", break_down)
    reading, writing = os.pipe()
    try:
        spawner._take_the_long_way((("true",), "/", ("true",), b"A=1", None, None, None, None), writing)
        assert spawner.read_reports(reading) == [(os.getpid(), errno.EINVAL, "half of an upgrade")]
    finally:
        os.close(reading)
        os.close(writing)


async def test_orders_of_one_owner_may_be_given_up_at_once(at: Bench) -> None:
    helper = await _helper(at)
    helper.suspend()
    late = [f"1-late{number}" for number in range(3)]
    with trio.move_on_after(0.05):
        async with trio.open_nursery() as nursery:
            for nonce in late:
                nursery.start_soon(at.launcher.launch, at.order("sleep", "60", nonce=nonce))
    helper.resume()
    await wait_until(lambda: not any(os.path.exists(_leaf(at, nonce).path) for nonce in late))
    await end(await at.launch("true"))


async def test_child_that_hangs_before_its_exec_is_killed_and_holds_up_nobody(at: Bench) -> None:
    leaf = _leaf(at, "1-hung")
    _freeze(leaf)
    with trio.move_on_after(0.05) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(at.launcher.launch, at.order("sleep", "60", nonce="1-hung"))
            await end(await at.launch("true", name="other"))
            await wait_until(lambda: bool(leaf.pids()))
            await trio.sleep_forever()
    assert scope.cancelled_caught
    await wait_until(lambda: not os.path.exists(leaf.path))
    await end(await at.launch("true"))


async def test_order_too_large_for_the_helper_is_carried_out_without_it(at: Bench) -> None:
    life = await at.python("import os; print(len(os.environ['LARGE']))", env={"LARGE": "x" * spawner.MESSAGE_LIMIT})
    await life.wait_exit()
    assert json.loads(at.log) == spawner.MESSAGE_LIMIT
    await end(life)


async def test_limit_of_descriptors_for_children_is_the_helpers_own(tmp_path: Path, leaves: None) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    report = "import json, resource; print(json.dumps(resource.getrlimit(resource.RLIMIT_NOFILE)))"
    async with bench(tmp_path, children_nofile=soft - 100) as at:
        for more in ({}, {"nofile": 333}):
            life = await at.python(report, **more)  # type: ignore[arg-type]
            await life.wait_exit()
            assert life.identity.sealed
            await end(life)
        assert [json.loads(line) for line in at.log.splitlines()] == [[soft - 100, hard], [333, 333]]
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)


async def test_environment_that_exec_cannot_take_is_refused(at: Bench) -> None:
    with pytest.raises(SpawnFailedError) as refused:
        await at.launch("true", env={"A": "b\0C=d"})
    assert refused.value.errno == errno.EINVAL
    with pytest.raises(SpawnFailedError):
        await at.launch("true", env={"A=B": "c"})


async def test_more_orders_than_a_socket_holds_are_all_carried_out(at: Bench) -> None:
    helper = await _helper(at)
    helper.suspend()
    lives = []

    async def launch(number: int) -> None:
        lives.append(await at.launch("true", name=f"n{number}", env={"LARGE": "x" * 50_000}))

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(launch, number)
        await trio.testing.wait_all_tasks_blocked()
        helper.resume()
    for life in lives:
        await end(life)
    assert len(lives) == 20


@pytest.mark.usefixtures("leaves")
async def test_leaf_that_was_left_empty_is_removed_at_the_end(at: Bench) -> None:
    life = await at.launch("sleep", "60")
    left = _leaf(at, "1-left")
    os.mkdir(left.path)
    at.launcher.close()
    assert [leaf.nonce for leaf in cgroup.leaves(at.home)] == [life.identity.nonce]
    assert life.is_alive()
    await end(life)


@pytest.mark.usefixtures("leaves")
async def test_helper_ends_with_the_launcher(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        helper = await _helper(at)
    assert not is_running(helper.pid)
    assert _helpers() == []
