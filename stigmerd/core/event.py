"""One entry of the event history. The events and their reasons are in docs/cli.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

EVENTS = frozenset(
    {
        "daemon_started",
        "daemon_stopping",
        "config_reloaded",
        "suspended",
        "waiting",
        "starting",
        "start_failed",
        "running",
        "ready",
        "unready",
        "unhealthy",
        "exited",
        "restarting",
        "failed",
        "stopping",
        "killed",
        "stopped",
        "completed",
        "adopted",
        "orphan_removed",
    }
)

REASONS = frozenset(
    {
        "exit",
        "signal",
        "startup_probe",
        "liveness_probe",
        "spawn",
        "dependency",
        "port",
        "engine",
        "budget",
        "fatal_exit",
        "unkillable",
        "internal",
        "operator",
        "shutdown",
        "reload",
        "trial",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What happened, when, to whom and why. ``at`` is RFC 3339 UTC with milliseconds."""

    seq: int
    at: str
    component: str | None
    life: int | None
    event: str
    reason: str | None = None
    message: str = ""
    details: Mapping[str, object] = field(default_factory=dict)

    def to_plain(self) -> dict[str, object]:
        """The entry as one JSON object, details between ``event`` and ``reason``."""
        return {
            "seq": self.seq,
            "at": self.at,
            "component": self.component,
            "life": self.life,
            "event": self.event,
            **self.details,
            "reason": self.reason,
            "message": self.message,
        }
