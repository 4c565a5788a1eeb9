"""The entry of ``stigmerd``: whether this Python will do, and the signals, before anything else is imported.

A parent that ignored or blocked some signals would make every exit code of a child unreadable; and an operator may
send one while the daemon is still being imported. A Python that is too old has to be able to read this file, so it
lacks the import of annotations that all others begin with.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  (that is what it tells)
    sys.stderr.write("stigmerd: Python 3.11 or later is needed, this is %d.%d\n" % sys.version_info[:2])  # noqa: UP031
    sys.exit(2)

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon. Returns its exit code."""
    from stigmerd.daemon.own_process import reset_signals

    reset_signals()
    from stigmerd.daemon.foreground import run

    return run(tuple(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    sys.exit(main())
