"""``status --watch`` in a terminal of its own: what it shows, what keys do, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec
import pytest

from stigmerd.cli.paint import paint
from stigmerd.cli.watch import Listing, with_usage
from tests.cli.documents import AGENT, NOW, RUNNER, SERVER
from tests.cli.documents import stack as document
from tests.cli.terminals import Terminal, terminal
from tests.system.daemons import Stack, stack, wait_until

CONFIGURATION = """
[component.web]
command = "sleep 1000"
readiness = { process = { min_uptime = "1h" } }

[component.worker]
command = "sleep 1000"
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that the tests of this module share: each leaves it running."""
    with stack(tmp_path_factory.mktemp("home")) as one:
        one.configure(CONFIGURATION)
        one.start()
        for name in ("web", "worker"):
            one.wait_state(name, "running")
        yield one


def watching(
    stack: Stack, *words: str, columns: int = 100, rows: int = 40, term: str = "xterm-256color"
) -> AbstractContextManager[Terminal]:
    """The live view of a stack."""
    command = ("server", "status", "--watch", *words, "--home", str(stack.home))
    return terminal(*command, columns=columns, rows=rows, term=term)


def test_keys_select_restart_stop_start_and_explain(running: Stack) -> None:
    life = running.component("worker")["life"]
    with watching(running) as screen:
        screen.read_until(b"q quit")
        screen.type(b"jr")
        screen.read_until(b"restart: worker: running")
        assert running.component("worker")["life"] == life + 1
        screen.type(b"s")
        screen.read_until(b"stop: worker: stopped")
        screen.type(b"s")
        screen.read_until(b"start: worker: running")
        screen.type(b"\x1b[A")
        screen.type(b"e")
        screen.read_until(b"any key goes back")
        assert b"web\x1b[0m is" in screen.seen
        screen.type(b"x")
        screen.read_until(b"q quit")
        screen.type(b"q")
        screen.read_to_end()
        assert screen.process.returncode == 0
        assert screen.is_given_back()


def test_letters_of_an_escape_sequence_are_no_commands(running: Stack) -> None:
    with watching(running) as screen:
        screen.read_until(b"q quit")
        screen.type(b"\x1b[1;5r\x1b[200~\x1bOs")
        screen.type(b"q")
        output = screen.read_to_end()
    assert b"restart web" not in output
    assert b"stop web" not in output


def test_log_is_followed_until_ctrl_c_comes_back(running: Stack) -> None:
    with watching(running) as screen:
        screen.read_until(b"q quit")
        screen.type(b"l")
        screen.read_until(b"stigmerd[web]: Started web")
        screen.type(b"\x03")
        screen.read_until(b"q quit")
        screen.type(b"q")
        screen.read_to_end()
        assert screen.is_given_back()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_terminal_is_given_back_when_a_signal_ends_it(running: Stack, number: signal.Signals, code: int) -> None:
    with watching(running) as screen:
        screen.read_until(b"q quit")
        screen.process.send_signal(number)
        screen.read_to_end()
        assert screen.process.returncode == code
        assert screen.is_given_back()


def test_it_ends_with_its_terminal(running: Stack) -> None:
    with watching(running) as screen:
        screen.read_until(b"q quit")
        screen.hang_up()
        assert screen.process.wait(10) == 129


def test_ctrl_z_gives_the_terminal_back_until_it_goes_on(running: Stack) -> None:
    with watching(running) as screen:
        screen.read_until(b"q quit")
        screen.process.send_signal(signal.SIGTSTP)
        screen.read_until(b"\x1b[?1049l")
        wait_until(lambda: Path(f"/proc/{screen.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        assert screen.is_given_back()
        screen.process.send_signal(signal.SIGCONT)
        screen.read_until(b"q quit")
        screen.type(b"q")
        screen.read_to_end()
        assert screen.is_given_back()


def test_it_fits_the_terminal_after_each_resize(running: Stack) -> None:
    with watching(running, columns=120) as screen:
        screen.read_until(b"UPTIME")
        screen.resize(40, 12)
        screen.read_until(b"NAME")
        narrow = screen.read_until(b"q quit")
        assert b"UPTIME" not in narrow
        screen.resize(120, 40)
        screen.read_until(b"UPTIME")
        screen.type(b"q")
        screen.read_to_end()


def test_it_goes_on_over_a_replaced_a_dead_and_a_new_daemon(tmp_path: Path) -> None:
    with stack(tmp_path) as one:
        one.configure(CONFIGURATION)
        one.start()
        one.wait_state("worker", "running")
        with watching(one) as screen:
            screen.read_until(b"q quit")
            assert one.cli("restart", "--daemon").returncode == 0
            assert one.cli("restart", "worker").returncode == 0
            screen.read_until(b"#2 \x1b[0m\x1b[32mrunning")
            one.kill()
            screen.read_until(b"last known states, still alive: web, worker")
            screen.read_until(b"The daemon is not running")
            one.start()
            screen.read_until(f"pid {one.call('hello')['pid']}, up".encode())
            screen.type(b"q")
            screen.read_to_end()
            assert screen.process.returncode == 0
            assert screen.is_given_back()


def test_without_a_daemon_it_is_the_status(tmp_path: Path) -> None:
    with stack(tmp_path) as one:
        one.configure(CONFIGURATION)
        one.start()
        one.wait_state("worker", "running")
        one.kill()
        with watching(one) as screen:
            output = screen.read_to_end()
        assert screen.process.returncode == 3
        assert b"last known states, still alive: web, worker" in output
        assert b"\x1b[?1049h" not in output


def test_verbose_view_measures_what_no_subscription_tells(running: Stack) -> None:
    with watching(running, "--verbose") as screen:
        screen.read_until(b"memory ")
        screen.type(b"q")
        screen.read_to_end()


def test_on_a_pipe_it_prints_a_document_per_change(running: Stack) -> None:
    command = [sys.executable, "-m", "stigmerd.cli", "server", "status", "worker", "--watch", "--json"]
    with subprocess.Popen([*command, "--home", str(running.home)], stdout=subprocess.PIPE) as watcher:
        assert watcher.stdout is not None
        first = json.loads(watcher.stdout.readline())["components"]
        running.cli("stop", "worker")
        second = json.loads(watcher.stdout.readline())["components"]
        watcher.send_signal(signal.SIGINT)
        watcher.stdout.read()
        assert watcher.wait(10) == 130
    running.cli("start", "worker")
    assert [(c["name"], c["state"]) for c in first] == [("worker", "running")]
    assert [c["name"] for c in second] == ["worker"]
    assert second != first


def test_terminal_that_cannot_be_drawn_on_gets_a_snapshot_per_change(running: Stack) -> None:
    with watching(running, term="dumb") as screen:
        screen.read_until(b"worker")
        screen.process.send_signal(signal.SIGINT)
        assert b"\x1b" not in screen.read_to_end()


# What is in sight.

MANY = [msgspec.structs.replace(RUNNER, name=f"runner-{number}") for number in range(20)]


def shown(listing: Listing, selected: str, room: int) -> list[str]:
    """The listing of MANY at 80 columns."""
    lines = listing.lines(MANY, selected, now=NOW, width=80, room=room, verbose=False)
    return paint(lines, colour=False).splitlines()


def test_everything_is_shown_where_there_is_room() -> None:
    assert len(shown(Listing(), "runner-0", 61)) == 1 + 3 * 20


def test_selected_component_alone_has_remarks_where_there_is_not() -> None:
    lines = shown(Listing(), "runner-3", 60)
    assert len(lines) == 1 + 20 + 2
    assert "last error" in lines[6]


@pytest.mark.parametrize("room", [1, 2, 4, 9])
def test_selected_component_is_always_in_sight(room: int) -> None:
    listing = Listing()
    for number in [*range(20), *reversed(range(20)), 7, 19, 0]:
        lines = shown(listing, f"runner-{number}", room)
        assert len(lines) <= room
        assert room == 1 or any(f" runner-{number} " in text for text in lines)


def test_view_scrolls_no_further_than_it_has_to() -> None:
    listing = Listing()
    assert " runner-0 " in shown(listing, "runner-0", 9)[1]
    assert " runner-0 " in shown(listing, "runner-4", 9)[1]
    assert " runner-0 " not in shown(listing, "runner-9", 9)[1]


def test_usage_is_kept_for_the_life_that_it_was_measured_of() -> None:
    unmeasured = msgspec.structs.replace(SERVER, cpu_percent=None, memory_bytes=None)
    next_life = msgspec.structs.replace(unmeasured, life=2)
    before = document(SERVER, AGENT)
    assert with_usage(document(unmeasured), before) == document(SERVER)
    assert with_usage(document(next_life), before) == document(next_life)
    assert with_usage(document(unmeasured), None) == document(unmeasured)
