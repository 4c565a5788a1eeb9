"""A real daemon on a home of its own, and what an operator sees of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil

from stigmerd.control.client import DaemonAbsentError, DaemonSilentError, connect
from tests.system.forge import Forge, Forged

T = TypeVar("T")

LIMIT = 60.0
"""Seconds for anything that a test waits for: far more than it takes, on a machine that is busy."""

PAUSE = 0.02


def wait_until(look: Callable[[], T], limit: float = LIMIT) -> T:
    """Look until the answer is true, and return it."""
    deadline = time.monotonic() + limit
    while not (answer := look()):
        assert time.monotonic() < deadline, f"not within {limit:g} s: {answer!r}"
        time.sleep(PAUSE)
    return answer


class Stack:
    """One home. ``start`` may be called again after the daemon's death.

    With a ``forge``, daemons come from there.
    """

    def __init__(self, home: Path, forge: Forge | None = None) -> None:
        self.home = home
        self.daemon: subprocess.Popen[bytes] | Forged | None = None
        self._forge = forge
        self._said = Path(f"{home}.stderr")
        """What daemons say; not in the home, where nothing may be that is not the product's."""

    def configure(self, text: str) -> None:
        """Write the configuration, whole at any instant: the daemon may be reading it."""
        draft = self.home / f"stigmer.toml.{threading.get_ident()}"
        draft.write_text(text)
        draft.chmod(0o600)
        draft.rename(self.home / "stigmer.toml")

    def start(self) -> None:
        """Start a daemon in the foreground, and wait until it answers."""
        self.launch()
        wait_until(self.answers)

    def launch(self, *, held: bool = False) -> None:
        """Start a daemon, and wait for nothing. A ``held`` one, from a forge, waits to be let go."""
        if self._forge is not None:
            self.daemon = self._forge.start(self.home, held=held)
            return
        command = [sys.executable, "-P", "-m", "stigmerd", "--home", str(self.home)]
        with open(self._said, "ab") as said:
            self.daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=said)

    def kill(self) -> None:
        """SIGKILL the daemon."""
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait()

    def end(self) -> None:
        """Stop everything in order, and leave nothing behind whatever happened before."""
        if self.daemon is None:
            return
        if self.daemon.poll() is None:
            self.daemon.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.daemon.wait(LIMIT)
        self.daemon.kill()
        self.daemon.wait()
        self.cli("stop", "--now")
        self.daemon = None

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One request over the control channel."""
        with connect(str(self.home), timeout=15) as client:
            answer: dict[str, Any] = client.call(method, **params)
            return answer

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One command of the operator."""
        command = [sys.executable, "-m", "stigmerd.cli", "server", *words, "--home", str(self.home)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def component(self, name: str) -> dict[str, Any]:
        """One component of the status document."""
        documents = self.call("status", names=[name])["components"]
        component: dict[str, Any] = documents[0]
        return component

    def wait_state(self, name: str, state: str, *, life: int | None = None) -> dict[str, Any]:
        """Wait until a component is in a state, and in a life if one is named."""

        def look() -> dict[str, Any] | None:
            component = self.component(name)
            return component if component["state"] == state and life in {None, component["life"]} else None

        found = wait_until(look)
        assert found is not None
        return found

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """The whole history, from the file."""
        lines = (self.home / "state" / "events.jsonl").read_text().splitlines(keepends=True)
        entries = [json.loads(line) for line in lines if line.endswith("\n")]
        return [entry for entry in entries if name in {None, entry["component"]}]

    def processes(self) -> dict[str, list[int]]:
        """Every process of this home that is alive now, by component: found by looking, not by asking."""
        found: dict[str, list[int]] = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                environment = process.environ()
                ours = environment.get("STIGMER_HOME") == str(self.home) and "STIGMER_LIFE" in environment
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.setdefault(environment["STIGMER_COMPONENT"], []).append(process.pid)
        return found

    def answers(self) -> bool:
        """Whether the daemon answers; it must be alive."""
        assert self.daemon is not None
        assert self.daemon.poll() is None, f"the daemon ended at its start: {self._last_words()}"
        try:
            self.call("hello")
        except (DaemonAbsentError, DaemonSilentError):
            return False
        return True


    def _last_words(self) -> str:
        lines = self._said.read_text().splitlines() if self._said.exists() else []
        return " / ".join(lines[-5:])


@contextmanager
def stack(home: Path, forge: Forge | None = None) -> Iterator[Stack]:
    """A home whose processes are all gone at the end."""
    home.chmod(0o700)
    one = Stack(home, forge)
    try:
        yield one
    finally:
        one.end()
        assert one.processes() == {}


def is_alive(pid: int) -> bool:
    """Whether a process runs, a zombie not counted."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill(pid: int) -> None:
    """SIGKILL, from outside."""
    os.kill(pid, signal.SIGKILL)
