"""Two things happen to one component at almost the same instant, in every combination.

One daemon serves the whole grid; what a cell leaves is what the next one begins with, so its
history grows long and has to stay whole.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import combinations_with_replacement, product
from pathlib import Path
from typing import Any

import pytest

from stigmerd.control.client import ControlError
from tests.system.daemons import Stack, kill, stack, wait_until
from tests.system.forge import Forge
from tests.system.invariants import bystanders, check_left_nothing, check_present

STACK = """
[defaults.restart]
initial_backoff = "4ms"
backoff_factor = 1.0
max_restarts = 1000000

[component.a]
command = "sleep 1000"

[component.b]
command = "sleep 1000"
depends_on = { a = "started" }
"""

OTHER_STACK = STACK.replace("1000\"\n\n", "2000\"\n\n")

SETTLED = (["running", "running"], ["stopped", "running"], ["stopped", "waiting"])
"""What a and b can be when nothing is under way: b waits for a only before its first life."""

Operation = Callable[[Stack], Any]


def kill_component(home: Stack) -> None:
    for pid in home.processes().get("a", []):
        with suppress(ProcessLookupError):
            kill(pid)


def reload(home: Stack) -> Any:
    home.configure(OTHER_STACK if (home.home / "stigmer.toml").read_text() == STACK else STACK)
    with suppress(ControlError):  # busy with another one, perhaps
        return home.call("reload")


def end_daemon(home: Stack) -> None:
    assert home.daemon is not None
    home.daemon.send_signal(signal.SIGTERM)


def kill_daemon(home: Stack) -> None:
    assert home.daemon is not None
    home.daemon.send_signal(signal.SIGKILL)


OPERATIONS: dict[str, Operation] = {
    "start": lambda home: home.call("start", names=["a"]),
    "stop": lambda home: home.call("stop", names=["a"]),
    "stop-now": lambda home: home.call("stop", names=["a"], now=True),
    "restart": lambda home: home.call("restart", names=["a"]),
    "kill": kill_component,
    "reload": reload,
    "end": end_daemon,
    "kill-daemon": kill_daemon,
}
PAIRS = list(combinations_with_replacement(OPERATIONS, 2))
DAEMON_ENDS = {"end", "kill-daemon"}
STOPS = {"stop", "stop-now"}
STARTS = {"start", "restart"}


def race(home: Stack, pair: tuple[str, str], offset: float) -> None:
    """Do both, the second one ``offset`` seconds after the first one, and check what comes of it."""
    begin = time.monotonic() + 0.005 + max(0.0, -offset)

    def do(name: str, at: float) -> bool:
        """Do it then. Returns whether it was done as far as its caller can tell."""
        time.sleep(max(0.0, at - time.monotonic()))
        try:
            OPERATIONS[name](home)
        except (ControlError, OSError):
            return False
        return True

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(do, pair[0], begin)
        second = threads.submit(do, pair[1], begin + offset)
        done = {name for name, future in zip(pair, (first, second), strict=True) if future.result()}
    if DAEMON_ENDS & {*pair}:
        end(home, killed="kill-daemon" in pair)
        return
    settle(home)
    check_present(home)
    if done & STOPS and not {*pair} & STARTS:
        assert home.component("a")["state"] == "stopped"
    if done & STARTS and not {*pair} & STOPS:
        home.wait_state("a", "running")  # what was killed just now may not have been seen before


def end(home: Stack, *, killed: bool) -> None:
    """The daemon ends in order, or is killed and another one finds its way. Then there is one again."""
    assert home.daemon is not None
    code = home.daemon.wait(20)
    if killed and code == -signal.SIGKILL:
        home.start()
        settle(home)
        check_present(home)
        home.call("shutdown")
        code = home.daemon.wait(20)
    assert code == 0
    check_left_nothing(home)
    home.start()


def settle(home: Stack) -> None:
    """Wait until nothing is under way any more."""
    wait_until(lambda: [d["state"] for d in home.call("status")["components"]] in SETTLED)


@pytest.fixture(scope="module")
def forge() -> Iterator[Forge]:
    one = Forge()
    yield one
    one.close()


def run_grid(forge: Forge, folder: Path, cells: list[tuple[tuple[str, str], float]]) -> None:
    with stack(folder, forge) as home, bystanders(folder):
        home.configure(STACK)
        home.start()
        for number, (pair, offset) in enumerate(cells):
            # From running, and every other time from stopped.
            home.call("start" if number % 2 == 0 else "stop", names=["a"])
            try:
                race(home, pair, offset)
            except AssertionError as exc:
                raise AssertionError(f"{pair[0]}, and {pair[1]} {offset * 1000:+g} ms later: {exc}") from exc
        home.call("shutdown")
        assert home.daemon is not None
        assert home.daemon.wait(20) == 0
        check_left_nothing(home)


@pytest.mark.crashes
def test_pairs_of_operations_within_some_milliseconds_leave_everything_in_order(forge: Forge, tmp_path: Path) -> None:
    offsets = (-0.004, 0.001, 0.011)
    run_grid(forge, tmp_path, [(pair, offsets[number % 3]) for number, pair in enumerate(PAIRS)])


@pytest.mark.slow
@pytest.mark.parametrize("step", [4, 5, 7])
def test_all_pairs_of_operations_at_all_offsets_leave_everything_in_order(
    forge: Forge, tmp_path: Path, step: int
) -> None:
    offsets = [milliseconds / 1000 for milliseconds in range(-20, 21, step)]
    run_grid(forge, tmp_path, list(product(PAIRS, offsets)))
