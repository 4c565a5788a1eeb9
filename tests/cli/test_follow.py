"""``logs -f`` through everything that happens to a log: no line is missed, none is repeated."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

import docker
import pytest

from stigmerd.engine.component import MERGE_WINDOW
from tests.docker import IMAGE, docker_host, own_engine
from tests.system.daemons import Stack, kill, stack, wait_until

__all__ = ["docker_host", "own_engine"]

RESTARTS = 100
ASKED_FOR_EVERY = 10
"""One restart of so many is the operator's, the others follow a crash."""

LINES_A_LIFE = 120
MAX_SIZE = 64 * 1024
ROTATIONS = 10

PROGRAM = """
import itertools, os, time
life = os.environ["STIGMER_LIFE"]
for number in itertools.count():
    os.write(1, f"{life} {number} {'x' * 100}\\n".encode())
    time.sleep(0.0005)
"""


class Reader:
    """What a follower has printed: the numbers of each life's lines, in their order."""

    def __init__(self, stream: Iterable[bytes]) -> None:
        self.lives: dict[bytes, list[int]] = {}
        self.exits = 0
        self.size = 0
        self._stream = stream
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        for line in self._stream:
            self.size += len(line)
            words = line.split()
            if len(words) == 3 and words[2].startswith(b"x"):
                self.lives.setdefault(words[0], []).append(int(words[1]))
            self.exits += b"stigmerd[writer]: Exited" in line

    def wait_for_life(self, number: int) -> None:
        """Wait until enough of a life has been seen."""

        def is_seen() -> bool:
            return len(self.lives) >= number and len(list(self.lives.values())[number - 1]) >= LINES_A_LIFE

        wait_until(is_seen, 60.0)


def end_life(home: Stack, number: int) -> None:
    """See to it that one more life begins."""
    component = home.wait_state("writer", "running", life=number)
    if number % ASKED_FOR_EVERY:
        kill(component["pid"])
        return
    wait_until(lambda: home.component("writer")["uptime"] > 2 * MERGE_WINDOW)
    home.call("restart", names=["writer"])


@pytest.mark.slow
def test_follower_misses_and_repeats_nothing_over_restarts_rotations_and_a_new_daemon(tmp_path: Path) -> None:
    with stack(tmp_path) as home:
        (tmp_path / "writer.py").write_text(PROGRAM)
        home.configure(
            f'[component.writer]\ncommand = ["{sys.executable}", "-S", "writer.py"]\n'
            'restart = { initial_backoff = "0s", max_restarts = 1000 }\n'
            f"log = {{ max_size = {MAX_SIZE}, keep = 3 }}\n"
        )
        home.start()
        command = [sys.executable, "-m", "stigmerd.cli", "server", "logs", "writer", "-f", "--tail", "1000000"]
        with subprocess.Popen([*command, "--home", str(tmp_path)], stdout=subprocess.PIPE) as follower:
            assert follower.stdout is not None
            reader = Reader(follower.stdout)
            for number in range(1, RESTARTS + 1):
                reader.wait_for_life(number)
                end_life(home, number)
                if number == RESTARTS // 2:
                    assert home.cli("restart", "--daemon").returncode == 0
            reader.wait_for_life(RESTARTS + 1)
            home.call("stop", names=["writer"])
            wait_until(lambda: reader.exits == RESTARTS + 1)
            follower.send_signal(signal.SIGINT)
            assert follower.wait(10) == 130
            reader.thread.join()
        assert reader.size > 2 * ROTATIONS * MAX_SIZE  # what grows between two looks is rotated at once
        assert os.path.exists(tmp_path / "logs" / "writer.log.3")
    assert len(reader.lives) == RESTARTS + 1
    assert [life for life, numbers in reader.lives.items() if numbers != list(range(len(numbers)))] == []


@pytest.mark.docker
def test_follower_goes_on_over_new_containers(
    tmp_path: Path, docker_host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", docker_host)
    script = f"for n in $$(seq 0 {LINES_A_LIFE - 1}); do echo $$STIGMER_LIFE $$n x; done; sleep 1000"
    with stack(tmp_path) as home, contextlib.closing(docker.APIClient(docker_host, version="auto")) as engine:
        home.configure(
            '[component.writer]\nrestart.initial_backoff = "0s"\nstop.grace = "0s"\n'
            f'container = {{ image = "{IMAGE}", name = "stigmerd-test-{secrets.token_hex(4)}", network = "host", '
            f'command = ["/bin/sh", "-c", {json.dumps(script)}] }}\n'
        )
        home.start()
        command = [sys.executable, "-m", "stigmerd.cli", "server", "logs", "writer", "-f", "--tail", "1000000"]
        with subprocess.Popen([*command, "--home", str(tmp_path)], stdout=subprocess.PIPE) as follower:
            assert follower.stdout is not None
            reader = Reader(follower.stdout)
            reader.wait_for_life(1)
            engine.kill(home.component("writer")["container_id"])
            reader.wait_for_life(2)
            home.call("restart", names=["writer"])
            reader.wait_for_life(3)
            follower.send_signal(signal.SIGINT)
            assert follower.wait(10) == 130
            reader.thread.join()
    assert list(reader.lives.values()) == [list(range(LINES_A_LIFE))] * 3
