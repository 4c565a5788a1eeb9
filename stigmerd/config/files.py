"""Reads the files of a configuration, if owners and modes let nobody else write them, and remembers what it read.

Whoever can write the configuration, or move its folder, chooses what the daemon runs. The owner of a
folder further above could move it too, and is trusted: in containers and CI that is often somebody else.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable

from stigmerd.config.problems import RefusedError
from stigmerd.core.spec import LARGEST_PEM

LARGEST_FILE = 16 * 1024 * 1024
"""Bytes. A configuration of a thousand components has a tenth of that."""

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_VARIABLE = re.compile(r"(?:export\s+)?([^\s=\x00]+)\s*=\s*([^\x00]*)")


class TrustedFiles:
    """Files that belong to one user or root and that group and others cannot write; their folders likewise."""

    def __init__(self, uid: int) -> None:
        self._uid = uid
        self._contents: dict[str, bytes] = {}
        self._checked_folders: set[str] = set()

    def read(self, path: str) -> bytes:
        """The content of a regular file; the second time without looking at the disk.

        Raises:
            RefusedError: it cannot be read, or somebody else could have written it.
        """
        if path not in self._contents:
            self._contents[path] = self._read(path)
        return self._contents[path]

    def _read(self, path: str) -> bytes:
        for folder in dict.fromkeys((os.path.dirname(path), os.path.dirname(os.path.realpath(path)))):
            self._check_folder(folder)
        try:
            # Not blocking: a FIFO in the place of the file would hold up the open.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as exc:
            raise RefusedError("put it there, or give another path", said=_cannot(path, exc)) from exc
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise RefusedError("give the path of a file", said=f"{path} is no regular file")
            self._check(path, status)
            content = _content(descriptor)
        except OSError as exc:
            raise RefusedError("check the disk", said=_cannot(path, exc)) from exc
        finally:
            os.close(descriptor)
        if len(content) > LARGEST_FILE:
            raise RefusedError("keep it under 16 MiB", said=f"{path} is too large")
        return content

    def _check_folder(self, folder: str) -> None:
        """Refuse a folder that is somebody else's, and one that, or above which one, group or others can write."""
        if folder in self._checked_folders:
            return
        try:
            self._check(folder, os.stat(folder))
            self._check_ancestors(folder)
        except OSError as exc:
            raise RefusedError("put it there, or give another path", said=_cannot(folder, exc)) from exc
        self._checked_folders.add(folder)

    def _check(self, path: str, status: os.stat_result) -> None:
        if status.st_uid not in {self._uid, 0}:
            raise RefusedError(
                f"it has to belong to the daemon's user or root, so run chown {self._uid} {path}",
                said=f"{path} belongs to user {status.st_uid}",
            )
        if status.st_mode & _WRITABLE_BY_OTHERS:
            is_shared = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX  # such as /tmp
            advice = "put the file into a folder of its own" if is_shared else f"run chmod go-w {path}"
            raise RefusedError(advice, said=f"{path} is writable by others")

    def _check_ancestors(self, folder: str) -> None:
        """An ancestor that others can write is fine if it is sticky: they cannot rename what is ours in it.

        Its owner could, and is not looked at.
        """
        while (parent := os.path.dirname(folder)) != folder:
            mode = os.stat(parent).st_mode
            if mode & _WRITABLE_BY_OTHERS and not mode & stat.S_ISVTX:
                raise RefusedError(
                    f"run chmod go-w {parent}",
                    said=f"{parent}, in which {os.path.basename(folder)} is, is writable by others",
                )
            folder = parent

    def fingerprint(self) -> str:
        """One line per file that was read: its digest, its path. See :func:`is_changed`."""
        return "\n".join(f"{digest(content)}  {path}" for path, content in sorted(self._contents.items()))


def _cannot(path: str, exc: OSError) -> str:
    return f"{path} cannot be read, {exc.strerror}"


ABSENT = "-" * 64
"""Stands for the digest of a file that does not exist."""


def digest(content: bytes) -> str:
    """What stands for the content in a fingerprint."""
    return hashlib.sha256(content).hexdigest()


def is_changed(fingerprint: str) -> bool:
    """Whether any file of the fingerprint holds something else now, or is gone, or has come to be."""
    return any(_digest_now(line[66:]) != line[:64] for line in fingerprint.splitlines())


def _digest_now(path: str) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return ABSENT
    except OSError:
        return ""
    try:
        return digest(_content(descriptor))
    except OSError:  # a folder in the place of the file, a broken disk
        return ""
    finally:
        os.close(descriptor)


def _content(descriptor: int) -> bytes:
    """At most one byte more than a file may have."""
    with open(descriptor, "rb", closefd=False) as file:
        return file.read(LARGEST_FILE + 1)


def check_pem(path: str) -> None:
    """Refuse a file for TLS that no probe would read. One that is not there yet may still come.

    Raises:
        RefusedError: it is no regular file, or too large.
    """
    try:
        status = os.stat(path)
    except OSError:
        return
    if not stat.S_ISREG(status.st_mode):
        raise RefusedError("give the path of a file", said=f"{path} is no regular file")
    if status.st_size > LARGEST_PEM:
        raise RefusedError("keep it under 1 MiB", said=f"{path} is too large")


def variables(content: bytes, path: str) -> dict[str, str]:
    """The variables of an ``env_file``: ``NAME=VALUE`` lines, blank ones and ``#`` comments.

    ``export`` before a name and one pair of quotes around a value are taken off; nothing else is
    interpreted. No error shows a line: it may hold a secret.

    Raises:
        RefusedError: the file is no UTF-8, or a line is none of these.
    """
    try:
        lines = content.decode().split("\n")
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise RefusedError("save it as UTF-8", said=f"{path}, line {line}, is not UTF-8") from None
    return dict(_variables(lines, path))


def _variables(lines: Iterable[str], path: str) -> Iterable[tuple[str, str]]:
    for number, line in enumerate(lines, start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        match = _VARIABLE.fullmatch(entry)
        if match is None:
            raise RefusedError("write NAME=VALUE", said=f"{path}, line {number}, holds no variable")
        yield match[1], _unquoted(match[2], f"{path}, line {number},")


def _unquoted(value: str, place: str) -> str:
    if value[:1] not in {'"', "'"}:
        return value
    if len(value) < 2 or value[-1] != value[0]:
        raise RefusedError("close the quotation", said=f"{place} has a quotation that is not closed")
    return value[1:-1]
