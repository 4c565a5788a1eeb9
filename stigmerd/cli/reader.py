"""Reads the configuration for a command, in time: it may lie on a file system that does not answer.

What waits in the kernel for such an answer cannot be killed, and a program with a thread that waits cannot
end. So the reader is a process of its own, which is left behind where it hangs.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import time
import warnings
from contextlib import suppress
from io import BufferedWriter, FileIO
from typing import NoReturn

from stigmerd.config.load import load_stack
from stigmerd.config.problems import LOAD_BOUND, ConfigError, Problem, unanswered
from stigmerd.core.spec import StackSpec

Told = StackSpec | tuple[tuple[Problem, ...], str | None]
"""What a reader found: the stack, or the errors and their file."""


def read_stack(path: str | None, *, home: str, bound: float = LOAD_BOUND) -> StackSpec:
    """The stack that ``path`` describes, as :func:`load_stack` finds it. ``bound`` is in seconds.

    Raises:
        ConfigError: as there, or because it cannot be read in time.
    """
    told = _ask_reader(path, home, bound)
    if told is None:  # whatever kept the reader from it, such as a shortage of processes, will show here
        return load_stack(path, home=home, environ=os.environ)
    if isinstance(told, StackSpec):
        return told
    errors, source = told
    raise ConfigError(errors, source=source)


def _ask_reader(path: str | None, home: str, bound: float) -> Told | None:
    """What a reader tells, or None where it ended without a word.

    Raises:
        ConfigError: it did not tell in time.
    """
    ends = os.pipe()
    with FileIO(ends[0]) as answers, FileIO(ends[1], "w") as writer:
        try:
            # Python warns of other threads. A command has none; who imports this may.
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
                reader = os.fork()
        except OSError:
            return None
        if reader == 0:
            answers.close()
            _tell(writer, path, home)
        writer.close()
        try:
            answer = _all_of(answers, bound)
        except BaseException:
            os.kill(reader, signal.SIGKILL)  # and not waited for: it may hang for ever
            raise
        with suppress(ChildProcessError):  # of a parent that ignored SIGCHLD, whose children leave no status
            os.waitpid(reader, 0)
    told: Told | None = pickle.loads(answer) if answer else None
    return told


def _tell(writer: FileIO, path: str | None, home: str) -> NoReturn:
    """Read the configuration, write what was found, and end."""
    try:
        # Whoever reads the command's output to its end does not wait for this process.
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nothing, stream)
        try:
            told: Told = load_stack(path, home=home, environ=os.environ)
        except ConfigError as exc:
            told = (exc.errors, exc.source)
        with BufferedWriter(writer) as answer:
            pickle.dump(told, answer)
    finally:
        os._exit(0)


def _all_of(pipe: FileIO, bound: float) -> bytes:
    """Everything up to the end of the pipe.

    Raises:
        ConfigError: that does not come in time.
    """
    deadline = time.monotonic() + bound
    poll, pieces = select.poll(), list[bytes]()
    poll.register(pipe, select.POLLIN)
    while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        piece = os.read(pipe.fileno(), 65536)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
    raise unanswered(bound)
