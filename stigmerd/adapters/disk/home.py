"""The home: the one folder that holds all of a daemon's files, and the lock that it holds.

Decides which folder it is and whether it is safe to use. Knows nothing of what is in the files.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from stigmerd.adapters.disk.files import PRIVATE_FOLDER, RefusedError, kind_of, open_regular

_LOCK_PATIENCE = 0.2
"""Seconds that a lock may be busy with somebody who only looks (:meth:`Home.is_taken`)."""

_DEATH_PATIENCE = 5.0
"""Seconds that a killed daemon may take to die: the lock is its own until the last of its threads has ended."""


class HomeError(Exception):
    """The home cannot be used. The message names the path, what is wrong, and what to do."""


class HomeTakenError(HomeError):
    """Another daemon has this home. ``pid`` is its, where the lock file tells."""

    def __init__(self, path: str, pid: int | None) -> None:
        owner = "another daemon" if pid is None else f"the daemon with pid {pid}"
        super().__init__(f"{path} is in use by {owner}: stop it, or use another home with --home")
        self.pid = pid


def default_home(environ: Mapping[str, str]) -> str:
    """``$STIGMER_HOME``, else ``~/.stigmer``."""
    named = environ.get("STIGMER_HOME")
    if named:
        return named
    return os.path.join(environ.get("HOME") or pwd.getpwuid(os.geteuid()).pw_dir, ".stigmer")


@dataclass(frozen=True, slots=True)
class Home:
    """Where everything is. To be made with :meth:`at`, which makes the path a canonical one."""

    path: str

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> Home:
        """The home at ``path``, whether it is there or not.

        The folders above it are resolved, so that one home has one name: processes carry it in
        their environment. The home itself is not, so that a link in its place is seen.

        Raises:
            HomeError: this can be no path.
        """
        text = os.fspath(path)
        if not text or "\0" in text:
            raise HomeError(f"{text!r} is no path of a folder: give one with --home")
        above, name = os.path.split(os.path.abspath(text))
        path = os.path.join(os.path.realpath(above), name)
        if any("\udc80" <= character <= "\udcff" for character in path):  # JSON, which the state is, could not name it
            raise HomeError(f"{path!r} is no path of valid UTF-8: give another folder with --home")
        return cls(path)

    @property
    def run(self) -> str:
        """The folder of the socket and the lock."""
        return os.path.join(self.path, "run")

    @property
    def state(self) -> str:
        """The folder of the state and the event history."""
        return os.path.join(self.path, "state")

    @property
    def logs(self) -> str:
        """The folder of the logs."""
        return os.path.join(self.path, "logs")

    @property
    def socket(self) -> str:
        """The control socket."""
        return os.path.join(self.run, "stigmerd.sock")

    @property
    def lock(self) -> str:
        """The lock file, never unlinked."""
        return os.path.join(self.run, "stigmerd.lock")

    @property
    def config(self) -> str:
        """The configuration, where none is named."""
        return os.path.join(self.path, "stigmer.toml")

    def exists(self) -> bool:
        """Whether anything is at this path."""
        return os.path.lexists(self.path)

    def prepare(self) -> None:
        """Make what is missing, make our own folders private, and check that all is ours alone.

        An existing home is left as it is: only ``run``, ``state`` and ``logs`` in it are made 0700.

        Raises:
            HomeError: something is not as it has to be, or cannot be made.
        """
        with _telling(self.path):
            if not self.exists():
                os.makedirs(self.path, PRIVATE_FOLDER, exist_ok=True)
                os.chmod(self.path, PRIVATE_FOLDER)
            _check_folder(self.path, ours=True)
            for folder in self._folders:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(folder, PRIVATE_FOLDER)
                _make_private(folder)

    def check(self) -> None:
        """Check what there is, and change nothing: for clients. What is not there is fine.

        Root may look into anybody's home.

        Raises:
            HomeError: something is not as it has to be.
        """
        with _telling(self.path):
            for folder in (self.path, *self._folders):
                with contextlib.suppress(FileNotFoundError):
                    _check_folder(folder, ours=os.geteuid() != 0)

    def take_lock(self) -> int:
        """Make this process the home's one daemon, for as long as the descriptor is open.

        The descriptor is close-on-exec. The file is never unlinked: two daemons would hold two.

        Raises:
            HomeTakenError: another daemon has it.
            HomeError: the lock cannot be used.
        """
        with _telling(self.lock):
            fd = open_regular(self.lock, os.O_RDWR | os.O_CREAT)
            try:
                give_up = time.monotonic() + _DEATH_PATIENCE
                while not _lock(fd, fcntl.LOCK_EX, patience=_LOCK_PATIENCE):
                    holder = _pid_in(fd)
                    if holder is None or not _is_dead(holder) or time.monotonic() > give_up:
                        raise HomeTakenError(self.path, holder)
                os.ftruncate(fd, 0)
                os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            except BaseException:
                os.close(fd)
                raise
            return fd

    def keep_lock(self, held: int) -> None:
        """Take the lock again, with the same descriptor, where somebody removed or replaced its file.

        Without it the home would be free for a second daemon, and clients would take the first for dead.

        Raises:
            HomeError: it cannot be taken again, or another daemon was quicker.
        """
        with _telling(self.lock):
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.lstat(self.lock), os.fstat(held)):
                    return
            self.prepare()
            taken = self.take_lock()
            os.dup2(taken, held, inheritable=False)
            os.close(taken)

    @contextlib.contextmanager
    def launching(self, patience: float) -> Iterator[None]:
        """Be the only one who launches a daemon for this home. The kernel ends the turn of whoever dies.

        Raises:
            HomeError: somebody else does, and is not done within ``patience`` seconds.
        """
        path = os.path.join(self.run, "launch.lock")
        with _telling(path):
            fd = open_regular(path, os.O_RDWR | os.O_CREAT)
        try:
            if not _lock(fd, fcntl.LOCK_EX, patience=patience):
                pid = _pid_in(fd)
                who = "somebody" if pid is None else f"the process with pid {pid}"
                raise HomeError(f"{who} has been starting a daemon for {self.path} for {patience:g} s: end it, or wait")
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(fd)

    def is_taken(self) -> bool:
        """Whether a daemon has this home now, answering or not.

        Raises:
            HomeError: the lock cannot be used.
        """
        with _telling(self.lock):
            try:
                fd = open_regular(self.lock, os.O_RDONLY)
            except FileNotFoundError:
                return False
            try:
                return not _lock(fd, fcntl.LOCK_SH, patience=0.0)
            finally:
                os.close(fd)

    @property
    def _folders(self) -> tuple[str, str, str]:
        return (self.run, self.state, self.logs)


@contextlib.contextmanager
def _telling(path: str) -> Iterator[None]:
    """Turn what the system says into what the operator can act on."""
    try:
        yield
    except RefusedError as exc:
        raise HomeError(str(exc)) from exc
    except OSError as exc:
        raise HomeError(
            f"{exc.filename or path} cannot be used: {exc.strerror}. Choose another home with --home"
        ) from exc


def _check_folder(path: str, *, ours: bool) -> None:
    status = os.lstat(path)
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISLNK(status.st_mode):
        raise HomeError(f"{path} is a symbolic link to {os.readlink(path)!r}: name the folder itself")
    if not stat.S_ISDIR(status.st_mode):
        raise HomeError(f"{path} is {kind_of(status.st_mode)}, not a folder: move it away")
    if ours and status.st_uid != os.geteuid():
        raise HomeError(
            f"{path} belongs to user {status.st_uid}, not to {os.geteuid()}: "
            "use a home of your own with --home, or change its owner"
        )
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise HomeError(f"{path} can be written by others (mode {mode:04o}): chmod go-w {path}")


def _make_private(path: str) -> None:
    """Make a folder of ours 0700, through the folder itself and not through its name."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno == errno.EACCES and os.lstat(path).st_uid == os.geteuid():
            os.chmod(path, PRIVATE_FOLDER)  # a folder of ours that even we may not read
            return
        _check_folder(path, ours=True)
        raise
    try:
        status = os.fstat(fd)
        if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) != PRIVATE_FOLDER:
            os.fchmod(fd, PRIVATE_FOLDER)
    finally:
        os.close(fd)
    _check_folder(path, ours=True)


def _lock(fd: int, how: int, *, patience: float) -> bool:
    """Lock without waiting longer than ``patience`` seconds. False if somebody else has it."""
    give_up = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= give_up:
                return False
            time.sleep(0.01)
        else:
            return True


def _pid_in(fd: int) -> int | None:
    """The pid that the lock's holder wrote."""
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else None


def _is_dead(pid: int) -> bool:
    """Whether a process is gone, or a zombie, of which threads may be ending still."""
    import psutil  # only where a lock is busy

    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False
