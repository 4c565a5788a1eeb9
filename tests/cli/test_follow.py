"""``logs -f`` through everything that happens to a log: no line is missed, none is repeated."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from stigmerd.engine.component import MERGE_WINDOW
from tests.system.daemons import stack

RESTARTS = 12
PROGRAM = """
import itertools, os, time
life = os.environ["STIGMER_LIFE"]
for number in itertools.count():
    os.write(1, f"{life} {number} {'x' * 100}\\n".encode())
    time.sleep(0.0005)
"""


@pytest.mark.slow
def test_follower_misses_and_repeats_nothing_over_restarts_rotations_and_a_new_daemon(tmp_path: Path) -> None:
    with stack(tmp_path) as home:
        (tmp_path / "writer.py").write_text(PROGRAM)
        home.configure(
            f'[component.writer]\ncommand = ["{sys.executable}", "writer.py"]\n'
            'restart.initial_backoff = "0s"\nlog = { max_size = "256KiB", keep = 3 }\n'
        )
        home.start()
        home.wait_state("writer", "running")
        command = [sys.executable, "-m", "stigmerd.cli", "server", "logs", "writer", "-f", "--tail", "1000000"]
        with subprocess.Popen([*command, "--home", str(tmp_path)], stdout=subprocess.PIPE) as follower:
            assert follower.stdout is not None
            lines: list[bytes] = []
            reader = threading.Thread(target=lines.extend, args=(follower.stdout,), daemon=True)
            reader.start()
            for number in range(RESTARTS):
                time.sleep(2 * MERGE_WINDOW)
                assert home.cli("restart", "writer").returncode == 0
                if number == RESTARTS // 2:
                    assert home.cli("restart", "--daemon").returncode == 0
            home.cli("stop", "writer")
            time.sleep(0.5)  # what was written last is to be shown within 100 ms
            follower.send_signal(signal.SIGINT)
            assert follower.wait(10) == 130
            reader.join()
    seen: dict[bytes, list[int]] = {}
    for line in lines:
        words = line.split()
        if len(words) == 3 and words[2].startswith(b"x"):
            seen.setdefault(words[0], []).append(int(words[1]))
    assert len(seen) == RESTARTS + 1
    assert [life for life, numbers in seen.items() if numbers != list(range(len(numbers)))] == []
    assert sum(b"stigmerd[writer]: Exited" in line for line in lines) == RESTARTS + 1
