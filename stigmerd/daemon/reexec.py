"""The next program of this process: the one that is installed now, asked first and then become.

Pid, lock, socket and children stay. What the next program makes of the components is the business
of ``succession``, as after a crash.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import NoReturn

import trio

from stigmerd.adapters.processes.proc import signal_name
from stigmerd.core.exit_status import ExitStatus
from stigmerd.daemon.start import BACKGROUND, INHERITANCE, Inheritance, Start

CHECK_BOUND = 15.0
"""Seconds for a new program to load the configuration before the daemon becomes it."""

REAP_BOUND = 1.0
"""Seconds for a new program that was killed to be gone."""


async def ask_next_program(start: Start, source: str | None) -> str | None:
    """What the next program has against the configuration in ``source``; None where it has nothing.

    It is not waited for long after the bound, as trio.run_process would: it may hang where no kill reaches it.
    """
    same = ["--config", source] if source is not None else []
    process = await trio.lowlevel.open_process(
        [*_command_line(start), *same, "--check"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=dict(start.environment),
    )
    assert process.stderr is not None
    said, code = b"", None
    try:
        with trio.move_on_after(CHECK_BOUND):
            async with process.stderr:
                async for part in process.stderr:
                    said += part
            code = await process.wait()
    finally:
        process.kill()  # does nothing to one that has ended
        with trio.move_on_after(REAP_BOUND, shield=True):
            await process.wait()
    return _objection(code, said.decode("utf-8", "backslashreplace").strip())


def _objection(code: int | None, said: str) -> str | None:
    """What a check that ended with ``code``, None where it did not end, has against the configuration."""
    if code is None:
        return f"it did not answer within {CHECK_BOUND:g} s"
    if code == 0:
        return None
    status = ExitStatus(code=code) if code > 0 else ExitStatus(signal=signal_name(-code))
    return said or f"it ended without a word: {status}"


def become_next_program(start: Start, listener: socket.socket) -> NoReturn:
    """Replace this program in place. Signals are held by now: they wait for the next one."""
    os.set_inheritable(start.lock, True)
    listener.set_inheritable(True)
    inherited = Inheritance(lock=start.lock, listener=listener.fileno(), nofile=start.children_nofile)
    environment = {**start.environment, INHERITANCE: inherited.to_text()}
    if not start.foreground:
        environment[BACKGROUND] = "1"
    os.execve(sys.executable, _command_line(start), environment)


def _command_line(start: Start) -> list[str]:
    return [sys.executable, "-P", "-m", "stigmerd", *start.arguments]
