"""Kills a daemon at its n-th system call of some kind, by strace's injection.

strace counts for each thread by itself, so the n-th call is that of the thread which gets there
first. It follows the daemon's children too: the calls to die at are such that ``sleep`` and the
shell before it do not make.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

HAS_STRACE = shutil.which("strace") is not None

CALLS = {
    "writes": "write,pwrite64,ftruncate",
    "files": "rename,unlink,unlinkat,mkdir,rmdir,fsync,fallocate",
    "processes": "vfork,clone3,pidfd_open,pidfd_send_signal,kill,waitid,wait4",
}
"""System calls of interest, by what they change."""


@contextmanager
def killed_at(pid: int, calls: str, number: int) -> Iterator[None]:
    """While this is open, the process ``pid`` is killed when a thread of it makes such a call for the
    ``number``-th time, before it is carried out."""
    command = ["strace", "-f", "-p", str(pid), "-o", "/dev/null", "-e", f"trace={calls}"]
    command += ["-e", f"inject={calls}:signal=KILL:when={number}"]
    tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert tracer.stderr is not None
    with tracer.stderr:
        try:
            said = tracer.stderr.readline()
            assert b"attached" in said, said
            yield
        finally:
            # The kernel lets go of whom it holds. Asked by SIGTERM, it may wait for ever for a leader
            # that is dead, behind a thread that it would have to reap first.
            tracer.kill()
            tracer.wait(10)
