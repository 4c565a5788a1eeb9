"""Disks that fill up and processes that die between two system calls, for the tests of what is on disk."""

from __future__ import annotations

import contextlib
import gzip
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import stigmerd
from stigmerd.adapters.disk.ledger import rotated_files
from stigmerd.adapters.disk.rotation import can_collapse

SOURCE = str(Path(stigmerd.__file__).parent.parent)
CHANGING = ("rename", "unlink", "pwrite", "write", "ftruncate", "fsync", "mkdir")
"""The system calls that change what is on disk, before and after which a process may die."""


class CrashError(BaseException):
    """The process has died: nothing that follows happens, as no handler expects it."""


class Crashing:
    """Dies in the ``at``-th changing system call from now on. ``calls`` counts them.

    A write is half done then, the other calls have not happened yet.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.calls = 0
        self._at = at
        for name in CHANGING:
            monkeypatch.setattr(os, name, self._dying(name, getattr(os, name)))

    def _dying(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def die_or_do(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == self._at:
                if name == "write":
                    call(args[0], bytes(args[1])[: len(args[1]) // 2])
                raise CrashError
            if self.calls > self._at:
                raise CrashError
            return call(*args, **kwargs)

        return die_or_do


def die_in_every_call(do: Callable[[], object], restore: Callable[[], object]) -> Iterator[int]:
    """Let ``do`` die in its first, second, third … changing system call, until it gets through.

    It begins anew after ``restore`` each time. Yields the number of the call, after the death.
    """
    at = 0
    while True:
        at += 1
        restore()
        with pytest.MonkeyPatch.context() as patch:
            crashing = Crashing(patch, at)
            with contextlib.suppress(CrashError):
                do()
        yield at
        if crashing.calls < at:
            return


@contextlib.contextmanager
def full_disk(free: int = 0) -> Iterator[None]:
    """No file of this process grows beyond ``free`` bytes: the nearest to a full disk without a mount."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def start_python(code: str, *args: str | int, **options: Any) -> subprocess.Popen[bytes]:
    """Run Python code that may import stigmerd."""
    environ = {**os.environ, "PYTHONPATH": SOURCE}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], env=environ, **options)


@contextlib.contextmanager
def in_thread(do: Callable[[threading.Event], object]) -> Iterator[None]:
    """Run ``do`` in a thread meanwhile; the event that it is given says when to end."""
    over = threading.Event()
    thread = threading.Thread(target=do, args=(over,))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def joined(log: str) -> bytes:
    """The output of a component, as the contract says: the rotated files, oldest first, and the log."""
    parts = []
    for names in reversed(rotated_files(log).values()):
        (name,) = names
        parts.append(gzip.decompress(Path(name).read_bytes()) if name.endswith(".gz") else Path(name).read_bytes())
    return b"".join(parts) + Path(log).read_bytes()


def require_collapse(folder: Path) -> None:
    """Skip where files cannot be cut at their head."""
    if sys.platform != "linux":
        pytest.skip("Linux only: FALLOC_FL_COLLAPSE_RANGE")
    if not can_collapse(str(folder)):
        pytest.skip(f"the file system of {folder} cannot cut files at their head")
