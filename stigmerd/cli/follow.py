"""The pause of whoever follows a file, which ends with whoever reads what is printed."""

from __future__ import annotations

import select
import sys
import time


def pause(seconds: float) -> None:
    """Sleep before the next look at what is followed.

    Raises:
        BrokenPipeError: the reader has gone. Else only the next line would tell, and that may never come.
    """
    output = select.poll()
    output.register(sys.stdout, 0)  # POLLERR and POLLHUP are told unasked
    found = output.poll(1000 * seconds)
    if any(told & (select.POLLERR | select.POLLHUP) for _, told in found):
        raise BrokenPipeError
    if found:  # what cannot be polled is told at once, on macOS a terminal
        time.sleep(seconds)
