"""Every command against a real daemon, through pipes and through terminals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from stigmerd.engine.component import MERGE_WINDOW
from tests.cli.terminals import terminal, unexpected_bytes
from tests.system.daemons import Stack, is_alive, stack, wait_until

HOSTILE = r"\033[31mred\033]0;title\007 \233 \342\200\256rtl \377 \rback\n"

CONFIGURATION = f"""
[component.web]
command = ["{sys.executable}", "-c", "import time; print('web is up', flush=True); time.sleep(1000)"]
stop.grace = "2s"

[component.worker]
command = ["sh", "-c", "trap 'echo got hup' HUP; echo working; while :; do sleep 0.05; done"]
depends_on = {{ web = "started" }}
stop.grace = "2s"

[component.hostile]
command = ["sh", "-c", '''printf '{HOSTILE}'; sleep 1000''']
optional = true
stop.grace = "2s"

[component.crasher]
command = ["sh", "-c", "echo no database; exit 3"]
optional = true
enabled = false
restart = {{ max_restarts = 1, initial_backoff = "50ms" }}

[component.absent]
command = ["no-such-program-anywhere"]
optional = true
enabled = false
restart = {{ max_restarts = 0 }}
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that the tests of this module share: each leaves it as it was."""
    with stack(tmp_path_factory.mktemp("home")) as one:
        one.configure(CONFIGURATION)
        one.start()
        for name in ("web", "worker", "hostile"):
            one.wait_state(name, "running")
        yield one


def grown_up(running: Stack, name: str) -> dict[str, Any]:
    """A component whose life is not as young as a restart that would be merged with it."""
    wait_until(lambda: (running.component(name)["uptime"] or 0.0) > 2 * MERGE_WINDOW)
    return running.component(name)


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Stack]:
    """A home of a test's own, without a daemon."""
    with stack(tmp_path) as one:
        yield one
        one.cli("stop", "--now")


# status


def test_status_of_a_healthy_stack_is_exit_0_and_plain_text_on_a_pipe(running: Stack) -> None:
    done = running.cli("status")
    assert done.returncode == 0
    assert done.stdout.startswith("✓ healthy")
    assert "\x1b" not in done.stdout
    assert [name for name in ("web", "worker", "hostile") if f"✓  {name} " not in done.stdout] == []


def test_status_as_json_is_the_document_of_the_channel(running: Stack) -> None:
    shown = json.loads(running.cli("status", "--json").stdout)
    asked = running.call("status")
    assert shown.keys() == asked.keys()
    assert [c.keys() for c in shown["components"]] == [c.keys() for c in asked["components"]]
    assert shown["daemon"]["pid"] == asked["daemon"]["pid"]


def test_status_of_names_shows_and_judges_them_alone(running: Stack) -> None:
    document = json.loads(running.cli("status", "web", "--json").stdout)
    assert [component["name"] for component in document["components"]] == ["web"]
    assert document["healthy"] is True


def test_unknown_name_is_exit_2_with_the_nearest_one(running: Stack) -> None:
    for command in ("status", "start", "stop", "restart", "wait", "logs", "events", "explain"):
        done = running.cli(command, "wbe")
        assert (done.returncode, done.stderr) == (2, "There is no component 'wbe'. Did you mean 'web'?\n")


def test_whoever_names_all_is_told_to_name_nobody(running: Stack) -> None:
    done = running.cli("restart", "all")
    assert (done.returncode, "leave the names out" in done.stderr) == (2, True), done


def test_status_fits_a_terminal_and_has_colour(running: Stack) -> None:
    with terminal("server", "status", "--home", str(running.home), columns=50) as screen:
        output = screen.read_to_end().decode()
    assert "\x1b[32m✓" in output
    assert "NAME" in output
    assert "UPTIME" not in output


def test_start_of_a_running_stack_says_so_and_is_exit_0(running: Stack) -> None:
    done = running.cli()
    assert done.returncode == 0
    assert "The daemon is running already" in done.stdout


