"""``init``: what it writes loads, and what it imports runs."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker import IMAGE, docker_host, own_engine
from tests.system.daemons import Stack, stack

__all__ = ["docker_host", "own_engine"]

SUPERVISORD = """
[supervisord]
logfile = /tmp/x.log
environment = STACK="ten"

[program:plain]
command = sleep 1000
priority = 1

[program:shell]
command = /bin/sh -c "echo $STACK; exec sleep 1000"

[program:pool]
command = sleep 100%(process_num)d
numprocs = 2
process_name = %(program_name)s_%(process_num)02d

[program:elsewhere]
command = sh -c "pwd; exec sleep 1000"
directory = /tmp

[program:with_env]
command = sh -c "echo $A; exec sleep 1000"
environment = A="one, two",B=three

[program:stubborn]
command = sh -c "trap '' TERM; while :; do sleep 0.1; done"
stopwaitsecs = 1
stopsignal = INT

[program:once]
command = true
autorestart = unexpected
startsecs = 0

[program:by_hand]
command = sleep 1000
autostart = false

[program:noisy]
command = sh -c "echo out; echo err >&2; exec sleep 1000"
stdout_logfile = /tmp/noisy.log
stdout_logfile_maxbytes = 1MB
redirect_stderr = true

[program:Odd Name]
command = sleep 1000
startretries = 2
"""

PROCFILE = """
web: echo listening on $PORT; exec sleep 1000
worker: sleep 1000
clock: while :; do date; sleep 1; done
"""

COMPOSE = f"""
name: imported
x-defaults: &defaults
  image: {IMAGE}
  network_mode: none
  pull_policy: never
services:
  db:
    <<: *defaults
    command: ["/bin/sh", "-c", "touch /ready; exec sleep 1000"]
    healthcheck:
      test: ["CMD", "/bin/cat", "/ready"]
      interval: 1s
    restart: unless-stopped
    stop_grace_period: 1s
  migrate:
    <<: *defaults
    command: /bin/sh -c "echo $$GREETING $$NAME"
    environment: {{GREETING: hello, NAME: "${{USER_OF_TEST:-world}}"}}
    depends_on:
      db: {{condition: service_healthy}}
  app:
    <<: *defaults
    command: ["/bin/sleep", "1000"]
    depends_on:
      migrate: {{condition: service_completed_successfully}}
    stop_grace_period: 1s
    deploy: {{replicas: 3}}
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Stack]:
    """A home without a configuration."""
    place = tmp_path / "home"
    place.mkdir()
    with stack(place) as one:
        yield one
        one.cli("stop", "--now")


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_supervisord_conf_with_ten_programs_imports_and_runs(home: Stack, tmp_path: Path) -> None:
    done = home.cli("init", "--from", write(tmp_path, "supervisord.conf", SUPERVISORD))
    assert done.returncode == 0, done.stderr
    assert "[program:noisy] stdout_logfile: " in done.stdout
    assert home.cli("check").returncode == 0
    assert home.cli("start").returncode == 0
    running = {"plain", "shell", "pool_00", "pool_01", "elsewhere", "with_env", "stubborn", "noisy", "odd-name"}
    assert set(home.processes()) == running
    assert home.component("once")["state"] == "completed"
    assert home.component("by_hand")["state"] == "stopped"
    logs = {name: home.cli("logs", name).stdout for name in ("shell", "elsewhere", "with_env", "noisy")}
    assert "ten\n" in logs["shell"]
    assert "/tmp\n" in logs["elsewhere"]
    assert "one, two\n" in logs["with_env"]
    assert "out\nerr\n" in logs["noisy"]
    assert home.cli("stop").returncode == 0


def test_procfile_imports_and_runs(home: Stack, tmp_path: Path) -> None:
    assert home.cli("init", write(tmp_path, "Procfile", PROCFILE)).returncode == 0  # without --from, too
    assert home.cli("start").returncode == 0
    assert set(home.processes()) == {"web", "worker", "clock"}
    assert "listening on 5000\n" in home.cli("logs", "web").stdout


@pytest.mark.docker
def test_compose_file_imports_and_runs(
    home: Stack,
    tmp_path: Path,
    docker_host: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DOCKER_HOST", docker_host)
    done = home.cli("init", "--from", write(tmp_path, "docker-compose.yml", COMPOSE))
    assert done.returncode == 0, done.stderr
    assert "services.app deploy: " in done.stdout
    assert home.cli("start").returncode == 0
    home.wait_state("app", "running")
    assert home.component("db")["ready"] is True
    assert home.component("migrate")["state"] == "completed"
    assert "hello world\n" in home.cli("logs", "migrate").stdout
    assert home.cli("stop").returncode == 0


def test_imported_file_is_readable_by_its_owner_alone_and_never_overwritten(home: Stack, tmp_path: Path) -> None:
    source = write(tmp_path, "Procfile", "web: sleep 1\n")
    assert home.cli("init", "--from", source).returncode == 0
    config = home.home / "stigmer.toml"
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    before = config.read_text()
    done = home.cli("init", "--from", source)
    assert (done.returncode, config.read_text()) == (1, before)
    assert "is left as it is" in done.stderr


def test_import_tells_json(home: Stack, tmp_path: Path) -> None:
    done = home.cli("init", "--json", "--from", write(tmp_path, "Procfile", "web: sleep 1\nnonsense\n"))
    told = json.loads(done.stdout)
    assert (told["components"], told["errors"]) == (["web"], [])
    assert [left["section"] for left in told["not_carried_over"]] == ["line 2"]


def test_import_that_needs_a_hand_is_written_and_says_where(home: Stack, tmp_path: Path) -> None:
    text = "services:\n  a:\n    image: x\n    environment: ['A=${NOT_SET_ANYWHERE:?}']\n"
    done = home.cli("init", "--from", write(tmp_path, "compose.yml", text))
    assert done.returncode == 2
    assert f"{home.home}/stigmer.toml:" in done.stderr
    assert "NOT_SET_ANYWHERE" in done.stderr


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("compose.yml", "services: {a: [}", "line 1 is no YAML"),
        ("Procfile", "", "is it a Procfile?"),
        ("notes.txt", "hello", "is no Procfile, supervisord.conf or compose file"),
    ],
)
def test_file_that_cannot_be_imported_is_exit_2_and_nothing_is_written(
    home: Stack, tmp_path: Path, name: str, text: str, said: str
) -> None:
    done = home.cli("init", "--from", write(tmp_path, name, text))
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (home.home / "stigmer.toml").exists()


def test_plain_init_points_at_files_to_import(
    home: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "Procfile", "web: sleep 1\n")
    assert "stigmer server init --from Procfile" in home.cli("init").stdout
