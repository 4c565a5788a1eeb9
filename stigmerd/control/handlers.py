"""What the daemon can be asked over the control channel: one table, and what each method takes.

A handler turns checked parameters into one call of :class:`Operations` and its outcome into plain
values. It decides nothing, and no parameter can carry a command line, an environment or a path.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import trio

from stigmerd.control.protocol import PROTOCOL, ErrorCode, ProtocolError, encode_notification, quote
from stigmerd.core.status import to_json
from stigmerd.engine.operations import Answer, EventFeed, Operations

STATUS_PERIOD = 0.1
"""Least seconds between two ``status`` notifications: what changes faster is told once."""

STATUS_REST = 10
"""For how many times as long as a ``status`` notification takes to make there is none: with thousands of
components it takes 50 ms and more, and nobody who watches must slow down what is watched."""

MAX_SEQ = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What the daemon says of itself."""

    version: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What handlers work with."""

    operations: Operations
    hello: Hello


class Stream(Protocol):
    """What a subscriber is told, one notification after the other."""

    async def receive(self) -> tuple[int, bytes]:
        """How many notifications were missed because they were not taken in time, and the next one, encoded."""
        ...

    def give_up(self) -> int:
        """Drop what is still to be told, and say how many notifications that is."""
        ...


Check = Callable[[object], Any]
"""Turns a parameter from JSON into an argument, or raises ValueError with what it has to be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method that is answered once; an answer in bytes is JSON already. With ``ends`` the connection is
    closed after it."""

    call: Callable[..., Awaitable[Mapping[str, object] | bytes]]
    required: Mapping[str, Check] = field(default_factory=dict)
    optional: Mapping[str, Check] = field(default_factory=dict)
    ends: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """One method that is answered with ``{}`` and then with notifications."""

    open: Callable[..., AbstractContextManager[Stream]]
    required: Mapping[str, Check] = field(default_factory=dict)
    optional: Mapping[str, Check] = field(default_factory=dict)


def check_text(value: object) -> str:
    """A text. Lone surrogates are none: they could be neither logged nor shown."""
    if not isinstance(value, str):
        raise ValueError("a string")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("a string of valid Unicode")
    return value


def check_names(value: object) -> tuple[str, ...]:
    """Component names, each once."""
    if not isinstance(value, list):
        raise ValueError("a list of component names")
    return tuple(dict.fromkeys(check_text(name) for name in value))


def check_flag(value: object) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def check_seconds(value: object) -> float:
    """A duration: finite, not negative."""
    wanted = "a number of seconds, 0 or more"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(wanted)
    try:
        seconds = float(value)
    except OverflowError:
        raise ValueError(wanted) from None
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(wanted)
    return seconds


def check_seq(value: object) -> int:
    """The number of an event, or 0 for before the first."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SEQ:
        raise ValueError("the seq of an event, an integer from 0")
    return value


def check_params(name: str, method: Method | Subscription, params: Mapping[str, object]) -> dict[str, Any]:
    """The arguments for ``method``.

    Raises:
        ProtocolError: a parameter is unknown, missing or of a wrong type.
    """
    checks = {**method.required, **method.optional}
    if unknown := params.keys() - checks.keys():
        takes = ", ".join(checks) or "none"
        raise _invalid(f"{name} has no parameter {quote(min(unknown))}; its parameters: {takes}")
    if missing := method.required.keys() - params.keys():
        raise _invalid(f"{name} needs the parameter {min(missing)}")
    arguments = {}
    for key, value in params.items():
        try:
            arguments[key] = checks[key](value)
        except ValueError as exc:
            raise _invalid(f"{key} of {name} has to be {exc}") from exc
    return arguments


def _invalid(message: str) -> ProtocolError:
    return ProtocolError(ErrorCode.INVALID_PARAMS, message)


async def _hello(context: Context) -> Mapping[str, object]:
    return {"protocol": PROTOCOL, "version": context.hello.version, "pid": context.hello.pid}


async def _status(context: Context, names: Sequence[str] = (), verbose: bool = False) -> bytes:
    return to_json(await context.operations.status(names, verbose=verbose))