# components


def test_component_that_crashes_fails_start_with_its_log(running: Stack) -> None:
    done = running.cli("start", "absent")
    assert done.returncode == 1
    assert done.stderr.startswith("absent is failed: ")
    assert done.stderr.endswith(f"{running.home}/logs/absent.log\n")
    assert running.cli("status", "absent").returncode == 1
    assert running.cli("stop", "absent").returncode == 0


def test_life_that_ends_at_once_counts_as_started(running: Stack) -> None:
    assert running.cli("start", "crasher").returncode == 0
    running.wait_state("crasher", "failed")
    done = running.cli("wait", "crasher")
    assert done.returncode == 1
    assert done.stderr.endswith(f"Log: {running.home}/logs/crasher.log\n")
    report = json.loads(running.cli("explain", "crasher", "--json").stdout)
    assert (report["cause"], report["exit"]["code"], report["output"]) == ("crash", 3, ["no database"])
    assert report["command"] == f"stigmer server restart crasher --home {running.home}"
    assert "It exited with code 3" in running.cli("why", "crasher").stdout
    assert running.cli("stop", "crasher").returncode == 0


def test_stop_and_start_of_one_component_leave_the_others(running: Stack) -> None:
    pid = running.component("worker")["pid"]
    done = running.cli("stop", "web")
    assert done.returncode == 0
    assert "web: stopped" in done.stdout
    assert "worker" in done.stdout  # a running dependent is named
    assert running.cli("wait", "web", "--for", "stopped").returncode == 0
    assert running.cli("wait", "web", "--timeout", "0.2").returncode == 1
    assert running.cli("start", "web").returncode == 0
    assert running.component("worker")["pid"] == pid


def test_restart_makes_a_new_life(running: Stack) -> None:
    before = grown_up(running, "web")
    done = running.cli("restart", "web")
    assert done.returncode == 0
    after = running.component("web")
    assert after["life"] == before["life"] + 1
    assert after["restarts"] == before["restarts"]


def test_signal_reaches_the_leader(running: Stack) -> None:
    assert running.cli("signal", "hup", "worker").returncode == 0
    wait_until(lambda: "got hup" in running.cli("logs", "worker").stdout)
    assert running.cli("signal", "HUP", "crasher").returncode == 1


def test_signal_to_what_has_failed_names_its_log(running: Stack) -> None:
    running.cli("start", "absent")
    done = running.cli("signal", "HUP", "absent")
    assert (done.returncode, done.stderr) == (1, f"absent: not running: failed; log: {running.home}/logs/absent.log\n")
    running.cli("stop", "absent")


def test_wait_for_ready_of_everything_returns_at_once(running: Stack) -> None:
    assert running.cli("wait", "--for", "ready", "--timeout", "5").returncode == 0


def test_reload_without_a_change_says_so(running: Stack) -> None:
    done = running.cli("reload", "--dry-run")
    assert (done.returncode, done.stdout) == (0, "Nothing has changed.\n")


def test_operations_print_json(running: Stack) -> None:
    answer = json.loads(running.cli("restart", "web", "--json").stdout)
    assert answer["components"][0]["ok"] is True


def test_ctrl_c_ends_a_client_with_130_and_hurts_nothing(running: Stack) -> None:
    with terminal("server", "wait", "absent", "--for", "ready", "--home", str(running.home)) as screen:
        # It prints nothing: what shows that it waits is its connection to the daemon.
        wait_until(lambda: psutil.Process(screen.process.pid).net_connections("unix"))
        screen.type(b"\x03")
        screen.read_to_end()
        assert screen.process.returncode == 130
        assert b"Traceback" not in screen.seen
        assert screen.seen.replace(b"^C", b"").strip().endswith(b"goes on: stigmer server status")
    assert running.cli("status").returncode == 0


