"""Leaves: made where they may be, entered, emptied, removed; and only those that are ours."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stigmerd.adapters.processes import cgroup, proc
from stigmerd.adapters.processes.cgroup import Leaf
from tests.adapters.test_identity import wait_until

HOSTILE_PATHS = [
    "/sys/fs/cgroup",
    "{base}",
    "{base}/worker.1-b",
    "{base}/../{name}/worker.1-a",
    "/tmp/{name}/worker.1-a",
]


@pytest.fixture
def base(tmp_path: Path) -> Iterator[str]:
    """Where leaves of a home of this test can be made; elsewhere there is nothing to test."""
    found = cgroup.find_base(str(tmp_path))
    if found is None:
        pytest.skip("Linux only, with a cgroup v2 folder of our own")
    yield found
    cgroup.remove_base(found)


@pytest.fixture
def leaf(base: str) -> Iterator[Leaf]:
    """A leaf, empty."""
    made = cgroup.leaf_in(base, "worker", "1-a")
    made.create()
    yield made
    made.kill()
    wait_until(made.remove)


def _enter(leaf: Leaf, *argv: str) -> subprocess.Popen[bytes]:
    procs = leaf.open_procs()
    process = subprocess.Popen(["/bin/sh", "-c", 'echo 0 >&0; exec "$@" </dev/null', "sh", *argv], stdin=procs)
    os.close(procs)
    return process


def test_trial_leaves_nothing_behind(tmp_path: Path, base: str) -> None:
    assert not os.path.exists(base)
    assert cgroup.leaves(str(tmp_path)) == []


def test_name_of_a_leaf_tells_whose_it_is(base: str) -> None:
    life = cgroup.leaf_in(base, "worker", "1-a")
    probe = cgroup.leaf_in(base, "worker", "1-a", "p")
    assert (life.component, life.nonce, life.probe) == ("worker", "1-a", None)
    assert (probe.component, probe.nonce, probe.probe) == ("worker", "1-a", "p")


def test_leaf_holds_descendants_and_is_emptied_at_one_blow(leaf: Leaf) -> None:
    process = _enter(leaf, "sh", "-c", "setsid env -i sleep 60 & setsid env -i sleep 60 & wait")
    wait_until(lambda: len(leaf.pids()) == 3)
    assert leaf.is_populated()
    assert not leaf.remove()
    leaf.kill()
    wait_until(lambda: not leaf.is_populated())
    assert process.wait() == -9
    assert leaf.pids() == []


def test_zombie_does_not_populate_a_leaf(leaf: Leaf) -> None:
    process = _enter(leaf, "true")
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not leaf.is_populated()
    assert leaf.remove()
    process.wait()


def test_cgroups_that_a_component_made_are_part_of_its_leaf(leaf: Leaf) -> None:
    inner = Path(leaf.path, "a", "b")
    inner.mkdir(parents=True)
    process = _enter(Leaf(str(inner)), "sleep", "60")
    wait_until(lambda: leaf.pids() == [process.pid])
    leaf.kill()
    process.wait()
    wait_until(leaf.remove)
    assert not os.path.exists(leaf.path)


def test_leaf_of_a_process_is_found_from_anywhere(tmp_path: Path, leaf: Leaf) -> None:
    process = _enter(leaf, "sleep", "60")
    wait_until(lambda: leaf.pids() == [process.pid])
    assert cgroup.leaf_of(process.pid, str(tmp_path)) == leaf
    assert cgroup.leaf_of(process.pid, "/other/home") is None
    assert cgroup.leaf_of(os.getpid(), str(tmp_path)) is None
    process.kill()
    process.wait()


def test_leaves_of_a_dead_daemon_are_listed(tmp_path: Path, leaf: Leaf) -> None:
    assert cgroup.leaves(str(tmp_path)) == [leaf]
    assert cgroup.leaves("/other/home") == []


def test_recorded_leaf_is_taken_if_it_can_only_be_ours(tmp_path: Path, leaf: Leaf) -> None:
    home = str(tmp_path)
    assert cgroup.recorded_leaf(leaf.path, home, "worker", "1-a") == leaf
    assert cgroup.recorded_leaf(leaf.path, home, "worker", "1-b") is None
    assert cgroup.recorded_leaf(leaf.path, home, "other", "1-a") is None
    assert cgroup.recorded_leaf(leaf.path, "/other/home", "worker", "1-a") is None
    assert cgroup.recorded_leaf(None, home, "worker", "1-a") is None
    for hostile in HOSTILE_PATHS:
        base = os.path.dirname(leaf.path)
        path = hostile.format(base=base, name=os.path.basename(base))
        assert cgroup.recorded_leaf(path, home, "worker", "1-a") is None, path


def test_leaf_that_is_gone_is_empty(base: str) -> None:
    gone = cgroup.leaf_in(base, "worker", "1-gone")
    assert gone.pids() == []
    assert not gone.is_populated()
    assert gone.oom_kills() is None
    assert not gone.add(os.getpid())
    assert gone.remove()
    gone.kill()


def test_own_place_in_the_tree_is_known_or_there_is_no_tree() -> None:
    place = proc.cgroup_of(os.getpid())
    assert place is None or place.startswith("/")
    assert proc.cgroup_of(2**22 + 1) is None
