"""The way to the daemon: which home, whether it answers, and what its answers mean for the operator."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from stigmerd import __version__
from stigmerd.adapters.disk.home import Home, HomeError, default_home
from stigmerd.cli.errors import FAILED, NOT_RUNNING, SILENT, USAGE, CommandError, check_names, usage_error
from stigmerd.cli.escape import escape, escape_line
from stigmerd.control.client import (
    Client,
    ControlError,
    DaemonAbsentError,
    DaemonSilentError,
    RemoteError,
    connect,
)
from stigmerd.control.protocol import PROTOCOL
from stigmerd.core.status import StatusDocument

HELLO_TIMEOUT = 5.0
"""Seconds in which a living daemon has to say hello."""

RETRY = 0.02

EXIT_OF_ERROR = {"unknown_component": USAGE, "bad_configuration": USAGE, "invalid_params": USAGE}


def find_home(named: str | None) -> Home:
    """The home that ``--home`` names, else the default one, checked but not made.

    Raises:
        CommandError: it is not ours, or others may write into it.
    """
    try:
        home = Home.at(named if named is not None else default_home(os.environ))
    except HomeError as exc:
        raise usage_error(escape_line(str(exc))) from exc
    try:
        home.check()
    except HomeError as exc:
        raise CommandError(escape_line(str(exc))) from exc
    return home


def hint(command: str, home: Home) -> str:
    """A command to type, with ``--home`` where the plain one would reach another daemon."""
    from shlex import quote

    try:
        is_default = Home.at(default_home(os.environ)) == home
    except HomeError:
        is_default = False
    return command if is_default else escape_line(f"{command} --home {quote(home.path)}")


def daemon_log(home: Home) -> str:
    """Where the daemon's own log is, for a message."""
    return escape_line(os.path.join(home.logs, "stigmerd.log"))


def not_running(home: Home) -> CommandError:
    """Nobody answers and nobody is there."""
    return CommandError(
        f"The daemon is not running (home {escape_line(home.path)}). "
        f"Start it with: {hint('stigmer server start', home)}",
        NOT_RUNNING,
    )


def open_client(home: Home, *, any_protocol: bool = False) -> Client:
    """Connect to the daemon of this home.

    A daemon that holds the home without a socket is just starting or ending, or its socket was
    removed and will be made again: it has the same time as one that is slow to say hello.

    Raises:
        ControlError: as ``connect`` does.
    """
    deadline = time.monotonic() + HELLO_TIMEOUT
    while True:
        try:
            left = max(RETRY, deadline - time.monotonic())
            return connect(home.path, timeout=left, any_protocol=any_protocol)
        except DaemonAbsentError:
            if not _is_taken(home):
                raise
        if time.monotonic() >= deadline:
            raise DaemonSilentError("the daemon is there, its socket is not")
        time.sleep(RETRY)


def _is_taken(home: Home) -> bool:
    try:
        return home.is_taken() or _is_daemon_alive(home)
    except HomeError as exc:
        raise ControlError(str(exc)) from exc


def _is_daemon_alive(home: Home) -> bool:
    """Whether the daemon that wrote the state runs: somebody may have removed the lock that it holds, and it takes
    a moment until it has it again."""
    from stigmerd.adapters.disk.store import read_state

    last = read_state(home).daemon
    if last is None:
        return False
    from stigmerd.adapters.processes.identity import boot_id, is_running

    return last.boot_id == boot_id() and is_running(last)


@contextmanager
def reached(home: Home, *, any_protocol: bool = False) -> Iterator[Client]:
    """A connection to the daemon of this home, closed at the end of the block.

    Raises:
        CommandError: no daemon (3), one that does not answer (4), another protocol or no permission (1).
            Also for what the daemon refuses inside the block, and if it ends in the middle.
    """
    with explained(home), open_client(home, any_protocol=any_protocol) as client:
        warn_of_other_version(client, home)
        yield client