def test_ctrl_c_in_a_start_leaves_the_daemon_and_what_it_starts(empty: Stack) -> None:
    empty.configure(
        '[component.slow]\ncommand = ["sleep", "1000"]\n'
        'startup = { exec = { command = ["false"] }, failure_threshold = 1000 }\n'
    )
    with terminal("server", "start", "--home", str(empty.home)) as screen:
        screen.read_until(b"slow")
        pressed = time.monotonic()
        screen.type(b"\x03")
        screen.read_to_end()
        assert screen.process.returncode == 130
        assert screen.echoes()
    assert time.monotonic() - pressed < 10.0
    assert screen.seen.count(b"Interrupted.") == 1
    assert b"Traceback" not in screen.seen
    assert empty.component("slow")["state"] == "starting"


# logs and events


def test_log_on_a_pipe_has_the_bytes_as_they_are(running: Stack) -> None:
    command = [sys.executable, "-m", "stigmerd.cli", "server", "logs", "hostile", "--home", str(running.home)]
    output = subprocess.run(command, capture_output=True, timeout=60, check=True).stdout
    assert b"\x1b[31mred\x1b]0;title\x07 \x9b \xe2\x80\xaertl \xff \rback\n" in output


@pytest.mark.parametrize(
    "words",
    [
        ["logs", "hostile", "--no-follow"],
        ["logs", "--all", "--no-follow"],
        ["status", "--verbose"],
        ["explain", "hostile"],
        ["explain", "crasher"],
        ["events"],
        ["start"],
        ["doctor"],
        ["stop", "\x1b]0;x\x07"],
        ["explain", "\u202e"],
    ],
)
def test_terminal_gets_text_and_our_colours_alone(words: list[str], running: Stack) -> None:
    with terminal("server", *words, "--home", str(running.home)) as screen:
        output = screen.read_to_end()
    assert len(output) > 20
    assert unexpected_bytes(output) == set()


def test_several_logs_are_prefixed_and_one_is_not(running: Stack) -> None:
    several = running.cli("logs", "web", "worker").stdout
    assert "[web] web is up\n" in several
    assert "[worker] working\n" in several
    assert "web is up\n" in running.cli("logs", "web").stdout.splitlines(keepends=True)
    assert "[stigmerd] " in running.cli("logs", "web", "--all").stdout


def test_tail_grep_and_since_choose_lines(running: Stack) -> None:
    assert len(running.cli("logs", "web", "--tail", "1").stdout.splitlines()) == 1
    assert running.cli("logs", "web", "--tail", "0").stdout == ""
    assert set(running.cli("logs", "web", "--grep", "is up").stdout.splitlines()) == {"web is up"}
    assert running.cli("logs", "web", "--since", "0s").stdout == ""
    assert "web is up" in running.cli("logs", "web", "--since", "1h").stdout


def test_previous_life_is_shown_alone(running: Stack) -> None:
    grown_up(running, "web")
    running.cli("restart", "web")
    lines = running.cli("logs", "web", "--previous").stdout.splitlines()
    assert sum("Started web" in text for text in lines) == 1


def opened_by(pid: int) -> list[str]:
    """The paths of what a process has open."""
    with suppress(psutil.Error):
        return [file.path for file in psutil.Process(pid).open_files()]
    return []


def test_followed_log_survives_restarts_and_shows_a_line_within_100_ms(running: Stack) -> None:
    log = running.home / "logs" / "web.log"
    grown_up(running, "web")
    command = [sys.executable, "-m", "stigmerd.cli", "server", "logs", "web", "-f", "--tail", "0"]
    with subprocess.Popen([*command, "--home", str(running.home)], stdout=subprocess.PIPE) as follower:
        lines: list[tuple[float, bytes]] = []
        assert follower.stdout is not None
        stream = follower.stdout
        reader = threading.Thread(
            target=lambda: lines.extend((time.monotonic(), text) for text in stream), daemon=True
        )
        reader.start()
        wait_until(lambda: log in {Path(fd) for fd in opened_by(follower.pid)})
        running.cli("restart", "web")
        wait_until(lambda: any(b"web is up" in text for _, text in lines))
        with log.open("ab") as end:
            end.write(b"the line\n")
        written = time.monotonic()
        wait_until(lambda: any(text == b"the line\n" for _, text in lines))
        seen = next(when for when, text in lines if text == b"the line\n")
        follower.send_signal(signal.SIGINT)
        assert follower.wait(10) == 130
        reader.join()
    assert seen - written < 0.25  # 100 ms, and the noise of a busy machine


