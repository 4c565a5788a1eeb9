"""The entry of ``stigmerd``: the signals, before anything else is imported.

A parent that ignored or blocked some would make every exit code of a child unreadable; and an operator may send
one while the daemon is still being imported.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon. Returns its exit code."""
    from stigmerd.daemon.own_process import reset_signals

    reset_signals()
    from stigmerd.daemon.foreground import run

    return run(tuple(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    sys.exit(main())
