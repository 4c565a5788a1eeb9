"""Crashes of components and of the daemon, simulated from outside with signals."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime

import pytest

from tests.system.daemons import LIMIT, Stack, is_alive, kill, wait_until

pytestmark = pytest.mark.crashes

SLEEPERS = """
[defaults.restart]
initial_backoff = "100ms"

[component.a]
command = "sleep 1000"

[component.b]
command = "sleep 1000"
depends_on = { a = "started" }
"""


def seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


def test_killed_component_is_seen_within_fifty_milliseconds_and_comes_back(home: Stack) -> None:
    home.configure(SLEEPERS)
    home.start()
    pid = home.wait_state("a", "running")["pid"]
    delays = []
    for life in range(2, 6):  # a busy machine may hold up one or two
        before = time.time()
        kill(pid)
        again = home.wait_state("a", "running", life=life)
        assert again["pid"] != pid
        assert (again["restarts"], again["last_exit"]["signal"]) == (life - 1, "SIGKILL")
        (exited,) = [e for e in home.events("a") if e["event"] == "exited" and e["life"] == life - 1]
        delays.append(seconds(exited["at"]) - before)
        pid = again["pid"]
        if delays[-1] < 0.05:
            break
    assert -0.002 < min(delays) < 0.05, f"{delays}"
    assert "stigmerd[a]: Restarted a (attempt 1/10)" in (home.home / "logs" / "a.log").read_text()
    assert home.component("b")["life"] == 1


def test_instant_crasher_is_failed_and_the_rest_untouched(home: Stack) -> None:
    home.configure(
        """
        [component.bad]
        command = "false"
        restart = { initial_backoff = "10ms", max_backoff = "40ms", max_restarts = 3 }
        [component.good]
        command = "sleep 1000"
        """
    )
    home.start()
    failed = home.wait_state("bad", "failed")
    assert failed["life"] == 4
    assert "3 restarts within 600 s" in failed["reason"]
    assert [entry["event"] for entry in home.events("bad")].count("exited") == 4
    assert home.cli("status").returncode == 1
    assert home.component("good")["life"] == 1


def test_missing_command_fails_the_attempt_with_path_and_reason(home: Stack) -> None:
    home.configure('[component.a]\ncommand = "/no/such/program"\n')
    home.start()
    waiting = home.wait_state("a", "restarting")
    assert "/no/such/program" in waiting["last_error"]
    assert "No such file or directory" in waiting["last_error"]


ESCAPER = """
import os, signal, sys, time
if os.fork():
    time.sleep(1000)
os.setsid()
if os.fork():
    os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
