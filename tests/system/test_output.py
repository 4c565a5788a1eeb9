"""Output at full speed under a real daemon: rotated, with the daemon killed in the middle, and read by an operator."""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from stigmerd.adapters.disk.rotation import can_collapse
from tests.system.daemons import Stack, stack, wait_until
from tests.system.invariants import check_left_nothing

pytestmark = pytest.mark.crashes

LINES = 400_000

WRITER = f"""
[component.writer]
command = ["{sys.executable}", "-S", "-c", '''
import os, sys
for n in range({LINES}):
    os.write(1, b"%07d ........................................\\n" % n)
open(sys.argv[1], "w").close()
import time
time.sleep(1000)
''', "HOME/done"]
log = {{ max_size = "1MiB", keep = 1000 }}
stop = {{ grace = "0s" }}
"""


def write_all(home: Stack, *, deaths: int) -> None:
    """Let the writer write everything, and kill the daemon that often meanwhile."""
    done = home.home.with_suffix(".done")
    home.configure(WRITER.replace("HOME/done", str(done)))
    home.start()
    log = home.home / "logs" / "writer.log"
    for _ in range(deaths):
        written = total(home)
        wait_until(lambda written=written: done.exists() or total(home) > written + 2**20)  # type: ignore[misc]
        home.kill()
        time.sleep(0.05)
        home.start()
    wait_until(done.exists, 120)
    wait_until(lambda: log.stat().st_size <= 2**20)
    assert home.component("writer")["life"] == 1
    home.call("shutdown")
    assert home.daemon is not None
    home.daemon.wait(20)
    check_left_nothing(home)


def parts(home: Stack) -> list[Path]:
    logs = home.home / "logs"
    rotated = sorted(logs.glob("writer.log.[0-9]*"), key=lambda path: -int(path.suffix[1:]))
    return [*rotated, logs / "writer.log"]


def total(home: Stack) -> int:
    """Bytes in all parts, about: the parts move on while one looks."""
    written = 0
    for path in parts(home):
        with suppress(FileNotFoundError):
            written += path.stat().st_size
    return written


def numbers(home: Stack) -> list[int]:
    """The numbers of the lines in all parts, joined as an operator would."""
    output = b"".join(path.read_bytes() for path in parts(home))
    return [int(line[:7]) for line in output.splitlines() if line[:7].isdigit()]


@pytest.mark.parametrize("deaths", [0, 3])
def test_no_line_is_lost_or_doubled_at_full_speed_however_often_the_daemon_dies(home: Stack, deaths: int) -> None:
    if not can_collapse(str(home.home)):
        pytest.skip("this file system cannot cut files at their head")
    write_all(home, deaths=deaths)
    assert numbers(home) == list(range(LINES))
    assert len(parts(home)) >= LINES * 49 // 2**20
    told = home.cli("logs", "writer", "--tail", str(LINES + 100), "--raw")
    assert [int(line[:7]) for line in told.stdout.splitlines() if line[:7].isdigit()] == list(range(LINES))


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="macOS only: there is no file system in memory")
def test_where_files_cannot_be_cut_at_their_head_lines_stay_in_order_and_little_is_lost() -> None:
    folder = Path("/dev/shm") / f"stigmerd-test-{os.getpid()}"
    folder.mkdir(mode=0o700)
    try:
        with stack(folder) as home:
            write_all(home, deaths=1)
            found = numbers(home)
            print(f"tmpfs: {LINES - len(found)} of {LINES} lines lost over {len(parts(home)) - 1} rotations")
            assert found == sorted({*found})
            assert len(found) > LINES * 0.95
    finally:
        for path in [*folder.parent.glob(f"{folder.name}*")]:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
