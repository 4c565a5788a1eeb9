"""Starts the daemon in the background, and tells who answers in the end.

Twenty ``stigmer server start`` at once lead to one daemon: whoever launches holds a lock, and the
others find the daemon answering when it is their turn.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from typing import IO

from stigmerd.adapters.disk.store import Home, HomeError
from stigmerd.cli.errors import FAILED, USAGE, CommandError
from stigmerd.cli.escape import escape, escape_line
from stigmerd.cli.reach import HELLO_TIMEOUT, daemon_log, open_client
from stigmerd.control.client import DaemonAbsentError, DaemonSilentError, connect

POLL = 0.02
"""Seconds between two looks whether the new daemon answers."""

ANSWER_TIMEOUT = 30.0
"""Seconds in which a new daemon has to answer or to end: a hung home must not hang the operator."""

TURN_TIMEOUT = 40.0
"""Seconds to wait for somebody else who launches a daemon: longer than that takes, if it goes on at all."""

SHOWN_ERROR = 4000
"""Characters of a daemon's last words that are shown."""


def is_answering(home: Home) -> bool:
    """Whether a daemon of this home says hello.

    Raises:
        DaemonSilentError: there is one and it does not.
    """
    try:
        with open_client(home, any_protocol=True):  # whoever goes on to talk to it is told both versions
            return True
    except DaemonAbsentError:
        return False


def ensure_daemon(home: Home, config: str | None) -> bool:
    """Make sure that a daemon of this home answers. Returns False where one did already.

    Raises:
        CommandError: it could not be started; the message is what it said itself.
        DaemonSilentError: there is one, and it does not answer.
    """
    if is_answering(home):
        return False
    try:
        home.prepare()
        with home.launching(TURN_TIMEOUT):
            return not is_answering(home) and _launch(home, config)
    except HomeError as exc:
        raise CommandError(escape_line(str(exc))) from exc


def _launch(home: Home, config: str | None) -> bool:
    """Start a daemon and wait until one answers. Returns whether it is the new one."""
    command = [sys.executable, "-P", "-m", "stigmerd", "--home", home.path]
    if config is not None:
        command += ["--config", os.path.abspath(config)]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            cwd="/",  # not to hold the operator's folder, which may be unmounted later
            env={**os.environ, "STIGMERD_BACKGROUND": "1"},
            start_new_session=True,
        )
        deadline = time.monotonic() + ANSWER_TIMEOUT
        while time.monotonic() < deadline:
            code = process.poll()
            if _answers_now(home):
                process.returncode = code or 0  # a living one is not ours to wait for any more
                return code is None
            if code is not None and not home.is_taken():
                raise _start_failed(home, code, said)
            time.sleep(POLL)
    process.returncode = 0
    raise CommandError(
        f"The daemon does not answer {ANSWER_TIMEOUT:g} s after its start (pid {process.pid}). "
        f"Look at its log: {daemon_log(home)}"
    )


def _answers_now(home: Home) -> bool:
    """Whether a daemon says hello this instant: at a start, one that does not yet is no news."""
    try:
        with connect(home.path, timeout=HELLO_TIMEOUT, any_protocol=True):
            return True
    except (DaemonAbsentError, DaemonSilentError):
        return False


def _start_failed(home: Home, code: int, said: IO[bytes]) -> CommandError:
    """What the daemon said before it ended, as the error of this command."""
    said.seek(0)
    words = escape(said.read().decode("utf-8", "backslashreplace")[-SHOWN_ERROR:]).strip()
    if not words:
        how = f"by signal {-code}" if code < 0 else f"with code {code}"
        words = f"The daemon ended at once, {how}. Look at its log: {daemon_log(home)}"
    return CommandError(words, USAGE if code == USAGE else FAILED)
