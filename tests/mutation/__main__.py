"""``python -m tests.mutation``: change every cell of the lifecycle table, one at a time.

Each changed table goes through the checks of the core's tests in this process. A change that they
do not see is a hole in the tests, unless tests/mutation/equivalent.py argues that there is nothing
to see. Exit code 1 names what is wrong.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType

from stigmerd.core.lifecycle import TRANSITIONS
from tests.core.lifecycle_model import find_violation
from tests.mutation.equivalent import argue
from tests.mutation.mutants import Mutant, mutants

LIMIT = 20
"""Seconds for one mutant. The checks take a fraction of one: a table that makes them go on for
ever has been told from the right one."""


class HangError(Exception):
    """The checks did not end."""


def examine(mutant: Mutant) -> tuple[Mutant, str | None]:
    """What the checks say about a mutant; None if they see no difference."""
    signal.signal(signal.SIGALRM, _raise_hang)
    signal.alarm(LIMIT)
    try:
        return mutant, find_violation(mutant.table)
    except Exception as exc:  # the checks fell over it: seen, in whatever way
        return mutant, f"{type(exc).__name__}: {exc}"
    finally:
        signal.alarm(0)


def _raise_hang(number: int, frame: FrameType | None) -> None:
    raise HangError(f"no end after {LIMIT} s")


def examine_all(chosen: list[Mutant], jobs: int) -> Iterator[tuple[Mutant, str | None]]:
    """Examine the mutants on several processors."""
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap_unordered(examine, chosen, chunksize=16)


def main() -> int:
    """Run, print what was found, return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--cell", metavar="TEXT", default="", help="only mutants whose line contains TEXT")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--verbose", action="store_true", help="print how each mutant was caught")
    options = parser.parse_args()

    if violation := find_violation(TRANSITIONS):
        print(f"the table itself fails the checks: {violation}")
        return 1
    chosen = [mutant for mutant in mutants() if options.cell in str(mutant)]
    began = time.monotonic()
    caught, argued, wrong = 0, 0, []
    for mutant, violation in examine_all(chosen, options.jobs):
        argument = argue(mutant)
        if violation is None and argument is None:
            wrong.append(f"survives: {mutant}")
        elif violation is None:
            argued += 1
        elif argument is not None:
            wrong.append(f"argued equivalent, but caught: {mutant}: {violation}")
        else:
            caught += 1
        if options.verbose and violation is not None:
            print(f"{mutant}: {violation}")
    print("\n".join(sorted(wrong)))
    took = time.monotonic() - began
    print(f"{len(chosen)} mutants: {caught} caught, {argued} equivalent, {len(wrong)} wrong; {took:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