async def _start(
    context: Context, names: Sequence[str] = (), timeout: float | None = None, now: bool = False
) -> Mapping[str, object]:
    # `now` changes nothing: a start is always at once. Start, stop and restart have the same parameters.
    return _components(await context.operations.start(names, timeout=timeout))


async def _stop(
    context: Context, names: Sequence[str] = (), timeout: float | None = None, now: bool = False
) -> Mapping[str, object]:
    return _components(await context.operations.stop(names, timeout=timeout, now=now))


async def _restart(
    context: Context, names: Sequence[str] = (), timeout: float | None = None, now: bool = False
) -> Mapping[str, object]:
    return _components(await context.operations.restart(names, timeout=timeout, now=now))


async def _signal(context: Context, names: Sequence[str], signal: str) -> Mapping[str, object]:
    return _components(await context.operations.signal(names, signal))


async def _reload(context: Context, dry_run: bool = False, verbose: bool = False) -> Mapping[str, object]:
    change = asdict(await context.operations.reload(dry_run=dry_run))
    return change if verbose else {key: change[key] for key in ("added", "removed", "changed", "restarted")}


async def _explain(context: Context, name: str) -> Mapping[str, object]:
    return await context.operations.explain(name)


async def _shutdown(context: Context, timeout: float | None = None, now: bool = False) -> Mapping[str, object]:
    return _components(await context.operations.shutdown(timeout=timeout, now=now))


async def _reexec(context: Context) -> Mapping[str, object]:
    await context.operations.reexec()
    return {}


def _components(answers: Sequence[Answer]) -> Mapping[str, object]:
    return {"components": [asdict(answer) for answer in answers]}


class _EventStream:
    """The ``event`` notifications of one subscriber."""

    def __init__(self, feed: EventFeed) -> None:
        self._feed = feed

    async def receive(self) -> tuple[int, bytes]:
        missed, entry = await self._feed.receive()
        return missed, encode_notification("event", entry.to_plain())

    def give_up(self) -> int:
        return self._feed.give_up()


class _StatusStream:
    """The ``status`` notifications of one subscriber: always the latest, so that none is ever missed."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._seen = 0
        self._due = trio.current_time()

    async def receive(self) -> tuple[int, bytes]:
        await trio.sleep_until(self._due)
        # The number before the document: a change in between is told twice rather than never.
        self._seen = await self._context.operations.wait_status_change(self._seen)
        began = trio.current_time()
        line = encode_notification("status", await _status(self._context))
        made = trio.current_time()
        self._due = made + max(STATUS_PERIOD, STATUS_REST * (made - began))
        return 0, line

    def give_up(self) -> int:
        return 0


@contextmanager
def _watch_events(context: Context, since: int | None = None, names: Sequence[str] = ()) -> Iterator[Stream]:
    with context.operations.watch_events(since, names) as feed:
        yield _EventStream(feed)


@contextmanager
def _watch_status(context: Context) -> Iterator[Stream]:
    yield _StatusStream(context)


_ON_COMPONENTS: Mapping[str, Check] = {"names": check_names, "timeout": check_seconds, "now": check_flag}

METHODS: Mapping[str, Method | Subscription] = {
    "hello": Method(call=_hello),
    "status": Method(call=_status, optional={"names": check_names, "verbose": check_flag}),
    "start": Method(call=_start, optional=_ON_COMPONENTS),
    "stop": Method(call=_stop, optional=_ON_COMPONENTS),
    "restart": Method(call=_restart, optional=_ON_COMPONENTS),
    "signal": Method(call=_signal, required={"names": check_names, "signal": check_text}),
    "reload": Method(call=_reload, optional={"dry_run": check_flag, "verbose": check_flag}),
    "explain": Method(call=_explain, required={"name": check_text}),
    "events.subscribe": Subscription(open=_watch_events, optional={"since": check_seq, "names": check_names}),
    "status.subscribe": Subscription(open=_watch_status),
    "shutdown": Method(call=_shutdown, optional={"timeout": check_seconds, "now": check_flag}, ends=True),
    "reexec": Method(call=_reexec),
}
