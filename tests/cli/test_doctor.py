"""``doctor``: each thing that it looks at, as it is and as it should not be."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stigmerd.adapters.disk.home import Home
from stigmerd.cli import doctor
from stigmerd.cli.machine import BAD, FAIR, GOOD, look_at_machine
from tests.system.daemons import Stack, stack


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Stack]:
    """A home without a daemon."""
    with stack(tmp_path) as one:
        yield one
        one.cli("stop", "--now")


def findings(home: Stack) -> dict[str, tuple[str, str, str]]:
    """Level, sentence and advice by subject; the last one of each."""
    told = json.loads(home.cli("doctor", "--json").stdout)
    return {found["subject"]: (found["level"], found["sentence"], found["advice"]) for found in told}


def doctor_under(limit: str, home: Stack) -> str:
    """What it says where the shell has set a limit before."""
    command = shlex.join([sys.executable, "-m", "stigmerd.cli", "server", "doctor", "--home", str(home.home)])
    done = subprocess.run(
        ["bash", "-c", f"{limit}; {command}"], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout


def test_every_subject_is_looked_at(home: Stack) -> None:
    home.configure('[component.a]\ncommand = ["sleep", "1000"]\n')
    home.start()
    found = findings(home)
    wanted = {"platform", "identity", "descriptors", "processes", "clock", "home", "logs", "daemon", "configuration"}
    assert wanted | {"disk", "docker"} <= found.keys()
    assert {level for level, _, _ in found.values()} <= {"ok", "warning"}
    assert "version" in found["daemon"][1]


def test_findings_that_need_a_hand_say_what_to_do(home: Stack) -> None:
    home.configure('[component.bad]\ncommand = ["no-such-program-anywhere"]\n')
    done = home.cli("doctor")
    assert done.returncode == 1
    assert "✗ bad: there is no program no-such-program-anywhere\n  Install it" in done.stdout
    lacking = [found for found in findings(home).values() if found[0] != "ok" and not found[2] and ": " not in found[1]]
    assert lacking == []


def test_low_limits_are_told(home: Stack) -> None:
    assert "! descriptors: at most 512 open files\n  Raise it with" in doctor_under("ulimit -n 512", home)
    assert "! processes: at most 1000 processes" in doctor_under("ulimit -u 1000", home)


def test_port_that_is_taken_is_told(home: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        home.configure(f'[component.a]\ncommand = ["sleep", "1"]\nports = [{port}]\n')
        assert f"port {port} is taken by" in findings(home)["a"][1]
        assert f"(pid {os.getpid()})" in findings(home)["a"][1]
    assert findings(home)["ports"] == ("ok", f"free: {port}", "")


def test_docker_is_told_also_where_nobody_needs_it(home: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{home.home}/no-such.sock")
    home.configure('[component.a]\ncommand = ["sleep", "1"]\n')
    level, sentence, _ = findings(home)["docker"]
    assert (level, sentence.endswith("; no component needs it")) == ("ok", True)
    home.configure('[component.a]\ncontainer = { image = "x" }\n')
    level, _, advice = findings(home)["docker"]
    assert level == "error"
    assert advice.startswith("a waits for it. Start Docker")


def test_broken_configuration_is_told_with_the_command_that_shows_all(home: Stack) -> None:
    home.configure('[component.a]\ncomand = "x"\n')
    level, sentence, advice = findings(home)["configuration"]
    assert (level, sentence.endswith(", and 1 more")) == ("error", True)
    assert advice.startswith("See all: stigmer server check")


def test_logs_that_may_outgrow_the_disk_are_told(home: Stack) -> None:
    home.configure('[component.a]\ncommand = ["sleep", "1"]\nlog = { max_size = "1024GiB", keep = 1000 }\n')
    level, sentence, advice = findings(home)["disk"]
    assert level == "warning"
    assert "the logs may grow to" in sentence
    assert "log.max_size" in advice


def test_clock_that_went_back_is_told(home: Stack) -> None:
    (home.home / "state").mkdir(mode=0o700)
    events = home.home / "state" / "events.jsonl"
    events.write_text("")
    events.chmod(0o600)
    os.utime(events, (time.time() + 86400,) * 2)
    assert "the clock went back" in findings(home)["clock"][1]


def test_home_that_others_can_write_and_one_that_is_a_file_are_told(home: Stack) -> None:
    home.home.chmod(0o777)
    assert "chmod go-w" in findings(home)["home"][1]
    home.home.chmod(0o700)
    file = Stack(home.home / "file")
    file.home.write_text("")
    assert findings(file)["home"][0] == "error"


def test_file_system_that_cannot_cut_is_told(home: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    (home.home / "logs").mkdir(mode=0o700)
    place = Home.at(home.home)
    monkeypatch.setattr(doctor, "can_collapse", lambda folder: False)
    assert [(f.level, f.subject) for f in doctor._rotation(place)] == [(FAIR, "logs")]
    monkeypatch.setattr(doctor, "can_collapse", lambda folder: True)
    assert [(f.level, f.subject) for f in doctor._rotation(place)] == [(GOOD, "logs")]


def test_what_the_platform_lacks_is_told(home: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stigmerd.cli.machine.proc.has_pidfd", lambda: False)
    monkeypatch.setattr("stigmerd.cli.machine.cgroup.find_base", lambda home: None)
    monkeypatch.setattr("stigmerd.cli.machine.platform.release", lambda: "5.3.0")
    monkeypatch.setattr("stigmerd.cli.machine.time.time", lambda: 0.0)
    levels = {found.subject: found.level for found in look_at_machine(str(home.home))}
    assert (levels["identity"], levels["clock"]) == (FAIR, FAIR)
    if sys.platform == "linux":
        assert (levels["descendants"], levels["platform"]) == (FAIR, BAD)


def test_other_program_of_our_name_is_told(home: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "bin" / "stigmer"
    other.parent.mkdir()
    other.write_bytes(b"\x7fELF")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{other.parent}:{os.environ['PATH']}")
    assert "comes first on the PATH" in findings(home)["command"][1]
    monkeypatch.setenv("PATH", "/nowhere")
    assert "not on the PATH" in findings(home)["command"][1]


def test_doctor_leaves_nothing_behind(home: Stack) -> None:
    before = sorted(home.home.rglob("*"))
    home.cli("doctor")
    assert sorted(home.home.rglob("*")) == before
