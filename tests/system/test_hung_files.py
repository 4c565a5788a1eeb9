"""Files on a file system that does not answer: only what needs them waits, and all of it is bounded."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from stigmerd.adapters.disk.home import Home
from stigmerd.control.client import ControlError, RemoteError, connect
from tests.system.daemons import LIMIT, Stack, kill, wait_until
from tests.system.invariants import check_history, check_one_each
from tests.system.slowfs import SlowFolder, mounted, needs_mounts, slow_folder

pytestmark = [pytest.mark.crashes, needs_mounts]

GIVEN_UP = 13.0
"""Seconds after which a spawn or a read of the configuration has been given up for certain: 10 s, and some."""

PROMPT = 5.0
"""Seconds for what has nothing to do with the hung files, on a machine that is busy."""


@pytest.fixture
def slow(home: Stack) -> Iterator[SlowFolder]:
    """A folder beside everything else that can be made to hang."""
    content = home.home / "content"
    content.mkdir()
    (content / "program").write_text("#!/bin/sh\nexec sleep 1000\n")
    (content / "program").chmod(0o755)
    with slow_folder(home.home / "slow", content) as folder:
        yield folder
        home.end()


def check_others_go_on(home: Stack) -> None:
    """What does not touch the hung files starts, stops and restarts as ever."""
    for method in ("restart", "stop", "start"):
        began = time.monotonic()
        assert [one["ok"] for one in home.call(method, names=["other"])["components"]] == [True]
        assert time.monotonic() - began < PROMPT, method


@pytest.mark.parametrize("place", ["cwd", "command"])
def test_spawn_that_hangs_is_given_up_and_what_comes_of_it_later_is_ended(
    home: Stack, slow: SlowFolder, place: str
) -> None:
    command, cwd = ("sleep 1000", "slow") if place == "cwd" else ("slow/program", ".")
    home.configure(
        f"""
        [component.hung]
        command = "{command}"
        cwd = "{cwd}"
        restart = {{ initial_backoff = "100ms" }}
        [component.other]
        command = "sleep 1000"
        """
    )
    slow.hold()
    began = time.monotonic()
    home.start()
    home.wait_state("other", "running")
    assert home.component("hung")["state"] == "starting"
    check_others_go_on(home)
    wait_until(lambda: "given up" in (home.component("hung")["last_error"] or ""), GIVEN_UP)
    assert time.monotonic() - began > 9
    check_others_go_on(home)
    assert home.processes().keys() == {"other"}
    slow.let_go()
    home.wait_state("hung", "running")
    check_one_each(home)
    home.end()
    check_history(home.events(), {})


def test_stop_of_what_hangs_in_its_spawn_and_of_everything_is_bounded(home: Stack, slow: SlowFolder) -> None:
    home.configure(
        """
        [component.hung]
        command = "sleep 1000"
        cwd = "slow"
        [component.too]
        command = "slow/program"
        """
    )
    slow.hold()
    home.start()
    began = time.monotonic()
    home.call("stop", names=["hung"], timeout=0.5)
    assert time.monotonic() - began < 5.5 + PROMPT
    began = time.monotonic()
    ended = home.cli("stop", "--timeout", "1")
    assert time.monotonic() - began < 6 + PROMPT
    assert ended.returncode == 0, ended
    slow.let_go()
    wait_until(lambda: home.processes() == {})


def hangs(home: Stack) -> bool:
    """Whether a thread of the daemon waits for an answer of the file system."""
    assert home.daemon is not None
    for wait in Path(f"/proc/{home.daemon.pid}/task").glob("*/wchan"):
        with suppress(OSError):  # a thread that has ended meanwhile
            if "request_wait_answer" in wait.read_text():
                return True
    return False


def changed_at(path: Path) -> int:
    """When a file was changed last, in ns; 0 while there is none."""
    with suppress(FileNotFoundError):
        return path.stat().st_ctime_ns
    return 0


def test_hung_configuration_stops_neither_rotation_nor_state_and_a_reload_tells(home: Stack) -> None:
    place = home.home / "place"
    place.mkdir()
    (place / "stigmer.toml").write_text(
        f"""
        [component.loud]
        command = ["{sys.executable}", "-c", '''
import time
while True:
    print("x" * 9999, flush=True)
    time.sleep(0.01)
''']
        env_file = "{place}/secrets.env"
        log = {{ max_size = "100KiB", keep = 1 }}
        [component.other]
        command = "sleep 1000"
        """
    )
    (place / "secrets.env").write_text("A=1\n")
    (home.home / "stigmer.toml").symlink_to(place / "stigmer.toml")
    home.start()
    home.wait_state("loud", "running")
    with slow_folder(place, place) as slow:
        slow.hold()
        wait_until(lambda: hangs(home))  # in its look at the files
        state, rotated = home.home / "state" / "state.json", home.home / "logs" / "loud.log.1"
        check_others_go_on(home)
        before = state.stat().st_mtime_ns
        head = changed_at(rotated)  # not its inode: the next head gets that again
        home.call("restart", names=["other"])
        wait_until(lambda: state.stat().st_mtime_ns > before)
        wait_until(lambda: changed_at(rotated) not in {0, head})
        with pytest.raises(RemoteError, match="does not answer"):
            home.call("reload")
        with pytest.raises(RemoteError, match="nothing was changed"):
            home.call("reexec")
        check_others_go_on(home)
        began = time.monotonic()
        stopped = home.cli("stop")
        assert time.monotonic() - began < 5 + PROMPT
        assert (stopped.returncode, home.processes()) == (0, {}), stopped
        assert not Home.at(home.home).is_taken(), "the daemon that cannot end keeps the home from the next one"


def test_reload_of_a_hung_configuration_is_given_up_once_and_works_when_it_answers(home: Stack) -> None:
    place = home.home / "place"
    place.mkdir()
    (place / "stigmer.toml").write_text('[component.a]\ncommand = "sleep 1000"\n')
    (home.home / "stigmer.toml").symlink_to(place / "stigmer.toml")
    home.start()
    home.wait_state("a", "running")
    with slow_folder(place, place) as slow:
        slow.hold()
        began = time.monotonic()
        refused = home.cli("reload")
        assert time.monotonic() - began < GIVEN_UP + PROMPT
        assert (refused.returncode, "does not answer" in refused.stderr) == (2, True), refused
        (problem,) = home.call("status")["daemon"]["problems"]
        assert "was not reloaded" in problem
        slow.let_go()
        wait_until(lambda: home.cli("reload").returncode == 0)
        assert home.call("status")["daemon"]["problems"] == []


@contextmanager
def slow_history(home: Stack) -> Iterator[SlowFolder]:
    """The oldest file of the history lies where it can be made to hang; the newest one does not."""
    content, oldest = home.home / "content", home.home / "state" / "events.jsonl.1"
    content.mkdir()
    (content / "oldest").touch(0o600)
    oldest.touch(0o600)
    with slow_folder(home.home / "slow", content) as slow, mounted(slow.path / "oldest", oldest):
        yield slow


def test_explain_of_a_history_that_hangs_is_refused_and_keeps_the_daemon_from_nothing(home: Stack) -> None:
    home.configure('[component.a]\ncommand = "sleep 1000"\n[component.other]\ncommand = "sleep 1000"\n')
    home.start()
    home.wait_state("a", "running")
    with ThreadPoolExecutor(5) as threads, slow_history(home) as slow:
        slow.hold()
        refused = [threads.submit(home.call, "explain", name="a") for _ in range(5)]
        wait_until(lambda: hangs(home))
        check_others_go_on(home)
        for each in refused:
            with pytest.raises(RemoteError, match="the history or the log does not answer"):
                each.result(GIVEN_UP + PROMPT)
        unanswered = threads.submit(explain_in_vain, home)
        began = time.monotonic()
        stopped = home.cli("stop")
        assert time.monotonic() - began < 5 + PROMPT
        assert (stopped.returncode, home.processes()) == (0, {}), stopped
        assert not Home.at(home.home).is_taken(), "the daemon that cannot end keeps the home from the next one"
        unanswered.result()
        slow.let_go()


def test_subscriber_to_a_history_that_hangs_holds_up_nobody(home: Stack) -> None:
    home.configure('[component.other]\ncommand = "sleep 1000"\n')
    home.start()
    home.wait_state("other", "running")
    with slow_history(home) as slow, connect(str(home.home)) as subscriber:
        slow.hold()
        told = subscriber.subscribe("events.subscribe", since=0)
        wait_until(lambda: hangs(home))
        check_others_go_on(home)
        slow.let_go()
        numbers = [next(told).params["seq"] for _ in home.events()]
        assert numbers == list(range(1, len(numbers) + 1)), "a gap, or something twice"


def test_history_that_hangs_after_a_crash_holds_up_only_whose_end_may_be_in_it(home: Stack) -> None:
    home.configure('[component.dead]\ncommand = "sleep 1000"\n[component.other]\ncommand = "sleep 1000"\n')
    home.start()
    before = home.wait_state("other", "running")
    dead = home.wait_state("dead", "running")
    home.kill()
    kill(dead["pid"])
    with slow_history(home) as slow:
        slow.hold()
        home.start()
        assert home.wait_state("other", "running")["pid"] == before["pid"]
        check_others_go_on(home)
        assert home.component("dead")["life"] == 1
        slow.let_go()
        home.wait_state("dead", "running", life=2)
        check_history(home.events(), {"dead": 2, "other": home.component("other")["life"]})


def explain_in_vain(home: Stack) -> None:
    with suppress(ControlError, OSError):
        home.call("explain", name="a")


@pytest.mark.parametrize("hung", ["stigmer.toml", "secrets.env"])
def test_commands_without_a_daemon_give_up_a_configuration_that_hangs_and_end(home: Stack, hung: str) -> None:
    place = home.home / "place"
    place.mkdir()
    home.configure(f'[component.a]\ncommand = "sleep 1000"\nenv_file = "{place}/secrets.env"\n')
    (place / "secrets.env").write_text("A=1\n")
    if hung == "stigmer.toml":
        (home.home / hung).rename(place / hung)
        (home.home / hung).symlink_to(place / hung)
    names = f"from stigmerd.cli.complete import component_names as names; print(names({str(home.home)!r}))"
    complete = partial(subprocess.run, [sys.executable, "-c", names], capture_output=True, text=True, timeout=LIMIT)
    with slow_folder(place, place) as slow:
        assert home.cli("check").returncode == 0
        slow.hold()
        began = time.monotonic()
        completed = complete(check=True)
        assert time.monotonic() - began < 1 + PROMPT
        assert (completed.stdout, completed.stderr) == ("{}\n", "")
        for command, code in ("check", 2), ("doctor", 1):
            began = time.monotonic()
            refused = home.cli(command)
            assert time.monotonic() - began < GIVEN_UP + PROMPT
            said = refused.stdout + refused.stderr
            assert "the configuration could not be read within 10 s: it, or an env_file, lies on" in said
            assert refused.returncode == code, refused
        slow.let_go()
        assert home.cli("check").returncode == 0
        wait_until(lambda: complete(check=True).stdout == "{'a': ''}\n")


def test_daemon_whose_configuration_hangs_at_the_start_says_so_and_ends(home: Stack) -> None:
    place = home.home / "place"
    place.mkdir()
    (place / "stigmer.toml").write_text('[component.a]\ncommand = "sleep 1000"\n')
    (home.home / "stigmer.toml").symlink_to(place / "stigmer.toml")
    with slow_folder(place, place) as slow:
        slow.hold()
        command = [sys.executable, "-P", "-m", "stigmerd", "--home", str(home.home)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as daemon:
            assert daemon.stderr is not None
            assert "does not answer" in daemon.stderr.readline()
            slow.let_go()
            assert daemon.wait(LIMIT) == 2
    assert os.listdir(home.home / "run") == ["stigmerd.lock"]
    assert Path(home.home, "logs", "stigmerd.log").exists()
