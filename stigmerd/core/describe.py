"""Events in words: each entry of the history as a phrase for a reader."""

from __future__ import annotations

from stigmerd.core.event import Entry
from stigmerd.core.exit_status import ExitStatus
from stigmerd.core.status import ExitDocument

ASKED_FOR = frozenset({"operator", "shutdown", "reload", "dependency"})
"""The reasons of what was done because somebody, or the order of things, asked for it."""


def describe(entry: Entry) -> str:
    """One event as a phrase for a reader: ``exited with code 1 after 3.2 s``."""
    details, message = entry.details, entry.message
    match entry.event:
        case "starting":
            who = f"pid {details['pid']}" if details.get("pid") else str(details.get("container") or "")[:12]
            return f"starting{f' ({who})' if who else ''}{_because(entry)}"
        case "start_failed":
            return f"could not be started: {message}"
        case "exited":
            return describe_exit(entry)
        case "restarting":
            attempt = f"attempt {details.get('attempt')}/{details.get('max_restarts')}"
            return f"restarts in {span_text(details.get('delay'))} ({attempt})"
        case "unhealthy":
            probe = f"{details.get('probe') or 'a'} probe failed"
            return message if message.startswith(probe) else f"{probe}: {message}"
        case "waiting" | "suspended" | "config_reloaded" if message:
            return message
        case _:
            return entry.event.replace("_", " ") + (f": {message}" if message else "") + _because(entry)


def describe_lateness(seconds: float, state: str, reason: str, last_error: str | None) -> str:
    """Why a component is not up after so many seconds. The last error, which may be old, comes first only where
    it is what is waited after."""
    cause = last_error if state == "restarting" else None
    why = "; ".join(part for part in (cause, reason) if part) or last_error or state
    return f"not up after {round(seconds, 1):g} s: {why}"


def _because(entry: Entry) -> str:
    return f" ({entry.reason})" if entry.reason in ASKED_FOR | {"trial", "budget"} else ""


def describe_exit(entry: Entry) -> str:
    """The end of a life, and how long it was."""
    uptime = entry.details.get("uptime")
    lived = f" after {span_text(uptime)}" if isinstance(uptime, int | float) else ""
    return end_text(exit_of(entry), lived)


def end_text(status: ExitDocument, lived: str = "") -> str:
    """How a life ended; ``lived``, such as `` after 3 s``, stands before what the code means."""
    phrase = str(ExitStatus(code=status.code, signal=status.signal, oom=status.oom))
    end, colon, meaning = phrase.partition(": ")
    return f"{end}{lived}{colon}{meaning}"


def exit_of(entry: Entry) -> ExitDocument:
    """How the life of an ``exited`` entry ended."""
    code, signal, oom = (entry.details.get(key) for key in ("code", "signal", "oom"))
    return ExitDocument(
        code=code if isinstance(code, int) else None,
        signal=signal if isinstance(signal, str) else None,
        oom=oom if isinstance(oom, bool) else None,
        at=entry.at,
    )


def span_text(seconds: object) -> str:
    """A duration that may be unknown: ``3.2 s``, ``11 min``."""
    if not isinstance(seconds, int | float):
        return "some time"
    if seconds < 0.1:
        return f"{1000 * max(0.0, seconds):.0f} ms"
    if seconds < 120:
        return f"{round(seconds, 1):g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
