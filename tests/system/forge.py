"""Forks daemons from a process that has imported all of stigmerd already.

A sweep starts thousands of daemons, and most of what a start costs is the import. What is forked
runs the very ``main`` that the command runs, in a session of its own. ``held`` daemons wait before
they do anything, so that a tracer can be attached.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[2]


class Forged:
    """One daemon, with as much of ``subprocess.Popen`` as the tests use."""

    def __init__(self, forge: Forge, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._forge = forge

    def poll(self) -> int | None:
        """Its exit code as ``Popen`` has it, None while it runs."""
        if self.returncode is None:
            self.returncode = self._forge.request(poll=self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        deadline = time.monotonic() + (60.0 if timeout is None else timeout)
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("stigmerd", timeout or 60.0)
            time.sleep(0.002)
        return code

    def send_signal(self, number: int) -> None:
        """Signal it, unless its end was seen."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def let_go(self) -> None:
        """Let one that is held begin."""
        self.send_signal(signal.SIGUSR1)


class Forge:
    """Where daemons come from; to be closed."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            environment = {k: v for k, v in os.environ.items() if not k.startswith("STIGMER")}
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.system.forge", str(theirs.fileno())],
                cwd=ROOT,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment,
            )
        self._socket = ours
        self._turn = threading.Lock()
        self._replies = ours.makefile("rb")

    def start(self, home: Path, *, held: bool = False) -> Forged:
        """Fork a daemon for this home."""
        return Forged(self, self.request(home=str(home), held=held))

    def request(self, **what: Any) -> Any:
        """Ask the other side for one thing. Two threads that race may ask at once."""
        with self._turn:
            self._socket.sendall(json.dumps(what).encode() + b"\n")
            return json.loads(self._replies.readline())

    def close(self) -> None:
        """End the other side."""
        self._replies.close()
        self._socket.close()
        self._process.wait(10)


def _serve(peer: socket.socket) -> None:
    # Blocked here, so that it waits for a child that is not waiting for it yet.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    with peer.makefile("rb") as requests:
        for line in requests:
            request = json.loads(line)
            answer = _poll(request["poll"]) if "poll" in request else _fork(peer, request["home"], request["held"])
            peer.sendall(json.dumps(answer).encode() + b"\n")


def _poll(pid: int) -> int | None:
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def _fork(peer: socket.socket, home: str, held: bool) -> int:
    pid = os.fork()
    if pid == 0:
        peer.close()
        _become_daemon(home, held)
    return pid


def _become_daemon(home: str, held: bool) -> NoReturn:
    from stigmerd.__main__ import main

    code = 1
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.closerange(3, 64)
        if held:
            signal.sigwait([signal.SIGUSR1])
        code = main(["--home", home])
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


if __name__ == "__main__":
    import stigmerd.config.load
    import stigmerd.control.server
    import stigmerd.daemon.daemon  # noqa: F401

    _serve(socket.socket(fileno=int(sys.argv[1])))
