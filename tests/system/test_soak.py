"""Minutes of random trouble; see ``soak.py``. ``--seed`` repeats a run, ``--minutes`` makes it longer."""

from __future__ import annotations

import random
import socket
import sys
import time
from pathlib import Path

import pytest

from tests.system.daemons import stack
from tests.system.soak import Soak
from tests.system.soak_stack import Program


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@pytest.mark.crashes
def test_nothing_is_lost_doubled_or_left_in_minutes_of_random_trouble(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    seed = request.config.getoption("--seed")
    minutes = request.config.getoption("--minutes")
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    actions: list[str] = []
    begun = time.monotonic()

    def log(line: str) -> None:
        actions.append(line)
        print(f"{time.monotonic() - begun:7.1f} {line}", flush=True)

    print(f"soak: seed {seed}, {minutes:g} min, {sys.version.split()[0]}", flush=True)
    with stack(folder) as home:
        soak = Soak(home, Program(token=random.SystemRandom().randrange(10**6, 10**7), port=free_port()), seed, log)
        try:
            soak.run(minutes * 60)
        except Exception as exc:
            recent = "\n".join(actions[-8:])
            raise AssertionError(f"--seed {seed}, {exc}\n{recent}") from exc
    counts = ", ".join(f"{count} {name}" for name, count in sorted(soak.counts.items()))
    print(f"soak: seed {seed}: {sum(soak.counts.values())} actions clean: {counts}")
