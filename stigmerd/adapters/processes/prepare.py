"""What is settled before an exec: whom the process belongs to, where it runs, and which file it is.

A process that was just cloned imports it: so there is nothing here of ours, no dataclass, which brings
half a megabyte of modules with it, and the user database is imported where it is asked.
All of it may block, as folders and user databases can be on file systems that hang.
"""

from __future__ import annotations

import errno
import os
import resource
import stat


class Refused(Exception):
    """The process cannot be. The message has the path and the reason in words."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.errno = number or errno.EINVAL


class Owner:
    """Whom the process belongs to, where that is not the daemon's own user."""

    __slots__ = ("gid", "groups", "uid")

    def __init__(self, uid: int, gid: int, groups: tuple[int, ...]) -> None:
        self.uid = uid
        self.gid = gid
        self.groups = groups


def find_owner(user: str | int | None, group: str | int | None) -> Owner | None:
    """Whom the process shall belong to, None for the daemon's own user and groups."""
    if user is None and group is None:
        return None
    uid, gid, name = os.geteuid(), os.getegid(), None
    if user is not None:
        uid, gid, name = _find_user(user, group)
    if group is not None:
        gid = _find_group(group)
    if os.geteuid() != 0:
        if (uid, gid) == (os.geteuid(), os.getegid()):
            return None
        raise Refused("user and group can be changed by a daemon that runs as root only", errno.EPERM)
    return Owner(uid, gid, tuple(os.getgrouplist(name, gid)) if name is not None else (gid,))


def _find_user(user: str | int, group: str | int | None) -> tuple[int, int, str | None]:
    import pwd

    try:
        entry = pwd.getpwuid(user) if isinstance(user, int) else pwd.getpwnam(user)
    except KeyError:
        if isinstance(user, int) and group is not None:
            return user, _find_group(group), None
        hint = ": give it a group" if isinstance(user, int) else ""
        raise Refused(f"user {user} is not known to this machine{hint}", errno.EINVAL) from None
    return entry.pw_uid, entry.pw_gid, entry.pw_name


def _find_group(group: str | int) -> int:
    if isinstance(group, int):
        return group
    import grp

    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise Refused(f"group {group} is not known to this machine", errno.EINVAL) from None


def check_folder(cwd: str) -> None:
    """Refuse a working directory that is none, or not for us."""
    try:
        is_folder = stat.S_ISDIR(os.stat(cwd).st_mode)
    except OSError as exc:
        raise Refused(f"working directory {cwd}: {exc.strerror}", exc.errno or 0) from exc
    reason = errno.EACCES if is_folder else errno.ENOTDIR
    if not is_folder or not os.access(cwd, os.X_OK):
        raise Refused(f"working directory {cwd}: {os.strerror(reason)}", reason)


def check_nofile(nofile: int | None, owner: Owner | None) -> None:
    """Refuse a limit of descriptors that cannot be set."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    may_raise = hard == resource.RLIM_INFINITY or (os.geteuid() == 0 and (owner is None or owner.uid == 0))
    if nofile is not None and nofile > hard and not may_raise:
        raise Refused(f"nofile {nofile} is above the hard limit of the daemon, {hard}", errno.EPERM)


def candidates(name: str, cwd: str, env: dict[str, str]) -> list[str]:
    """Where ``argv[0]`` may be; a bare name is looked up as execvp would, on the component's own PATH."""
    if "/" in name:
        return [name]
    return [os.path.join(cwd, folder, name) for folder in search_path(env).split(os.pathsep)]


def search_path(env: dict[str, str]) -> str:
    """The PATH of this environment."""
    return env.get("PATH", os.defpath)


def find_program(name: str, cwd: str, env: dict[str, str]) -> str:
    """The path of ``argv[0]``. What is named by a path is not looked for: exec will tell."""
    if "/" in name:
        return name
    found = [candidate for candidate in candidates(name, cwd, env) if os.path.isfile(candidate)]
    for candidate in found:
        if os.access(candidate, os.X_OK):
            return candidate
    if found:
        raise Refused(f"{found[0]}: {os.strerror(errno.EACCES)}", errno.EACCES)
    raise Refused(not_on_path(name), errno.ENOENT)


def not_on_path(name: str) -> str:
    """Why a bare name is no program. On which PATH is left to whoever knows what of it is secret."""
    return f"{name}: {os.strerror(errno.ENOENT)} on PATH"


def exec_refusal(program: str, exc: OSError) -> Refused:
    """Why a program could not be executed."""
    number = exc.errno or 0
    reason = os.strerror(number)
    if number == errno.ENOENT and os.path.exists(program):
        reason = "its interpreter (#! line or loader) does not exist"
    return Refused(f"{program}: {reason}", number)


def become(
    argv: tuple[str, ...],
    cwd: str,
    env: dict[str, str],
    *,
    user: str | int | None,
    group: str | int | None,
    umask: int | None,
    nofile: int | None,
) -> None:
    """Be the program, in a process that is there for nothing else.

    Raises:
        Refused: it cannot be.
    """
    owner = find_owner(user, group)
    check_nofile(nofile, owner)
    try:
        os.chdir(cwd)
    except OSError as exc:
        raise Refused(f"working directory {cwd}: {exc.strerror}", exc.errno or 0) from exc
    program = find_program(argv[0], cwd, env)
    try:
        if nofile is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (nofile, nofile))
        if umask is not None:
            os.umask(umask)
        if owner is not None:
            os.setgroups(owner.groups)
            os.setregid(owner.gid, owner.gid)
            os.setreuid(owner.uid, owner.uid)
    except (OSError, ValueError) as exc:
        raise Refused(f"preparing {program}: {exc}", getattr(exc, "errno", None) or errno.EINVAL) from exc
    try:
        os.execve(program, (program, *argv[1:]), env)
    except OSError as exc:
        raise exec_refusal(program, exc) from exc
    except ValueError as exc:
        raise Refused(f"{program}: {exc}", errno.EINVAL) from exc