def test_followed_line_without_a_time_is_young_whatever_was_written_before(running: Stack) -> None:
    command = [sys.executable, "-m", "stigmerd.cli", "server", "logs", "web", "-f", "--since", "0s"]
    with subprocess.Popen([*command, "--home", str(running.home)], stdout=subprocess.PIPE) as follower:
        assert follower.stdout is not None
        is_seen = threading.Event()

        def write() -> None:
            with (running.home / "logs" / "web.log").open("ab", buffering=0) as end:
                while not is_seen.wait(0.05):  # nothing tells when it follows
                    end.write(b"no time in here\n")

        writer = threading.Thread(target=write)
        writer.start()
        try:
            assert follower.stdout.readline() == b"no time in here\n"
        finally:
            is_seen.set()
            writer.join()
            follower.send_signal(signal.SIGINT)
        assert follower.wait(10) == 130


@pytest.mark.parametrize("words", ["logs web -f", "events web -f"])
def test_follower_ends_with_its_reader_also_where_nothing_new_comes(running: Stack, words: str) -> None:
    command = [sys.executable, "-m", "stigmerd.cli", "server", *words.split(), "--home", str(running.home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as follower:
        assert follower.stdout is not None
        assert follower.stderr is not None
        assert follower.stdout.readline()
        follower.stdout.close()
        assert follower.wait(20) == 0
        assert follower.stderr.read() == b""


def test_events_are_told_as_text_and_as_json(running: Stack) -> None:
    assert re.search(r"ago  web +#1 running\n", running.cli("events", "web").stdout)
    entries = [json.loads(text) for text in running.cli("events", "--json").stdout.splitlines()]
    assert entries == running.events()[: len(entries)]
    assert running.cli("events", "web", "--since", "0s").stdout == ""


def test_events_are_chosen_by_kind_reason_and_number(running: Stack) -> None:
    def chosen(*words: str) -> list[dict[str, Any]]:
        return [json.loads(text) for text in running.cli("events", *words, "--json").stdout.splitlines()]

    running.cli("restart", "worker")
    everything = running.events()
    starts = [entry for entry in everything if entry["event"] in {"starting", "stopping"}]
    assert chosen("--event", "starting", "--event", "stopping") == starts
    asked = [entry for entry in starts if entry["reason"] == "operator" and entry["component"] == "worker"]
    assert chosen("worker", "--event", "starting", "--event", "stopping", "--reason", "operator") == asked
    assert len(asked) >= 2
    assert chosen("--event", "starting", "--event", "stopping", "--tail", "2") == starts[-2:]
    assert chosen("--tail", "0") == []


def test_logs_as_json_are_an_object_a_line(running: Stack) -> None:
    output = running.cli("logs", "web", "hostile", "--json").stdout
    lines = [json.loads(text) for text in output.splitlines()]
    assert output.isascii()
    assert {line["component"] for line in lines} == {"web", "hostile"}
    assert any(line["line"] == "web is up" and line["at"] is not None for line in lines)
    assert any(line["line"].startswith("\x1b[31mred\x1b]0;title\x07 \\x9b") for line in lines)


# the daemon


def test_restart_of_the_daemon_touches_no_component(running: Stack) -> None:
    before = running.component("web")
    done = running.cli("restart", "--daemon")
    assert done.returncode == 0, done.stderr
    assert "No component was touched" in done.stdout
    assert running.component("web")["pid"] == before["pid"]


def test_start_shows_progress_and_status_and_stop_leaves_nothing(empty: Stack) -> None:
    empty.configure(CONFIGURATION)
    done = empty.cli()
    assert done.returncode == 0, done.stderr
    assert "✓ web running\n" in done.stdout
    assert "✓ healthy" in done.stdout
    assert set(empty.processes()) == {"web", "worker", "hostile"}
    daemon = empty.call("hello")["pid"]
    done = empty.cli("stop")
    assert done.returncode == 0
    assert done.stdout.endswith("The daemon has stopped.\n")
    assert not is_alive(daemon)
    assert empty.processes() == {}
    assert empty.cli("status").returncode == 3
    assert empty.cli("stop").returncode == 0


def test_start_on_a_terminal_draws_in_place_and_ends_with_the_table(empty: Stack) -> None:
    empty.configure(CONFIGURATION)
    with terminal("server", "--home", str(empty.home)) as screen:
        output = screen.read_to_end()
        assert screen.process.returncode == 0, output
    after = output[output.rindex(b"\x1b[?25h") :]  # the cursor is back: the table that stays
    assert b"healthy" in after
    assert b"web" in after


def test_start_that_cannot_succeed_names_the_component_its_reason_and_its_log(empty: Stack) -> None:
    empty.configure('[component.bad]\ncommand = ["no-such-program-anywhere"]\nrestart = { max_restarts = 0 }\n')
    done = empty.cli("start")
    assert done.returncode == 1
    assert done.stderr.startswith("bad is failed: ")
    assert "no-such-program-anywhere" in done.stderr
    assert done.stderr.endswith(f"{empty.home}/logs/bad.log\n")
    assert empty.cli("status").returncode == 1


def test_restart_of_everything_succeeds_without_what_is_optional_or_disabled(empty: Stack) -> None:
    absent = 'command = "no-such-program-anywhere"\nrestart = { policy = "never" }\n'
    empty.configure(
        '[component.web]\ncommand = "sleep 1000"\n'
        f"[component.extra]\noptional = true\n{absent}[component.by-hand]\nenabled = false\n{absent}"
    )
    empty.cli("start")
    assert empty.cli("start", "by-hand").returncode == 1
    done = empty.cli("restart")
    assert (done.returncode, done.stderr) == (0, "")
    assert empty.cli("restart", "extra").returncode == 1


def test_start_that_takes_too_long_is_exit_1_and_the_daemon_goes_on(empty: Stack) -> None:
    empty.configure(
        '[component.slow]\ncommand = ["sleep", "1000"]\n'
        'startup = { exec = { command = ["false"] }, failure_threshold = 100 }\n'
    )
    done = empty.cli("start", "--timeout", "0.5")
    assert done.returncode == 1
    assert "slow is starting: not up after 0.5 s" in done.stderr
    assert empty.cli("status").returncode == 1


def test_start_that_gives_up_early_tells_how_long_it_waited(empty: Stack) -> None:
    empty.configure(
        '[component.bad]\ncommand = "false"\nrestart.policy = "never"\nreadiness = { exec = { command = ["false"] } }\n'
        '[component.waits]\ncommand = "sleep 1000"\ndepends_on = { bad = "ready" }\n'
    )
    done = empty.cli("start", "--timeout", "55")
    assert done.returncode == 1
    told = re.search(r"^waits is waiting: not up after ([0-9.]+) s: ", done.stderr, re.MULTILINE)
    assert told is not None, done
    assert float(told[1]) < 50


def test_program_that_is_missing_is_named_where_the_start_gives_up(empty: Stack) -> None:
    empty.configure('[component.web]\ncommand = "no-such-program"\nenv = { PATH = "/no/such/folder" }\n')
    done = empty.cli("start", "--timeout", "0.5")
    assert done.returncode == 1
    assert "not up after 0.5 s: no-such-program: No such file or directory on PATH ${PATH}" in done.stderr


FAILS_AT_ONCE = 'command = ["sh", "-c", "exit 7"]\nrestart = { policy = "never" }\n'


@pytest.mark.parametrize("words", [["start"], ["start", "job"], ["restart", "job"]])
def test_start_of_what_has_failed_by_the_end_of_it_is_exit_1(empty: Stack, words: list[str]) -> None:
    empty.configure(f"[component.job]\n{FAILS_AT_ONCE}")
    if words != ["start"]:
        empty.cli("start")
        empty.wait_state("job", "failed")
    done = empty.cli(*words)
    assert (done.returncode, "exited with code 7" in done.stderr) == (1, True), done


@pytest.mark.parametrize("word", ["start", "restart"])
def test_document_of_what_has_failed_by_the_end_of_it_agrees_with_the_exit_code(empty: Stack, word: str) -> None:
    empty.configure(f"[component.job]\n{FAILS_AT_ONCE}")
    empty.cli("start")
    done = empty.cli(word, "job", "--json")
    (told,) = json.loads(done.stdout)["components"]
    assert (done.returncode, told["state"], told["ok"]) == (1, "failed", False), done
    assert told["message"].startswith("exited with code 7")
    assert told["message"].endswith(f"{empty.home}/logs/job.log")


def test_headline_judges_what_was_asked_for_as_the_exit_code_does(empty: Stack) -> None:
    empty.configure(f"[component.job]\noptional = true\n{FAILS_AT_ONCE}")
    assert empty.cli("start").returncode == 0
    empty.wait_state("job", "failed")
    every, named = empty.cli("status"), empty.cli("status", "job")
    assert (every.returncode, every.stdout.splitlines()[0]) == (0, "✓ healthy: but optional job is failed")
    assert (named.returncode, named.stdout.splitlines()[0]) == (1, "✗ unhealthy: job is failed")


def test_start_without_any_time_names_what_is_not_up_yet(empty: Stack) -> None:
    empty.configure(
        '[component.slow]\ncommand = ["sleep", "1000"]\n'
        'startup = { exec = { command = ["false"] }, failure_threshold = 100 }\n'
    )
    done = empty.cli("start", "--timeout", "0")
    assert (done.returncode, "not up after 0 s" in done.stderr) == (1, True), done


def test_descendant_of_a_dead_leader_is_alive_to_the_status_of_a_dead_daemon(empty: Stack) -> None:
    script = "sleep 1000 & echo $! > child; wait"
    empty.configure(f'[component.web]\ncommand = ["sh", "-c", "{script}"]\n')
    empty.start()
    leader = empty.wait_state("web", "running")["pid"]
    child = empty.home / "child"
    wait_until(lambda: child.exists() and child.read_text().endswith("\n"))
    empty.kill()
    os.kill(leader, signal.SIGKILL)
    wait_until(lambda: not is_alive(leader))
    assert "still alive: web" in empty.cli("status").stdout
    assert empty.cli("stop").returncode == 0
    assert "still alive: nothing" in empty.cli("status").stdout
    shown = json.loads(empty.cli("status", "--json").stdout)["components"][0]
    assert [shown[key] for key in ("state", "pid", "started_at", "adopted", "ready")] == (
        ["stopped", None, None, False, False]
    )


def test_stop_outlasts_a_replacement_of_the_daemon(empty: Stack) -> None:
    script = "trap 'echo asked; sleep 2; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    empty.configure(f'[component.web]\ncommand = ["sh", "-c", "{script}"]\n')
    empty.cli("start")
    log = empty.home / "logs" / "web.log"
    wait_until(lambda: "up" in log.read_text().split())
    with ThreadPoolExecutor(1) as threads:
        stop = threads.submit(empty.cli, "stop", "web")
        wait_until(lambda: "asked" in log.read_text().split())
        assert empty.cli("restart", "--daemon").returncode == 0
        done = stop.result()
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "web: stopped"), done


def test_configuration_error_is_exit_2_with_what_the_daemon_said(empty: Stack) -> None:
    empty.configure('[component.a]\ncommnd = ["true"]\n')
    done = empty.cli("start")
    assert done.returncode == 2
    assert "component.a.commnd" in done.stderr
    done = empty.cli("check")
    assert done.returncode == 2
    assert f"{empty.home}/stigmer.toml:2: component.a.commnd" in done.stderr
    assert "component.a.commnd" in [e["path"] for e in json.loads(empty.cli("check", "--json").stdout)["errors"]]


def test_many_starts_at_once_lead_to_one_daemon(empty: Stack) -> None:
    empty.configure('[component.a]\ncommand = ["sleep", "1000"]\n')
    command = [sys.executable, "-m", "stigmerd.cli", "server", "--home", str(empty.home)]
    starts = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(6)]
    outputs = [start.communicate(timeout=60)[0] for start in starts]
    assert [start.returncode for start in starts] == [0] * 6, outputs
    assert sum(b"running already" in output for output in outputs) == 5
    assert len(empty.processes()["a"]) == 1


