"""Where the control socket is, how to name it whatever the length of HOME, and who is at its other end.

Shared by the server and the client; standard library only. An address of a unix socket holds 107
bytes (103 on macOS), so neither end uses the socket's path: both go through the folder, opened and
checked once, which also means that nobody can put another folder in its place in between.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

SOCKET_NAME = "stigmerd.sock"

DESCRIPTORS = "/proc/self/fd"
"""Where an open folder has a short name: on Linux, wherever /proc is mounted."""

# Level, option, and layout, the uid second: unix(7) of Linux, and <sys/un.h>, <sys/ucred.h> of macOS.
_CREDENTIALS = {
    "linux": (socket.SOL_SOCKET, getattr(socket, "SO_PEERCRED", 0), struct.Struct("=iII")),  # pid, uid, gid
    "darwin": (0, 1, struct.Struct("=IIh2x16I")),  # cr_version, cr_uid, cr_ngroups, cr_groups
}


class Peer(Protocol):
    """A connected socket, blocking or not, as far as it is asked about its other end."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
        """See getsockopt(2)."""
        ...


def open_folder(path: str) -> int:
    """Open the folder of the control socket: a descriptor that the caller closes.

    Raises:
        FileNotFoundError: there is none.
        OSError: it is no folder, a symbolic link, or not permitted.
    """
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def own_uids() -> frozenset[int]:
    """The users whom this process trusts as it trusts itself: its own, and root."""
    return frozenset({os.geteuid(), 0})


@contextmanager
def socket_address(folder: int, path: str) -> Iterator[str]:
    """An address of the socket in the open ``folder``, short enough, and valid within the block.

    ``path`` is the folder's; it is only used where open folders have no name. There a symbolic link
    in a private temporary folder shortens it: unlike chdir(2), it disturbs no other thread.
    """
    if os.path.isdir(DESCRIPTORS):
        yield f"{DESCRIPTORS}/{folder}/{SOCKET_NAME}"
        return
    import tempfile  # here, because it costs a client on Linux 5 ms for nothing

    # Not $TMPDIR, which is long on macOS.
    with tempfile.TemporaryDirectory(prefix="stigmer-", dir="/tmp") as private:
        link = os.path.join(private, "run")
        os.symlink(os.path.abspath(path), link)
        yield os.path.join(link, SOCKET_NAME)


def identify_socket(run_dir: str) -> tuple[int, int, int] | None:
    """What tells the socket in ``run_dir`` from any later one of its name; None if there is no socket.

    The time is part of it because file systems hand out a freed inode number again at once.
    """
    try:
        found = os.lstat(os.path.join(run_dir, SOCKET_NAME))
    except OSError:
        return None
    if not stat.S_ISSOCK(found.st_mode):
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns


def peer_uid(connection: Peer) -> int:
    """The user at the other end of a connected unix socket, as the kernel noted it at the connect.

    Raises:
        OSError: the platform does not tell; nobody is to be trusted then.
    """
    if sys.platform not in _CREDENTIALS:
        raise OSError(errno.ENOTSUP, f"{sys.platform} does not tell who is at the other end of a socket")
    level, option, layout = _CREDENTIALS[sys.platform]
    return int(layout.unpack(connection.getsockopt(level, option, layout.size))[1])