time.sleep(1000)
"""


def test_stop_leaves_no_grandchild_in_another_session_alive(home: Stack) -> None:
    (home.home / "escaper.py").write_text(ESCAPER)
    home.configure(
        f"[component.a]\ncommand = ['{sys.executable}', './escaper.py']\n"
        f"cwd = '{home.home}'\nstop = {{ grace = '300ms' }}\n"
    )
    home.start()
    log = home.home / "logs" / "a.log"
    lines = wait_until(
        lambda: [line for line in log.read_text().splitlines() if line.isdigit()] if log.exists() else []
    )
    grandchild = int(lines[0])
    answer = home.call("stop", names=["a"])["components"][0]
    assert answer["ok"], answer
    assert not is_alive(grandchild)
    assert home.processes() == {}


def test_stop_ends_what_ignores_sigterm_and_what_is_stopped(home: Stack) -> None:
    home.configure(
        """
        [defaults.stop]
        grace = "200ms"
        [component.deaf]
        command = ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]
        [component.frozen]
        command = "sleep 1000"
        """
    )
    home.start()
    home.wait_state("deaf", "running")
    frozen = home.wait_state("frozen", "running")["pid"]
    os.kill(frozen, signal.SIGSTOP)
    answers = home.call("stop")["components"]
    assert all(answer["ok"] for answer in answers)
    assert home.processes() == {}


def test_components_survive_the_daemon_and_are_adopted_with_their_counts(home: Stack) -> None:
    home.configure(SLEEPERS + '\n[component.by-hand]\ncommand = "sleep 1000"\n')
    home.start()
    kill(home.wait_state("a", "running")["pid"])
    before = {name: home.wait_state(name, "running", life=life) for name, life in (("a", 2), ("b", 1))}
    home.call("stop", names=["by-hand"])
    home.kill()
    told = home.cli("status", "--json")
    assert told.returncode == 3
    assert all(is_alive(document["pid"]) for document in before.values())
    home.start()
    for name, document in before.items():
        wait_until(lambda name=name: home.component(name)["adopted"])  # type: ignore[misc]
        after = home.component(name)
        assert (after["pid"], after["life"], after["adopted"]) == (document["pid"], document["life"], True)
        assert after["restarts"] == document["restarts"]
    assert home.component("by-hand")["state"] == "stopped"
    assert {name: len(pids) for name, pids in home.processes().items()} == {"a": 1, "b": 1}
    kill(before["b"]["pid"])
    again = home.wait_state("b", "running", life=2)
    assert again["restarts"] == 1
    assert [entry["event"] for entry in home.events("b")].count("exited") == 1
    numbers = [entry["seq"] for entry in home.events()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_what_an_ordered_stop_made_void_does_not_come_back_with_the_next_crash(home: Stack) -> None:
    home.configure(SLEEPERS + '\n[component.off]\ncommand = "sleep 1000"\nenabled = false\n')
    home.start()
    home.call("start", names=["off"])
    home.call("stop", names=["b"])
    home.end()
    home.start()
    home.wait_state("b", "running")
    home.kill()
    home.start()
    states = {name: home.component(name)["state"] for name in ("a", "b", "off")}
    assert states == {"a": "running", "b": "running", "off": "stopped"}
    home.end()
    home.launch()
    wait_until(lambda: any(home.processes()))  # as early as that, nobody was stopped by hand
    home.kill()
    home.start()
    for name in ("a", "b"):
        home.wait_state(name, "running")


def test_component_that_died_without_a_daemon_is_recorded_once_and_restarted(home: Stack) -> None:
    home.configure(SLEEPERS)
    home.start()
    pid = home.wait_state("a", "running")["pid"]
    home.wait_state("b", "running")
    home.kill()
    kill(pid)
    home.start()
    assert home.wait_state("a", "running", life=2)["restarts"] == 1
    wait_until(lambda: home.component("b")["adopted"])
    assert [entry["event"] for entry in home.events("a")].count("exited") == 1


def test_component_removed_from_the_file_while_no_daemon_ran_is_asked_to_end(home: Stack) -> None:
    home.configure(
        SLEEPERS
        + """
        [component.old]
        command = ["sh", "-c", "trap 'echo ended > ended; exit 0' INT; echo > ready; while :; do sleep 0.01; done"]
        stop = { signal = "SIGINT" }
        """
    )
    home.start()
    wait_until((home.home / "ready").exists)
    old, kept = (home.wait_state(name, "running")["pid"] for name in ("old", "a"))
    home.kill()
    home.configure(SLEEPERS)
    home.start()
    assert (home.home / "ended").exists()
    assert not is_alive(old)
    assert home.component("a")["pid"] == kept
    assert [e["event"] for e in home.events("old")][-2:] == ["orphan_removed", "exited"]


@pytest.mark.parametrize("lost", ["stigmerd.lock", "stigmerd.sock", "."])
def test_stop_reaches_a_daemon_whose_run_folder_lost_something(home: Stack, lost: str) -> None:
    home.configure(SLEEPERS)
    home.start()
    pids = [home.wait_state(name, "running")["pid"] for name in ("a", "b")]
    path = home.home / "run" / lost
    path.rename(gone := home.home / "gone")  # at once: the daemon makes what is lost again
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    told = home.cli("stop")
    assert (told.returncode, told.stderr) == (0, "")
    assert home.daemon is not None
    home.daemon.wait(LIMIT)  # by its own will, and nothing comes back
    assert not any(map(is_alive, pids))


def test_daemon_killed_at_many_instants_never_doubles_or_loses_anything(home: Stack) -> None:
    home.configure(SLEEPERS)
    for delay in (0.0, 0.005, 0.02, 0.05, 0.1, 0.2):
        home.start()
        time.sleep(delay)
        home.kill()
        assert all(len(pids) == 1 for pids in home.processes().values())
    home.start()
    for name in ("a", "b"):
        home.wait_state(name, "running")
    assert {name: len(pids) for name, pids in home.processes().items()} == {"a": 1, "b": 1}


def test_replaced_program_keeps_pid_children_and_exit_codes(home: Stack) -> None:
    home.configure(SLEEPERS)
    home.start()
    assert home.daemon is not None
    before = home.wait_state("a", "running")["pid"]
    done = home.cli("restart", "--daemon")
    assert (done.returncode, done.stderr) == (0, "")
    assert home.daemon.poll() is None
    assert home.wait_state("a", "running")["pid"] == before
    kill(before)
    assert home.wait_state("a", "running", life=2)["last_exit"]["signal"] == "SIGKILL"


def test_second_daemon_is_refused(home: Stack) -> None:
    home.configure(SLEEPERS)
    home.start()
    command = [sys.executable, "-P", "-m", "stigmerd", "--home", str(home.home)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode == 1
    assert len(second.stderr.strip().splitlines()) == 1


def check_blames_nobody(home: Stack, resumed: float) -> None:
    """No attempt that the pause of the daemon spoiled was the end of a life.

    One that began after it has failed after a second, which happens where the machine lets its command starve.
    """
    wait_until(lambda: any(entry["event"] == "suspended" for entry in home.events()))
    wait_until(lambda: time.time() - resumed > 1)
    ends = [seconds(entry["at"]) - resumed for entry in home.events() if entry["event"] == "unhealthy"]
    assert not [end for end in ends if 0 <= end < 0.9]


def test_stopped_daemon_makes_the_cli_exit_with_four_and_restarts_nothing(home: Stack) -> None:
    home.configure(
        SLEEPERS + '\n[component.a.liveness]\nexec = { command = "true" }\nperiod = "200ms"\nfailure_threshold = 1\n'
    )
    home.start()
    home.wait_state("a", "running")
    assert home.daemon is not None
    home.daemon.send_signal(signal.SIGSTOP)
    try:
        assert home.cli("status").returncode == 4
    finally:
        resumed = time.time()
        home.daemon.send_signal(signal.SIGCONT)
    check_blames_nobody(home, resumed)


def test_state_that_names_dangerous_pids_leads_to_no_signal(home: Stack) -> None:
    home.configure(SLEEPERS)
    home.start()
    pid = home.wait_state("a", "running")["pid"]
    home.kill()
    for path in (home.home / "state").iterdir():
        if not path.name.startswith("events"):
            path.write_text(path.read_text().replace(f'"pid":{pid}', '"pid":1').replace(f'"pid": {pid}', '"pid": 1'))
    home.start()
    assert home.wait_state("a", "running")["pid"] not in {1, pid}
    assert not is_alive(pid)
    assert home.call("status")["daemon"]["problems"]


def test_reload_breaks_nothing_when_the_file_is_wrong(home: Stack) -> None:
    home.configure(SLEEPERS)
    home.start()
    home.wait_state("b", "running")
    home.configure("[component.a]\ncomand = 'sleep 1'\n")
    refused = home.cli("reload")
    assert refused.returncode in {1, 2}
    assert "comand" in refused.stderr
    assert home.component("b")["life"] == 1
    home.configure(SLEEPERS.replace('[component.b]\ncommand = "sleep 1000"', '[component.b]\ncommand = "sleep 2000"'))
    plan = home.call("reload")
    assert (plan["changed"], plan["restarted"]) == (["b"], ["b"])
    home.wait_state("b", "running", life=2)
    assert home.component("a")["life"] == 1


def test_everything_that_was_stopped_without_a_daemon_starts_afresh(home: Stack) -> None:
    home.configure(SLEEPERS)
    home.start()
    home.wait_state("b", "running")
    home.kill()
    assert home.cli("stop").returncode == 0
    assert home.processes() == {}
    home.start()
    again = home.wait_state("a", "running", life=2)
    assert (again["restarts"], again["adopted"]) == (0, False)
    assert [entry["event"] for entry in home.events("a")].count("exited") == 1


def test_what_is_disabled_and_ran_before_an_ordered_stop_is_not_started_after_a_crash(home: Stack) -> None:
    extra = '[component.extra]\ncommand = "sleep 1000"\nenabled = false\n'
    home.configure(f'[component.web]\ncommand = "sleep 1000"\n{extra}')
    home.start()
    home.call("start", names=["extra"])
    assert home.daemon is not None
    home.daemon.send_signal(signal.SIGTERM)
    assert home.daemon.wait(LIMIT) == 0
    home.start()
    home.wait_state("web", "running")
    home.kill()
    home.start()
    home.wait_state("web", "running")
    assert home.component("extra")["state"] == "stopped"


def test_what_was_stopped_by_name_without_a_daemon_stays_stopped(home: Stack) -> None:
    home.configure(SLEEPERS)
    home.start()
    before = home.wait_state("b", "running")["pid"]
    home.kill()
    assert home.cli("stop", "a").returncode == 0
    home.start()
    wait_until(lambda: home.component("b")["adopted"])
    assert home.component("b")["pid"] == before
    assert home.component("a")["state"] == "stopped"
    wait_until(lambda: [entry["event"] for entry in home.events("a")].count("exited") == 1)


def test_signal_at_any_instant_of_the_start_is_an_orderly_end(home: Stack) -> None:
    home.configure(SLEEPERS)
    for delay in (0.1, 0.2, 0.3, 0.4, 0.5):
        home.launch()
        assert home.daemon is not None
        time.sleep(delay)
        home.daemon.send_signal(signal.SIGTERM)
        # Before its first instructions a program can but die, and has started nothing yet.
        assert home.daemon.wait(20) in {0, -signal.SIGTERM}
        assert home.processes() == {}


def test_many_signals_only_make_the_end_faster(home: Stack) -> None:
    home.configure(SLEEPERS)
    home.start()
    home.wait_state("b", "running")
    assert home.daemon is not None
    while home.daemon.poll() is None:
        home.daemon.send_signal(signal.SIGINT)
        time.sleep(0.002)
    assert home.daemon.returncode == 0
    assert home.processes() == {}


def test_fifty_components_with_probes_outlast_a_daemon_that_is_stopped_for_five_seconds(home: Stack) -> None:
    probe = '{ exec = { command = "true" }, period = "500ms", failure_threshold = 1 }'
    home.configure(
        "".join(f'[component.c{n}]\ncommand = "sleep 1000"\nreadiness = {{ process = {{}} }}\n' for n in range(45))
        + "".join(f'[component.d{n}]\ncommand = "sleep 1000"\nliveness = {probe}\n' for n in range(5))
    )
    home.start()
    wait_until(lambda: {one["state"] for one in home.call("status")["components"]} == {"running"})
    assert home.daemon is not None
    home.daemon.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    try:
        assert home.cli("status").returncode == 4
        wait_until(lambda: time.monotonic() - began > 5)
    finally:
        resumed = time.time()
        home.daemon.send_signal(signal.SIGCONT)
    check_blames_nobody(home, resumed)
    components = home.call("status", names=[f"c{n}" for n in range(45)])["components"]
    assert {(one["state"], one["life"], one["restarts"]) for one in components} == {("running", 1, 0)}


WALL_CLOCK = """
import pathlib, sys, time
real, offset = time.time, pathlib.Path(sys.argv.pop(1))
time.time = lambda: real() + float(offset.read_text())
from stigmerd.__main__ import main
raise SystemExit(main())
"""
"""A daemon whose wall clock is as wrong as a file says."""


def test_wall_clock_that_jumps_by_a_day_moves_no_timer_no_window_and_no_uptime(home: Stack) -> None:
    offset = home.home / "offset"

    def put_forward(seconds: int) -> None:
        draft = home.home / "draft"
        draft.write_text(str(seconds))
        draft.replace(offset)  # the daemon reads it at any instant

    put_forward(0)
    home.configure(
        """
        [component.steady]
        command = "sleep 1000"
        liveness = { process = {}, period = "200ms", failure_threshold = 1 }
        [component.crasher]
        command = "false"
        restart = { initial_backoff = "1s", backoff_factor = 1, max_restarts = 3, window = "1h" }
        [component.witness]
        command = "sleep 1000"
        """
    )
    command = [sys.executable, "-P", "-c", WALL_CLOCK, str(offset), "--home", str(home.home)]
    home.daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(home.answers)
    home.wait_state("steady", "running")
    home.wait_state("witness", "running")
    began, uptime = time.monotonic(), home.component("steady")["uptime"]
    for jump, method in ((86400, "stop"), (-86400, "start")):  # in the midst of the crasher's backoffs
        put_forward(jump)
        home.call(method, names=["witness"])
    assert home.wait_state("crasher", "failed")["life"] == 4
    steady = home.component("steady")
    assert 0 <= steady["uptime"] - uptime - (time.monotonic() - began) + 2 < 4
    assert (steady["state"], steady["life"], home.call("status")["daemon"]["uptime"] < 120) == ("running", 1, True)
    assert not any(entry["event"] == "unhealthy" for entry in home.events())
    pauses = [entry["seconds"] for entry in home.events() if entry["event"] == "suspended"]
    assert not [pause for pause in pauses if pause > 3600]  # a busy machine may make one of seconds
    days = {entry["at"][:10] for entry in home.events("witness")}
    assert len(days) == 3, "the jumps were seen"
