"""A container's processes as this host sees them, where procfs is a folder that the test makes."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stigmerd.adapters.containers import tree
from stigmerd.adapters.containers.tree import kill_member
from stigmerd.adapters.processes import proc

CONTAINER = "c0ffee"

LIMIT = 10.0
"""Seconds until what hangs is let go, should a test fail."""


@pytest.fixture
def procfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tree, "PROC", tmp_path)
    return tmp_path


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with its input."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def show_membership(procfs: Path, pid: int, container: str) -> None:
    """Let procfs say that a process is in a container."""
    (procfs / str(pid)).mkdir()
    (procfs / str(pid) / "cgroup").write_text(f"0::/docker/{container}\n")


def test_member_is_killed(procfs: Path, child: subprocess.Popen[bytes]) -> None:
    show_membership(procfs, child.pid, CONTAINER)
    assert kill_member(child.pid, CONTAINER)
    assert child.wait(LIMIT) == -9


def test_process_of_another_container_is_left_alone(procfs: Path, child: subprocess.Popen[bytes]) -> None:
    show_membership(procfs, child.pid, "decaf")
    assert kill_member(child.pid, CONTAINER)
    assert child.poll() is None


@pytest.mark.skipif(not proc.has_pidfd(), reason="without pidfds the signal goes to a number")
def test_signal_reaches_nobody_who_got_the_pid_since_it_was_proven(
    procfs: Path, child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    (procfs / str(child.pid)).mkdir()
    proof = procfs / str(child.pid) / "cgroup"
    os.mkfifo(proof)
    struck: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: struck.append(pid))

    def prove_and_die() -> None:
        with proof.open("w") as said:  # once the reader is there, who holds the process by then
            child.communicate(timeout=LIMIT)  # ended and reaped
            said.write(f"0::/docker/{CONTAINER}\n")

    killer = threading.Thread(target=prove_and_die)
    killer.start()
    assert kill_member(child.pid, CONTAINER)
    killer.join(LIMIT)
    assert struck == []
