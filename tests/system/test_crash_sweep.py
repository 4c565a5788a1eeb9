"""The daemon dies at every instant that can matter, in each of its undertakings.

A scenario is carried out again and again; each time the daemon is killed one system call later,
until it gets through alive. After each death another daemon is started, and has to find its way.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from stigmerd.adapters.disk.rotation import can_collapse
from stigmerd.control.client import ControlError
from tests.system.daemons import Stack, kill, stack, wait_until
from tests.system.forge import Forge, Forged
from tests.system.invariants import bystanders, check_left_nothing, check_one_each, check_present
from tests.system.tracing import CALLS, HAS_STRACE, killed_at

needs_strace = pytest.mark.skipif(not HAS_STRACE, reason="strace is not installed")

STACK = """
[defaults.restart]
initial_backoff = "20ms"

[component.a]
command = "sleep 1000"

[component.b]
command = "sleep 1000"
depends_on = { a = "started" }
"""

OTHER_STACK = """
[defaults.restart]
initial_backoff = "20ms"

[component.a]
command = "sleep 2000"

[component.c]
command = "sleep 1000"
"""

WRITER = f"""
[component.writer]
command = [
    "{sys.executable}", "-S", "-c",
    "import os, time\\nfor n in range(10**9): os.write(1, b'%07d\\\\n' % n); n % 8 or time.sleep(0.0005)",
]
log = {{ max_size = "16KiB", keep = 500 }}
stop = {{ grace = "0s" }}
"""


@dataclass
class Attempt:
    """One run of a scenario: what was promised to the operator before the daemon died."""

    home: Stack
    promised: bool = False

    def ask(self, method: str, **params: object) -> None:
        """Ask for something, and note whether it was answered."""
        try:
            self.home.call(method, **params)
            self.promised = True
        except (ControlError, OSError):
            wait_until(lambda: not self.is_daemon_alive)

    @property
    def is_daemon_alive(self) -> bool:
        return self.home.daemon is not None and self.home.daemon.poll() is None


@dataclass(frozen=True)
class Scenario:
    """``act`` is done under the tracer; ``check`` waits for what the next daemon has to come to.

    ``prepare`` starts a daemon, which is traced then; without one the daemon is traced from its
    first instruction. ``keeps``: what runs then runs still at the end. ``after`` looks at what is
    left when everything was stopped.
    """

    act: Callable[[Attempt], None]
    check: Callable[[Attempt], None]
    config: str = STACK
    before: Callable[[Stack], None] | None = None
    prepare: Callable[[Stack], None] | None = None
    keeps: bool = False
    after: Callable[[Stack], None] | None = None


def all_running(home: Stack, *names: str) -> bool:
    """Whether these are running, and nothing else is there. A daemon that does not answer has none."""
    with suppress(ControlError, OSError):
        documents = home.call("status")["components"]
        return {d["name"]: d["state"] for d in documents} == dict.fromkeys(names, "running")
    return False


def run_both(home: Stack) -> None:
    home.start()
    wait_until(lambda: all_running(home, "a", "b"))


def wait_both(attempt: Attempt) -> None:
    wait_until(lambda: not attempt.is_daemon_alive or all_running(attempt.home, "a", "b"))


def leave_both(home: Stack) -> None:
    """A daemon that died, and both components alive without it."""
    run_both(home)
    home.kill()


def crash_a(attempt: Attempt) -> None:
    pid = attempt.home.processes()["a"][0]
    kill(pid)
    wait_until(lambda: attempt.home.processes().get("a") not in ([pid], None) or not attempt.is_daemon_alive)
    wait_both(attempt)


def change_everything(attempt: Attempt) -> None:
    attempt.home.configure(OTHER_STACK)
    attempt.ask("reload")


def is_both(attempt: Attempt) -> None:
    wait_until(lambda: all_running(attempt.home, "a", "b"))


def is_b_at_least(attempt: Attempt) -> None:
    allowed = {"stopped"} if attempt.promised else {"stopped", "running"}
    wait_until(lambda: attempt.home.component("b")["state"] == "running")
    wait_until(lambda: attempt.home.component("a")["state"] in allowed)


def is_other(attempt: Attempt) -> None:
    wait_until(lambda: all_running(attempt.home, "a", "c"))
    assert attempt.home.component("a")["command"] == ["sleep", "2000"]


def start_writer(home: Stack) -> None:
    home.start()
    wait_until(lambda: home.component("writer")["state"] == "running")


def rotate_twice(attempt: Attempt) -> None:
    log = attempt.home.home / "logs" / "writer.log.1"

    def rotated_at() -> int:
        with suppress(FileNotFoundError):
            return log.stat().st_ctime_ns
        return 0

    for _ in range(2):
        seen = rotated_at()
        wait_until(lambda seen=seen: rotated_at() != seen or not attempt.is_daemon_alive)  # type: ignore[misc]


def is_writing(attempt: Attempt) -> None:
    wait_until(lambda: attempt.home.component("writer")["state"] == "running")
    wait_until(lambda: [*(attempt.home.home / "logs").glob("writer.log.[0-9]*")])


def check_lines(home: Stack) -> None:
    """Every line that was written is in the logs, once and in order."""
    logs = home.home / "logs"
    rotated = sorted(logs.glob("writer.log.[0-9]*"), key=lambda path: -int(path.suffix[1:]))
    output = b"".join(path.read_bytes() for path in [*rotated, logs / "writer.log"])
    numbers = [int(line) for line in output.splitlines() if line.isdigit()]
    assert numbers == list(range(len(numbers))), "lines are lost, doubled or out of order"
    assert len(numbers) > 1000


def replace_program(attempt: Attempt) -> None:
    attempt.ask("reexec")
    wait_both(attempt)


SCENARIOS = {
    "start": Scenario(act=wait_both, check=is_both),
    "adoption": Scenario(before=leave_both, act=wait_both, check=is_both, keeps=True),
    "crash": Scenario(prepare=run_both, act=crash_a, check=is_both),
    "restart": Scenario(prepare=run_both, act=lambda attempt: attempt.ask("restart"), check=is_both),
    "restart-one": Scenario(prepare=run_both, act=lambda attempt: attempt.ask("restart", names=["a"]), check=is_both),
    "stop": Scenario(prepare=run_both, act=lambda attempt: attempt.ask("stop", names=["a"]), check=is_b_at_least),
    "shutdown": Scenario(prepare=run_both, act=lambda attempt: attempt.ask("shutdown"), check=is_both),
    "reload": Scenario(prepare=run_both, act=change_everything, check=is_other),
    "reexec": Scenario(prepare=run_both, act=replace_program, check=is_both, keeps=True),
    "rotation": Scenario(
        prepare=start_writer, act=rotate_twice, check=is_writing, config=WRITER, keeps=True, after=check_lines
    ),
}


@pytest.fixture(scope="module")
def forge() -> Iterator[Forge]:
    one = Forge()
    yield one
    one.close()


def die_at(scenario: Scenario, home: Stack, calls: str, number: int) -> bool:
    """Carry out a scenario with a daemon that dies, check what becomes of it; False if it did not die."""
    home.configure(scenario.config)
    if scenario.before is not None:
        scenario.before(home)
    if scenario.prepare is not None:
        scenario.prepare(home)
    else:
        home.launch(held=True)
    before = home.processes()
    attempt = Attempt(home)
    assert isinstance(home.daemon, Forged)
    with killed_at(home.daemon.pid, calls, number):
        if scenario.prepare is None:
            home.daemon.let_go()
        scenario.act(attempt)
        died = not attempt.is_daemon_alive and home.daemon.returncode == -signal.SIGKILL
    home.kill()
    check_one_each(home)
    if number % 2:
        tear(home)
    home.start()
    scenario.check(attempt)
    if scenario.keeps:
        assert home.processes() == before, "what ran was not adopted"
    check_present(home)
    home.call("shutdown")
    home.daemon.wait()
    check_left_nothing(home)
    if scenario.after is not None:
        scenario.after(home)
    return died


def tear(home: Stack) -> None:
    """Half a line at the end of the files that grow by lines, as a death in the middle of a write leaves it."""
    for name in ("events.jsonl", "changes.jsonl"):
        with suppress(FileNotFoundError), open(home.home / "state" / name, "r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(b'{"seq":1000,"schema":1,"sequence":100')


def sweep(scenario: Scenario, forge: Forge, folder: Path, calls: str, numbers: Iterator[int]) -> int:
    """Die at each of these calls, until one is never made. Returns how many deaths there were."""
    deaths = 0
    for number in numbers:
        place = folder / f"{number}"
        place.mkdir()
        try:
            with stack(place, forge) as home, bystanders(place):
                if not die_at(scenario, home, CALLS[calls], number):
                    break
        except AssertionError as exc:
            raise AssertionError(f"killed at call {number} of {calls}: {exc}") from exc
        deaths += 1
    return deaths


def can_run(name: str, folder: Path) -> bool:
    return name != "rotation" or can_collapse(str(folder))


POINTS = {"writes": (2, 5, 9), "processes": (1, 3), "files": (1,)}


@needs_strace
@pytest.mark.crashes
@pytest.mark.parametrize("name", SCENARIOS)
def test_daemon_may_die_at_some_calls(name: str, forge: Forge, tmp_path: Path) -> None:
    if not can_run(name, tmp_path):
        pytest.skip("this file system cannot cut files at their head")
    for calls, numbers in POINTS.items() if name != "reexec" else [("writes", (4,))]:
        place = tmp_path / calls
        place.mkdir()
        sweep(SCENARIOS[name], forge, place, calls, iter(numbers))


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize("calls", CALLS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_daemon_may_die_at_any_call(name: str, calls: str, forge: Forge, tmp_path: Path) -> None:
    if not can_run(name, tmp_path):
        pytest.skip("this file system cannot cut files at their head")
    deaths = sweep(SCENARIOS[name], forge, tmp_path, calls, iter(range(1, 1000)))
    print(f"{name}: {deaths} deaths at {calls}")