@contextmanager
def explained(home: Home) -> Iterator[None]:
    """Turn what the client raises into what the operator reads, with the exit code of docs/cli.md."""
    try:
        yield
    except DaemonAbsentError as exc:
        raise not_running(home) from exc
    except DaemonSilentError as exc:
        raise CommandError(
            f"The daemon of {escape_line(home.path)} did not answer within {HELLO_TIMEOUT:g} s. "
            f"Look at its log: {daemon_log(home)}",
            SILENT,
        ) from exc
    except RemoteError as exc:
        raise CommandError(escape(_sentence(exc.message)), EXIT_OF_ERROR.get(exc.name, FAILED)) from exc
    except ControlError as exc:
        raise CommandError(escape_line(_sentence(str(exc)))) from exc


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] if text[1:2].islower() or text[1:2] == " " else text


def warn_of_other_version(client: Client, home: Home) -> None:
    """Say once that daemon and program are of different versions, and how to bring them together."""
    if client.server_protocol == PROTOCOL and client.server_version != __version__:
        sys.stderr.write(
            f"The daemon is stigmerd {escape_line(client.server_version)}, this is stigmer {__version__}: "
            f"bring them together with: {hint('stigmer server restart --daemon', home)}\n"
        )


def other_protocol(client: Client, home: Home) -> CommandError | None:
    """What to say about a daemon that speaks another protocol, where only the oldest words are safe."""
    if client.server_protocol == PROTOCOL:
        return None
    return CommandError(
        f"The daemon is stigmerd {escape_line(client.server_version)} (protocol {client.server_protocol}), "
        f"this is stigmer {__version__} (protocol {PROTOCOL}): bring them together with: "
        f"{hint('stigmer server stop', home)}, then {hint('stigmer server start', home)}"
    )


def fetch_status(client: Client, names: Sequence[str] = (), *, verbose: bool = False) -> StatusDocument:
    """The daemon's status document; of the named components alone, and judging them, where there are names.

    Raises:
        CommandError: there is no component of a name.
    """
    params: dict[str, Any] = {"verbose": True} if verbose else {}
    if not names:
        return to_document(client.call("status", **params))
    whole = to_document(client.call("status"))
    check_names(names, [component.name for component in whole.components])
    if verbose:
        whole = to_document(client.call("status", names=list(names), verbose=True))
    return narrow(whole, names)


def narrow(document: StatusDocument, names: Sequence[str]) -> StatusDocument:
    """The document with the named components alone, whose health is then the whole document's."""
    if not names:
        return document
    chosen = tuple(component for component in document.components if component.name in names)
    healthy = document.daemon is not None and all(component.healthy for component in chosen)
    return msgspec.structs.replace(document, components=chosen, healthy=healthy)


def to_document(plain: object) -> StatusDocument:
    """A status document from JSON, as this or a newer daemon writes it.

    Raises:
        CommandError: it is none.
    """
    try:
        return msgspec.convert(plain, StatusDocument)
    except msgspec.ValidationError as exc:
        raise CommandError(f"The daemon's status makes no sense here ({exc}): is it another version?") from exc


def parse_seconds(text: str | None, option: str) -> float | None:
    """The value of an option that is a duration; None where it is not given.

    Raises:
        CommandError: it is no duration.
    """
    from stigmerd.cli.times import parse_duration

    if text is None:
        return None
    duration = parse_duration(text)
    if duration is None:
        raise usage_error(f"{option} {escape_line(text)}: give a duration, such as 30 or 30s or 2m")
    return duration


class Answer(msgspec.Struct, frozen=True):
    """What became of one component in an operation."""

    name: str
    state: str = ""
    ok: bool = False
    message: str = ""
    survivors: tuple[int, ...] = ()


def answers_in(result: Mapping[str, Any]) -> list[Answer]:
    """What the daemon says of each component that an operation concerned."""
    return msgspec.convert(result.get("components", []), list[Answer])