def test_dead_daemon_is_shown_explained_and_cleaned_up_after(empty: Stack) -> None:
    empty.configure(CONFIGURATION)
    assert empty.cli("start", "-q").returncode == 0
    os.kill(empty.call("hello")["pid"], signal.SIGKILL)
    wait_until(lambda: empty.cli("status").returncode == 3)
    document = json.loads(empty.cli("status", "--json").stdout)
    assert (document["daemon"], document["healthy"]) == (None, False)
    assert {c["name"]: c["alive"] for c in document["components"] if c["enabled"]} == {
        "web": True,
        "worker": True,
        "hostile": True,
    }
    assert "still alive" in empty.cli("status").stdout
    assert empty.cli("logs", "web").returncode == 0
    assert "The daemon is not running" in empty.cli("explain", "web").stdout
    done = empty.cli("stop", "web")
    assert done.returncode == 0
    assert set(empty.processes()) == {"worker", "hostile"}
    assert "Ended worker" in empty.cli("stop").stdout
    assert empty.processes() == {}


def test_without_a_daemon_components_are_in_the_order_of_the_file(empty: Stack) -> None:
    second = '[component.second]\ncommand = "sleep 1000"\n'
    empty.configure(second)
    empty.cli("start", "-q")
    empty.configure(f'[component.first]\ncommand = "sleep 1000"\n{second}')
    assert empty.cli("reload").returncode == 0
    empty.wait_state("first", "running")
    empty.cli("stop")
    names = [component["name"] for component in json.loads(empty.cli("status", "--json").stdout)["components"]]
    assert names == ["first", "second"]


