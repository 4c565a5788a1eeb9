"""The status document: what `status` shows, `--json` prints and the control channel answers.

Times are RFC 3339 texts in UTC with milliseconds, durations are seconds, unknown is None; no key
is ever left out. Nothing here holds the value of an environment variable.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

SCHEMA = 1


class ExitDocument(msgspec.Struct, frozen=True, kw_only=True):
    """How the last failed life ended."""

    code: int | None = None
    signal: str | None = None
    oom: bool | None = None
    at: str | None = None


class ProbeDocument(msgspec.Struct, frozen=True, kw_only=True):
    """One probe of the present life."""

    kind: str
    handler: str
    verdict: str | None = None
    consecutive_failures: int = 0
    consecutive_successes: int = 0
    last_at: str | None = None
    duration: float | None = None
    message: str = ""
    duration_p50: float | None = None
    duration_p99: float | None = None
    timeout: float | None = None


class ComponentDocument(msgspec.Struct, frozen=True, kw_only=True):
    """One component."""

    name: str
    kind: str
    state: str
    healthy: bool
    ready: bool = False
    reason: str = ""
    optional: bool = False
    enabled: bool = True
    life: int = 0
    pid: int | None = None
    container_id: str | None = None
    adopted: bool = False
    alive: bool | None = None
    command: tuple[str, ...] = ()
    log: str = ""
    started_at: str | None = None
    uptime: float | None = None
    restarts: int = 0
    restarts_in_window: int = 0
    max_restarts: int = 0
    last_restart_at: str | None = None
    next_start_at: str | None = None
    backoff: float | None = None
    blocked_by: str | None = None
    depends_on: Mapping[str, str] = msgspec.field(default_factory=dict)
    last_exit: ExitDocument | None = None
    last_error: str | None = None
    cpu_percent: float | None = None
    memory_bytes: int | None = None
    probes: tuple[ProbeDocument, ...] = ()


class DaemonDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon itself."""

    pid: int
    version: str
    protocol: int
    started_at: str
    uptime: float
    home: str
    config: str | None
    config_stale: bool = False
    problems: tuple[str, ...] = ()


class StatusDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The whole stack. ``daemon`` is None when no daemon runs; states are then the last known."""

    schema: int = SCHEMA
    daemon: DaemonDocument | None
    healthy: bool
    components: tuple[ComponentDocument, ...] = ()


def is_stack_healthy(components: tuple[ComponentDocument, ...]) -> bool:
    """Whether every component that is not optional is healthy."""
    return all(component.healthy for component in components if not component.optional)


def to_plain(document: msgspec.Struct) -> Any:  # noqa: ANN401  (JSON is what it is)
    """The document as dicts, lists and scalars."""
    return msgspec.to_builtins(document)


def to_json(document: msgspec.Struct) -> bytes:
    """The document as JSON in ASCII: on one line, whatever text a component brought in.

    Mostly there is ASCII only, which msgspec writes ten times as fast as ``json`` does.
    """
    try:
        encoded = msgspec.json.encode(document)
    except UnicodeEncodeError:  # a lone surrogate
        encoded = b"\xff"
    return encoded if encoded.isascii() else json.dumps(to_plain(document), separators=(",", ":")).encode("ascii")
