"""``logs -f`` through everything that happens to a log: no line is missed, none is repeated."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest

from stigmerd.engine.component import MERGE_WINDOW
from tests.system.daemons import Stack, kill, stack, wait_until

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
        wait_until(lambda: len(self.lives) >= number and len(list(self.lives.values())[number - 1]) >= LINES_A_LIFE)


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
