"""Components that write as fast as they can: the disk, the daemon and the neighbours are spared."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from pathlib import Path

import psutil
import pytest

from tests.system.daemons import Stack

pytestmark = [pytest.mark.crashes, pytest.mark.slow]

MAX_SIZE, KEEP = 1024 * 1024, 2
SPAN = 8.0
"""Seconds for which all write."""

SHARE = 2.0
"""Times of what the contract allows that a machine which does other things too may need."""

LOUD = """
[component.{name}]
command = ["{python}", "-S", "-c", '''
import os
block = os.urandom(1 << 20).replace(bytes([10]), b"x")
while True:
    os.write(1, block)
''']
log = {{ max_size = {size}, keep = {keep} }}
"""
NAMES = ("one", "two", "three")


def used(logs: Path, name: str) -> int:
    total = 0
    for entry in logs.iterdir():
        if entry.name.lstrip(".").startswith(f"{name}.log"):
            total += entry.stat().st_size if entry.exists() else 0
    return total


def test_several_that_write_binary_without_a_line_are_capped_and_the_daemon_stays_small_and_quick(home: Stack) -> None:
    home.configure(
        "".join(LOUD.format(name=name, python=sys.executable, size=MAX_SIZE, keep=KEEP) for name in NAMES)
        + '[component.beat]\ncommand = "sleep 1000"\nliveness = { exec = { command = "true" }, period = "1s" }\n'
    )
    home.start()
    assert home.daemon is not None
    daemon = psutil.Process(home.daemon.pid)
    pids = {name: home.wait_state(name, "running")["pid"] for name in NAMES}
    before = daemon.memory_info().rss
    most, fastest = dict.fromkeys(NAMES, 0), dict.fromkeys(NAMES, 0)
    written = {name: deque[tuple[float, int]]() for name in NAMES}
    slowest = 0.0
    end = time.monotonic() + SPAN
    while time.monotonic() < end:
        asked = time.monotonic()
        home.call("status")
        slowest = max(slowest, time.monotonic() - asked)
        for name, pid in pids.items():
            most[name] = max(most[name], used(home.home / "logs", name))
            total = psutil.Process(pid).io_counters().write_chars
            fastest[name] = max(fastest[name], in_last_second(written[name], total))
        time.sleep(0.02)
    for name in NAMES:
        assert most[name] <= max((KEEP + 2) * MAX_SIZE, SHARE * fastest[name]), (name, most, fastest)
    assert daemon.memory_info().rss - before < 32 * 1024 * 1024
    assert slowest < 1.0
    states = {one["name"]: (one["state"], one["restarts"]) for one in home.call("status")["components"]}
    assert states == dict.fromkeys((*NAMES, "beat"), ("running", 0))
    assert sum("bytes were dropped" in problem for problem in home.call("status")["daemon"]["problems"]) == len(NAMES)
    assert os.path.getsize(home.home / "logs" / "stigmerd.log") < 1024 * 1024


def in_last_second(samples: deque[tuple[float, int]], total: int) -> int:
    """What was written in the second before now, as far as there are samples."""
    now = time.monotonic()
    samples.append((now, total))
    while samples[0][0] < now - 1:
        samples.popleft()
    return total - samples[0][1]
