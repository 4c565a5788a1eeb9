"""The daemon's own log: lines or JSON, to stderr in the foreground and to ``logs/stigmerd.log`` always."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable
from types import TracebackType

from stigmerd.core.event import Entry
from stigmerd.core.instant import rfc3339

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

log = logging.getLogger("stigmerd")


class TextFormatter(logging.Formatter):
    """``2026-01-22T04:00:01.250Z info  message``: RFC 3339 in UTC, the level, the message."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback of a bug under it."""
        line = f"{rfc3339(record.created)} {record.levelname.lower():<7} {_one_line(record.getMessage())}"
        return f"{line}\n{_traceback(record)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time``, ``level``, ``message``, and ``traceback`` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        entry = {"time": rfc3339(record.created), "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            entry["traceback"] = _traceback(record)
        return json.dumps(entry)


class FileHandler(logging.Handler):
    """Writes each record in one write, to a file that may be replaced under it."""

    def __init__(self, open_log: Callable[[], int]) -> None:
        super().__init__()
        self._open_log = open_log
        self._fd: int | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record. A full disk loses the daemon's own log lines, and nothing else."""
        try:
            if self._fd is None:
                self._fd = self._open_log()
            os.write(self._fd, f"{self.format(record)}\n".encode("utf-8", "backslashreplace"))
        except OSError:
            self.reopen()

    def reopen(self) -> None:
        """Write to whatever file is in the log's place from the next record on. Safe in any thread."""
        # Between a look at the descriptor and the write, it would become somebody else's: a peer's, say.
        self.acquire()
        try:
            if self._fd is not None:
                os.close(self._fd)
            self._fd = None
        finally:
            self.release()


class StderrHandler(logging.Handler):
    """Writes to the terminal of a daemon in the foreground, and survives the terminal's end."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            os.write(2, f"{self.format(record)}\n".encode("utf-8", "backslashreplace"))
        except OSError:
            log.removeHandler(self)


def set_up(open_log: Callable[[], int], *, form: str, level: str, foreground: bool) -> FileHandler:
    """Begin to log. Returns the handler of the file, to be reopened when the file was replaced."""
    formatter = JsonFormatter() if form == "json" else TextFormatter()
    file = FileHandler(open_log)
    for handler in (file, StderrHandler()) if foreground else (file,):
        handler.setFormatter(formatter)
        log.addHandler(handler)
    log.propagate = False
    set_level(level)
    sys.excepthook = _log_the_end
    return file


def _log_the_end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A bug that ends the daemon is in its log, wherever its stderr goes. Its components run on."""
    log.critical("the daemon ends: internal error", exc_info=(kind, error, trace))


def set_level(level: str) -> None:
    """Log what is at least this important: debug, info, warning or error."""
    log.setLevel(LEVELS.get(level, logging.INFO))


def log_entry(entry: Entry) -> None:
    """Tell an event of the history as one line for a reader."""
    bad = entry.event in {"failed", "start_failed", "unhealthy", "killed"}
    who = f"{entry.component}: " if entry.component else ""
    details = " ".join(f"{key}={value}" for key, value in entry.details.items() if value is not None)
    parts = (entry.event, details, f"({entry.reason})" if entry.reason else "", entry.message)
    log.log(logging.WARNING if bad else logging.INFO, "%s%s", who, " ".join(part for part in parts if part))


def say(sentence: str) -> None:
    """Tell whoever started the daemon, before there is a log."""
    print(f"stigmerd: {sentence}", file=sys.stderr, flush=True)


def _one_line(text: str) -> str:
    """The text without anything that could forge a line or drive a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _traceback(record: logging.LogRecord) -> str:
    assert record.exc_info is not None
    # Without source lines' values: frames hold secrets, and only names of code are written.
    return "".join(traceback.format_exception(*record.exc_info)).rstrip()
