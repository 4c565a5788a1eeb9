"""``python -m benchmarks [NAME...]`` measures, and prints one table."""

from __future__ import annotations

import argparse
import platform
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import idle, peers, respawn, startup, status
from benchmarks.subjects import build
from benchmarks.table import Row, render

NAMES = ("respawn", "startup", "idle", "status", "peers")


def main() -> int:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument("--rounds", type=int, default=100, help="repetitions of what is quick (100)")
    parser.add_argument("--seconds", type=float, default=20, help="how long to watch a daemon at rest (20)")
    parser.add_argument("--largest", type=int, default=1000, help="the largest number of components (1000)")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")

    def counts(*all_counts: int) -> tuple[int, ...]:
        return tuple(count for count in all_counts if count <= options.largest)

    measurements: dict[str, Callable[[Path], list[Row]]] = {
        "respawn": lambda folder: respawn.measure(folder, counts(1, 100), options.rounds),
        "startup": lambda folder: startup.measure(folder, counts(1, 10, 100, 1000), rounds=3),
        "idle": lambda folder: idle.measure(folder, counts(10, 100, 1000), options.seconds),
        "status": lambda folder: status.measure(folder, counts(10, 100, 1000), options.rounds),
        "peers": lambda folder: peers.measure(folder, min(options.rounds, 10)),
    }
    _raise_descriptor_limit()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="stigmerd-bench-") as name:
        folder = Path(name)
        build(folder)
        for wanted in options.names or NAMES:
            print(f"measuring {wanted} …", file=sys.stderr, flush=True)
            rows += measurements[wanted](folder)
    print(f"{platform.platform()}, Python {platform.python_version()}")
    print(render(rows))
    return 0


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
