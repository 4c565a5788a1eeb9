"""What people do to a home behind the daemon's back, and what they must see then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from stigmerd.adapters.processes import cgroup
from tests.system.daemons import LIMIT, Stack, is_alive, wait_until
from tests.system.invariants import check_present

pytestmark = pytest.mark.crashes

EAGER = """
import os, stigmerd.daemon.own_process as own_process
reset = own_process.reset_signals
def tell():
    reset()
    os.write(1, b"1")
own_process.reset_signals = tell
from stigmerd.__main__ import main
raise SystemExit(main())
"""
"""A daemon that says when it can be sent signals, long before it can be asked anything."""

SLEEPER = '[component.a]\ncommand = "sleep 1000"\n'


def start_once(stack: Stack) -> subprocess.CompletedProcess[str]:
    """Run a daemon that is expected to end by itself at once."""
    command = [sys.executable, "-P", "-m", "stigmerd", "--home", str(stack.home)]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


def test_configuration_that_vanished_stops_neither_the_next_daemon_nor_a_replacement_from_sparing_lives(
    home: Stack,
) -> None:
    home.configure(SLEEPER)
    home.start()
    pid = home.wait_state("a", "running")["pid"]
    (home.home / "stigmer.toml").rename(home.home / "moved.toml")
    refused = home.cli("restart", "--daemon")
    assert refused.returncode == 1
    assert "stigmer.toml cannot be read" in refused.stderr
    assert home.component("a")["pid"] == pid
    home.kill()
    ended = start_once(home)
    assert ended.returncode == 2
    assert "stigmer.toml cannot be read" in ended.stderr
    assert is_alive(pid)
    (home.home / "moved.toml").rename(home.home / "stigmer.toml")
    home.start()
    assert home.wait_state("a", "running")["pid"] == pid


def test_after_a_stop_without_a_daemon_the_vanished_configuration_is_no_obstacle(home: Stack) -> None:
    home.configure('[component.a]\ncommand = "false"\nrestart = { initial_backoff = "1h" }\n')
    home.start()
    home.wait_state("a", "restarting")
    home.kill()
    assert home.cli("stop").returncode == 0
    (home.home / "stigmer.toml").unlink()
    (home.home / "other.toml").write_text("")
    assert home.cli("start", "--config", str(home.home / "other.toml")).returncode == 0


@pytest.mark.parametrize(("names", "order"), [([], "top middle base"), (["base", "top"], "top base")])
def test_stop_without_a_daemon_is_in_the_order_and_the_way_that_is_configured(
    home: Stack, names: list[str], order: str
) -> None:
    said = home.home / "said"
    script = "trap 'echo {0} >> {1}; exit 0' INT; trap 'echo TERM >> {1}' TERM; echo up; while :; do sleep 0.05; done"
    for name in ("base", "middle", "top"):
        (home.home / f"{name}.sh").write_text(script.format(name, said))
    home.configure(
        """
        [defaults]
        stop = { signal = "SIGINT", grace = "50s" }
        [component.base]
        command = "sh base.sh"
        [component.middle]
        command = "sh middle.sh"
        depends_on = { base = "started" }
        [component.top]
        command = "sh top.sh"
        depends_on = { middle = "started" }
        """
    )
    home.start()
    for name in ("base", "middle", "top"):
        log = home.home / "logs" / f"{name}.log"
        wait_until(lambda log=log: log.exists() and "up" in log.read_text().split())  # type: ignore[misc]
    home.kill()
    stopped = home.cli("stop", *names)
    assert stopped.returncode == 0, stopped
    assert home.processes().keys() == ({"middle"} if names else set())
    assert stopped.stderr == ("middle depends on base and runs on\n" if names else "")
    assert said.read_text().split() == order.split()


def test_stop_without_a_daemon_asks_also_who_has_dropped_its_environment(home: Stack) -> None:
    if cgroup.find_base(str(home.home)) is None:
        pytest.skip("Linux only, with a cgroup v2 folder of our own")
    said = home.home / "said"
    (home.home / "bare.sh").write_text(f"trap 'echo TERM > {said}; exit 0' TERM; echo up; while :; do sleep 0.05; done")
    home.configure('[component.bare]\ncommand = "env -i sh bare.sh"\n')
    home.start()
    pid = home.wait_state("bare", "running")["pid"]
    wait_until(lambda: "up" in (home.home / "logs" / "bare.log").read_text().split())
    home.kill()
    stopped = home.cli("stop")
    assert (stopped.returncode, is_alive(pid), said.read_text()) == (0, False, "TERM\n"), stopped


def test_every_error_of_a_configuration_has_a_line_of_its_own(home: Stack) -> None:
    home.configure(SLEEPER + "foo = 1\nbar = 2\n")
    ended = start_once(home)
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 2), ended


@pytest.mark.parametrize(("path", "said"), [("", "is no path of a folder"), ("/tmp/h\udcff", "no path of valid UTF-8")])
def test_home_that_can_be_no_path_is_an_error_of_usage(path: str, said: str) -> None:
    command = [sys.executable, "-P", "-m", "stigmerd", "--home", path]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (ended.returncode, said in ended.stderr) == (2, True), ended


def test_second_daemon_is_refused_even_where_the_lock_was_removed(home: Stack) -> None:
    home.configure(SLEEPER)
    home.start()
    pid = home.wait_state("a", "running")["pid"]
    (home.home / "run" / "stigmerd.lock").unlink()
    ended = start_once(home)
    assert ended.returncode == 1
    assert "is in use by the daemon with pid" in ended.stderr
    assert home.component("a")["pid"] == pid


def test_daemon_that_was_killed_and_is_not_reaped_yet_is_no_obstacle(home: Stack) -> None:
    home.configure(SLEEPER)
    home.start()
    pid = home.wait_state("a", "running")["pid"]
    assert home.daemon is not None
    os.kill(home.daemon.pid, signal.SIGKILL)  # a zombie until this process waits for it
    dead = home.daemon
    wait_until(lambda: not is_alive(dead.pid))
    home.start()
    assert home.wait_state("a", "running")["pid"] == pid
    dead.wait()


def test_where_the_state_was_lost_the_history_goes_on_without_a_repeat(home: Stack) -> None:
    home.configure(SLEEPER)
    home.start()
    pid = home.wait_state("a", "running")["pid"]
    home.kill()
    for path in (home.home / "state").iterdir():
        if not path.name.startswith("events"):
            path.unlink()
    home.start()
    assert home.wait_state("a", "running")["life"] == 2
    assert not is_alive(pid)
    check_present(home)


def test_log_of_the_daemon_tells_its_start_and_its_last_event(home: Stack) -> None:
    home.configure("".join(f'[component.c{i}]\ncommand = "sleep 1000"\n' for i in range(8)))
    home.start()
    home.wait_state("c7", "running")
    home.end()
    text = (home.home / "logs" / "stigmerd.log").read_text()
    assert "daemon_started" in text
    assert [f"c{i}: stopped" in text for i in range(8)] == [True] * 8


def test_log_that_is_no_file_fails_the_attempt_with_its_path(home: Stack) -> None:
    home.configure(SLEEPER)
    (home.home / "logs").mkdir(mode=0o700)
    os.mkfifo(home.home / "logs" / "a.log")
    home.start()
    error = home.wait_state("a", "restarting")["last_error"]
    assert f"{home.home}/logs/a.log is a FIFO" in error


def test_component_that_completed_has_no_error(home: Stack) -> None:
    home.configure('[component.a]\ncommand = "true"\nrestart = { policy = "on-failure" }\n')
    home.start()
    done = home.wait_state("a", "completed")
    assert (done["last_exit"]["code"], done["last_error"]) == (0, None)


def test_waiting_for_the_end_of_what_a_dead_daemon_left_is_no_lie(home: Stack) -> None:
    home.configure(SLEEPER)
    home.start()
    pid = home.wait_state("a", "running")["pid"]
    home.kill()
    waited = home.cli("wait", "--for", "stopped", "--timeout", "0.3")
    assert waited.returncode == 1
    assert str(pid) in waited.stderr
    assert home.cli("stop").returncode == 0
    assert home.cli("wait", "--for", "stopped", "--timeout", "0.3").returncode == 0


def test_wait_without_time_answers_what_is_so_now(home: Stack) -> None:
    home.configure(SLEEPER)
    home.start()
    wait_until(lambda: home.component("a")["state"] == "running")
    assert home.cli("wait", "a", "--timeout", "0").returncode == 0
    late = home.cli("wait", "a", "--for", "stopped", "--timeout", "0")
    assert late.returncode == 1
    assert "a is running" in late.stderr


def test_replacement_of_the_daemon_says_which_components_a_changed_file_touched(home: Stack) -> None:
    home.configure(SLEEPER + '[component.b]\ncommand = "sleep 1000"\n')
    home.start()
    home.wait_state("b", "running")
    untouched = home.cli("restart", "--daemon")
    assert "No component was touched" in untouched.stdout
    home.configure(SLEEPER + '[component.b]\ncommand = "sleep 2000"\n')
    wait_until(lambda: home.call("status")["daemon"]["config_stale"])
    changed = home.cli("restart", "--daemon")
    assert changed.returncode == 0
    assert "No component was touched" not in changed.stdout
    assert "b" in changed.stdout.split("configuration")[-1]


@pytest.mark.parametrize("after", [0.0, 0.1, 0.2])
def test_signal_during_the_start_is_an_ordered_stop(home: Stack, after: float) -> None:
    home.configure(SLEEPER)
    command = [sys.executable, "-P", "-c", EAGER, "--home", str(home.home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as daemon:
        assert daemon.stdout is not None
        daemon.stdout.read(1)
        time.sleep(after)
        daemon.send_signal(signal.SIGTERM)
        try:
            assert daemon.wait(LIMIT) == 0
        finally:
            daemon.kill()
    assert home.processes() == {}


INTERRUPTED = """
import os, signal, sys
from stigmerd.__main__ import main

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "stigmerd.daemon.foreground":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
sys.exit(main(sys.argv[1:]))
"""


def test_signal_while_the_daemon_is_imported_is_an_ordered_stop(home: Stack) -> None:
    home.configure(SLEEPER)
    command = [sys.executable, "-P", "-c", INTERRUPTED, "--home", str(home.home)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (ended.returncode, "Traceback" in ended.stderr) == (0, False), ended


def test_signal_that_means_nothing_ends_nothing_and_the_key_to_quit_stops_in_order(home: Stack) -> None:
    home.configure(SLEEPER)
    home.start()
    pid, daemon = home.wait_state("a", "running")["pid"], home.daemon
    assert daemon is not None
    own_log = home.home / "logs" / "stigmerd.log"
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
        daemon.send_signal(number)
        wait_until(lambda number=number: f"{number.name} means nothing here" in own_log.read_text())  # type: ignore[misc]
    assert home.component("a")["pid"] == pid
    assert daemon.poll() is None
    daemon.send_signal(signal.SIGQUIT)
    assert daemon.wait(20) == 0
    assert (home.processes(), home.events("a")[-1]["event"]) == ({}, "stopped")


@pytest.mark.parametrize("begun_by", ["signal", "operator"])
def test_second_signal_cuts_the_grace_of_a_shutdown_whoever_began_it(home: Stack, begun_by: str) -> None:
    home.configure(
        """
        [component.stubborn]
        command = ["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done"]
        stop = { grace = "10m" }
        """
    )
    home.start()
    wait_until(lambda: "deaf" in (home.home / "logs" / "stubborn.log").read_text())
    daemon = home.daemon
    assert daemon is not None
    if begun_by == "operator":
        command = [sys.executable, "-m", "stigmerd.cli", "server", "stop", "--home", str(home.home)]
        operator = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    else:
        operator = None
        daemon.send_signal(signal.SIGTERM)
    wait_until(lambda: "daemon_stopping" in [entry["event"] for entry in home.events()])

    def insist() -> bool:
        daemon.send_signal(signal.SIGTERM)
        return daemon.poll() is not None

    wait_until(insist)
    assert daemon.returncode == 0
    if operator is not None:
        assert operator.wait(20) == 0
    assert home.events("stubborn")[-1]["event"] == "stopped"


def test_sighups_that_come_during_a_reload_are_heeded_together_after_it(home: Stack) -> None:
    go = home.home / "go"
    slow = f"trap 'while [ ! -e {go} ]; do sleep 0.02; done; exit 0' TERM; echo up; while :; do sleep 0.02; done"
    (home.home / "slow.sh").write_text(slow)
    home.configure('[component.slow]\ncommand = "sh slow.sh"\nstop = { grace = "50s" }\n')
    home.start()
    assert home.daemon is not None
    wait_until(lambda: "up" in (home.home / "logs" / "slow.log").read_text().split())
    home.configure(SLEEPER)
    home.daemon.send_signal(signal.SIGHUP)
    home.wait_state("slow", "stopping")
    home.configure(SLEEPER + '[component.late]\ncommand = "sleep 1000"\n')
    for _ in range(3):
        home.daemon.send_signal(signal.SIGHUP)
        assert home.component("slow")["state"] == "stopping"
    go.touch()

    def reloads() -> int:
        return len([entry for entry in home.events() if entry["event"] == "config_reloaded"])

    wait_until(lambda: reloads() == 2)
    home.wait_state("late", "running")
    home.call("reload")
    assert reloads() == 3


def test_secret_in_a_command_or_a_probe_is_in_nothing_that_the_daemon_writes(
    home: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOP_SECRET", "hunter2hunter2")
    home.configure(
        """
        [component.absent]
        command = "/no/${TOP_SECRET}"
        [component.probed]
        command = ["sh", "-c", "sleep 1000", "${TOP_SECRET}"]
        env = { KEY = "${TOP_SECRET}" }
        readiness = { exec = { command = "sh -c 'echo said $KEY; exit 1'" }, period = "50ms" }
        [component.talkative]
        command = "sleep 1000"
        env = { KEY = "${TOP_SECRET}" }
        readiness = { exec = { command = "sh -c 'printf %s%0250d $KEY 0; exit 1'" }, period = "50ms" }
        """
    )
    home.start()
    assert "/no/${TOP_SECRET}: No such file" in home.wait_state("absent", "restarting")["last_error"]
    for name in ("probed", "talkative"):
        home.wait_state(name, "running")
    wait_until(lambda: home.component("probed")["probes"][0]["message"] == "said ${TOP_SECRET}")
    cut = f"${{TOP_SECRET}}{0:0250d}"[-256:]
    wait_until(lambda: home.component("talkative")["probes"][0]["message"] == cut)
    home.end()
    written = [path for folder in ("logs", "state") for path in (home.home / folder).iterdir()]
    assert [path.name for path in written if b"hunter2" in path.read_bytes()] == []


def test_secret_that_is_a_number_or_a_short_word_is_in_nothing_that_the_daemon_writes_either(
    home: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIN", "98765432")
    monkeypatch.setenv("SHORT", "q7z")
    home.configure('[component.numbered]\ncommand = ["${PIN}", "x"]\n[component.short]\ncommand = "${SHORT}"\n')
    home.start()
    for name, shown in (("numbered", "${PIN}"), ("short", "${SHORT}")):
        assert home.wait_state(name, "restarting")["last_error"].startswith(f"{shown}: No such file or directory")
    home.end()
    written = [path for folder in ("logs", "state") for path in (home.home / folder).iterdir()]
    told = [path.name for path in written if any(secret in path.read_bytes() for secret in (b"98765432", b"q7z"))]
    assert told == []
