"""The disk of the home is full: what runs goes on, nothing that happened is lost, and all is well by itself after."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.system.daemons import Stack, kill, stack, wait_until
from tests.system.invariants import check_history

pytestmark = [
    pytest.mark.crashes,
    pytest.mark.skipif(os.geteuid() != 0, reason="Linux only, and only where root may mount"),
]

STACK = """
[defaults.restart]
initial_backoff = "100ms"
max_backoff = "100ms"
[component.victim]
command = "sleep 1000"
[component.talker]
command = ["sh", "-c", "while :; do echo line; sleep 0.05; done"]
log = { max_size = "64KiB", keep = 2 }
"""


@pytest.fixture(params=["tmpfs", "ext4"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stack]:
    """A home on a small disk of its own."""
    at = tmp_path / "home"
    at.mkdir()
    if request.param == "tmpfs":
        mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "small", str(at)]
    else:
        image = tmp_path / "image"
        image.touch()
        os.truncate(image, 16 * 1024 * 1024)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
        mount = ["mount", "-o", "loop", str(image), str(at)]
    subprocess.run(mount, check=True)
    try:
        with stack(at) as home:
            yield home
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


def fill(home: Stack) -> None:
    """Leave not one byte."""
    with open(home.home / "filler", "ab", buffering=0) as filler:
        for size in (65536, 4096, 512, 1):
            with suppress(OSError):
                while True:
                    filler.write(bytes(size))


def restart_by_hand_of_chance(home: Stack) -> None:
    component = home.component("victim")
    kill(component["pid"])
    home.wait_state("victim", "running", life=component["life"] + 1)


def problems(home: Stack) -> str:
    return "; ".join(home.call("status")["daemon"]["problems"])


def is_at_rest(state: Path) -> bool:
    """Whether a checkpoint is written, and what is made beside it too."""
    checkpoint = state / "state.json"
    return checkpoint.exists() and time.time() - checkpoint.stat().st_mtime > 2 and not [*state.glob("*.tmp")]


def test_full_disk_loses_no_event_no_state_and_no_component_even_if_the_daemon_dies(small: Stack) -> None:
    small.configure(STACK)
    small.start()
    for name in ("victim", "talker"):
        small.wait_state(name, "running")
    wait_until(lambda: is_at_rest(small.home / "state"))
    fill(small)
    for _ in range(3):
        restart_by_hand_of_chance(small)

    def complains() -> bool:
        fill(small)  # a draft may have given back what it had
        return "No space left on device" in problems(small)

    wait_until(complains)
    assert [one["ok"] for one in small.call("restart", names=["victim"])["components"]] == [True]
    before = {name: small.component(name) for name in ("victim", "talker")}
    small.kill()
    fill(small)
    small.start()
    after = {name: small.wait_state(name, "running") for name in before}
    assert {name: (one["pid"], one["life"], one["restarts"]) for name, one in after.items()} == {
        name: (one["pid"], one["life"], one["restarts"]) for name, one in before.items()
    }
    restart_by_hand_of_chance(small)
    (small.home / "filler").unlink()
    wait_until(lambda: problems(small) == "")
    alive = {one["name"]: one["life"] for one in small.call("status")["components"]}
    assert len(small.processes()["victim"]) == 1
    check_history(small.events(), alive)
    lines = (small.home / "logs" / "victim.log").read_text()
    assert lines.count("Restarted victim (attempt 1/10)") == 2, "what the log did not take is written when it can be"