def test_component_that_is_configured_and_was_never_started_is_known_without_a_daemon(empty: Stack) -> None:
    empty.configure('[component.web]\ncommand = "sleep 1000"\n')
    for words in ("logs web", "events web", "stop web", "wait web --for stopped"):
        done = empty.cli(*words.split())
        assert (done.returncode, done.stderr) == (0, ""), words
    told = empty.cli("explain", "web")
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith("○ web is stopped\n")
    assert "It was never started." in told.stdout
    assert json.loads(empty.cli("explain", "web", "--json").stdout)["life"] is None
    assert empty.cli("status", "web").returncode == 3


def test_component_that_was_configured_after_the_daemon_is_known_without_it(empty: Stack) -> None:
    elsewhere = empty.home / "elsewhere.toml"
    elsewhere.write_text('[component.web]\ncommand = "sleep 1000"\n')
    assert empty.cli("start", "-q", "--config", str(elsewhere)).returncode == 0
    assert empty.cli("stop").returncode == 0
    with elsewhere.open("a") as end:
        end.write('[component.new]\ncommand = "sleep 1000"\n')
    assert "It was never started." in empty.cli("explain", "new").stdout
    elsewhere.unlink()
    assert empty.cli("explain", "new").stderr == "There is no component 'new'. There are: web.\n"


def test_init_writes_a_valid_configuration_once(empty: Stack) -> None:
    assert empty.cli("init").returncode == 0
    assert empty.cli("check").returncode == 0
    done = empty.cli("init")
    assert done.returncode == 1
    assert "is left as it is" in done.stderr
