"""Ten thousand restarts leave the daemon as it was."""

from __future__ import annotations

from contextlib import suppress

import psutil
import pytest

from tests.system.daemons import Stack, wait_until
from tests.system.invariants import check_history

pytestmark = [pytest.mark.crashes, pytest.mark.slow]

WARM = 2_000
"""Restarts until all that is bounded, queues and caches, has become as large as it gets."""

RESTARTS = 10_000
TIME_LIMIT = 1200.0
"""Seconds for all of them, on a machine that is busy."""


def test_ten_thousand_restarts_leave_descriptors_threads_zombies_and_memory_as_they_were(home: Stack) -> None:
    home.configure(
        """
        [component.c]
        command = "true"
        restart = { initial_backoff = 0, max_backoff = 0, max_restarts = 1000000 }
        [component.quiet]
        command = "sleep 10000"
        """
    )
    home.start()
    assert home.daemon is not None
    daemon = psutil.Process(home.daemon.pid)

    def wait_restarts(count: int) -> int:
        wait_until(lambda: home.component("c")["restarts"] >= count, TIME_LIMIT)
        memory: int = daemon.memory_full_info().uss
        return memory

    wait_restarts(10)
    descriptors = daemon.num_fds()
    before = wait_restarts(WARM)
    after = wait_restarts(WARM + RESTARTS)
    assert after - before < 1024 * 1024
    home.call("stop", names=["c"])
    wait_until(lambda: daemon.num_fds() <= descriptors and daemon.num_threads() <= 8, 30)
    wait_until(lambda: zombies(daemon) == 0)
    assert home.component("quiet")["life"] == 1
    numbers = [entry["seq"] for entry in home.events()]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    if numbers[0] == 1:
        check_history(home.events(), {"quiet": 1})


def zombies(daemon: psutil.Process) -> int:
    found = 0
    for child in daemon.children():
        with suppress(psutil.NoSuchProcess):
            found += child.status() == psutil.STATUS_ZOMBIE
    return found
