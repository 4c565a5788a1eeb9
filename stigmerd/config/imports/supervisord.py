"""A supervisord.conf: every program becomes a component.

Source: https://supervisord.org/configuration.html; supervisor/options.py and datatypes.py.
"""

from __future__ import annotations

import configparser
import getpass
import glob
import os
import pwd
import re
import shlex
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from stigmerd.config.imports.result import Import, ImportRefusedError, Table, read_text
from stigmerd.config.interpolate import escape

_EXPRESSION = re.compile(r"%(?:(?P<percent>%)|\((?P<name>\w+)\)(?P<form>[0-9]*[ds]))")
_PLACEHOLDER = re.compile("\0(\\w+)\0")
"""Stands for a ``${}`` of ours until the text around it has been split and escaped."""

SIZES = {"": "B", "kb": "KiB", "mb": "MiB", "gb": "GiB"}
FALSE = {"false", "no", "off", "0"}
FATAL_EXIT_CODE = 78
DEFAULT_PRIORITY = 999

_NO_PLACE = ("the log's place is not chosen", "All output of a component is in HOME/logs/NAME.log")
_ONE_LOG = "stdout and stderr are one log"
_NO_EVENTS = ("there are no events for output", "Follow the log: stigmer server logs NAME -f")
_CHANNEL = "Use the control channel, HOME/run/stigmerd.sock"

LEFT_OF_PROGRAM: Mapping[str, tuple[str, str]] = {
    "stdout_logfile": _NO_PLACE,
    "stderr_logfile": _NO_PLACE,
    "stderr_logfile_maxbytes": (_ONE_LOG, "log.max_size is for both"),
    "stderr_logfile_backups": (_ONE_LOG, "log.keep is for both"),
    "stdout_capture_maxbytes": _NO_EVENTS,
    "stderr_capture_maxbytes": _NO_EVENTS,
    "stdout_events_enabled": _NO_EVENTS,
    "stderr_events_enabled": _NO_EVENTS,
    "stdout_syslog": ("output goes to a file alone", "Let syslog read that file"),
    "stderr_syslog": ("output goes to a file alone", "Let syslog read that file"),
    "serverurl": ("there is no HTTP server", _CHANNEL),
}
"""Keys of a program that have no place here: why, and what to do instead."""

CARRIED = frozenset({
    *("command", "process_name", "numprocs", "numprocs_start", "directory", "environment", "user", "umask"),
    *("autostart", "autorestart", "exitcodes", "startsecs", "startretries", "stopsignal", "stopwaitsecs"),
    *("stopasgroup", "killasgroup", "redirect_stderr", "priority"),
    *("stdout_logfile_maxbytes", "stdout_logfile_backups"),
})
"""Keys of a program that are carried over, or ask for what is so here in any case."""

_OWN = "the daemon has its own"
LEFT_OF_DAEMON: Mapping[str, tuple[str, str]] = {
    "logfile": (_OWN, "It is HOME/logs/stigmerd.log"),
    "pidfile": (_OWN, "stigmer server status tells the pid"),
    "childlogdir": _NO_PLACE,
    "user": ("the daemon does not change its user", "Start it as that user"),
    "minfds": ("the daemon raises its limit as far as it may", "For one component there is nofile"),
    "minprocs": ("the limit is that of whoever starts the daemon", "Raise it there with ulimit -u"),
    "umask": ("there is no umask for all components", "Give each one its umask, with a daemon that runs as root"),
}
LEFT_SECTIONS: Mapping[str, tuple[str, str]] = {
    "group": ("there are no groups", "Name the components: stigmer server restart NAME NAME"),
    "eventlistener": ("there are no event listeners", "Read the events: stigmer server events -f --json"),
    "fcgi-program": ("no socket is opened for a component", "Let the program open its own"),
    "inet_http_server": ("there is no HTTP server", _CHANNEL),
    "rpcinterface": ("the daemon takes no plug-ins", _CHANNEL),
}


def read_supervisord(text: str, found: Import) -> None:
    """Make a component of every program, ``numprocs`` of them where it asks for several.

    Raises:
        ImportRefusedError: it is no such file, or has no program.
    """
    parser = _parsed(text, found)
    daemon = dict(parser["supervisord"]) if parser.has_section("supervisord") else {}
    for key in daemon:
        if key in LEFT_OF_DAEMON:
            found.leave("[supervisord]", key, *LEFT_OF_DAEMON[key])
    for section in parser.sections():
        kind = section.partition(":")[0]
        if kind in LEFT_SECTIONS and section != "rpcinterface:supervisor":
            found.leave(f"[{section}]", "", *LEFT_SECTIONS[kind])
    programs = [section for section in parser.sections() if section.startswith("program:")]
    for section in sorted(programs, key=lambda each: _priority(parser[each])):
        _Program(section=section, keys=dict(parser[section]), daemon=daemon, found=found).add()
    if any("priority" in parser[section] for section in programs):
        instead = "They stand in that order; say with depends_on which one needs which"
        found.leave("[program:*]", "priority", "components start side by side", instead)
    if not found.components:
        raise ImportRefusedError(f"{found.source} has no [program:NAME] with a command: is it a supervisord.conf?")


def _parsed(text: str, found: Import) -> configparser.RawConfigParser:
    """The file and what it includes, read as supervisord does."""
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"), strict=False)
    try:
        parser.read_string(text)
        patterns = parser.get("include", "files", fallback="").replace("%(here)s", found.folder).split()
        for pattern in patterns:
            paths = sorted(glob.glob(found.absolute(pattern)))
            if not paths:
                found.leave("[include]", "files", f"{pattern} is no file")
            for path in paths:
                parser.read_string(read_text(path))
    except configparser.Error as exc:
        said = " ".join(str(exc).split()).replace("<string>", found.source)
        raise ImportRefusedError(f"{found.source} is no supervisord.conf: {said}") from exc
    return parser


def _priority(keys: Mapping[str, str]) -> int:
    written = keys.get("priority", "")
    return int(written) if re.fullmatch(r"-?[0-9]{1,9}", written) else DEFAULT_PRIORITY


class _UnknownExpressionError(Exception):
    """A ``%(name)s`` that supervisord does not know either."""


def expand(text: str, values: Mapping[str, object]) -> str:
    """Fill in ``%(name)s``, but ``%(ENV_X)s``: that becomes a placeholder, to be ``${X}`` in the end."""

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        if match["percent"]:
            return "%"
        if name.startswith("ENV_"):
            return f"\0{name.removeprefix('ENV_')}\0"
        try:
            return f"%{match['form']}" % values[name]
        except (KeyError, TypeError):
            raise _UnknownExpressionError(match[0]) from None

    return _EXPRESSION.sub(fill, text.replace("\0", ""))


def written(text: str) -> str:
    """An expanded text as our file has it."""
    return _PLACEHOLDER.sub(r"${\1}", escape(text))


def environment(text: str) -> dict[str, str]:
    """``KEY="value",KEY2=value``, split as supervisord does.

    Raises:
        ValueError: it is none.
    """
    lexer = shlex.shlex(text)
    lexer.wordchars += "/.+-():\0"
    tokens = list(lexer)
    found: dict[str, str] = {}
    for start in range(0, len(tokens), 4):
        name, equals, *value = tokens[start : start + 3]
        if equals != "=" or not value:
            raise ValueError(text)
        found[name] = value[0].strip("'\"")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Program:
    """One ``[program:NAME]``. ``daemon`` are the keys of ``[supervisord]``."""

    section: str
    keys: Mapping[str, str]
    daemon: Mapping[str, str]
    found: Import

    def add(self) -> None:
        """Add its components, and note what they cannot have."""
        self._leave_rest()
        common = self._common()
        first, count = self._number("numprocs_start", 0), self._number("numprocs", 1)
        for number in range(first, first + min(count, 1000)):
            try:
                name, own = self._own(number, several=count > 1)
            except _UnknownExpressionError as exc:
                self._leave("command", f"nothing is known of {exc}", "Write the value, and import again")
                return
            except ValueError:
                self._leave("command", "it or its environment cannot be split", "Close its quotations")
                return
            if own is not None:
                self.found.add(f"[{self.section}]", name, {**own, **common})

    def _leave(self, key: str, why: str, instead: str = "") -> None:
        self.found.leave(f"[{self.section}]", key, why, instead)

    def _leave_rest(self) -> None:
        for key, value in self.keys.items():
            is_default = key in {"stdout_logfile", "stderr_logfile"} and value.upper() == "AUTO"
            if key not in CARRIED and not is_default:
                self._leave(key, *LEFT_OF_PROGRAM.get(key, ("there is no such key here", "")))
        if self.keys.get("stopasgroup", "").lower() in FALSE:
            self._leave("stopasgroup", "the stop signal always goes to the process group")

    def _own(self, number: int, *, several: bool) -> tuple[str, Table | None]:
        """What may differ between the processes of one program."""
        values = self._values(number)
        pattern = self.keys.get("process_name", "%(program_name)s_%(process_num)02d") if several else "%(program_name)s"
        name = expand(pattern, values)
        folder = self.keys.get("directory") or self.daemon.get("directory") or self.found.folder
        cwd = self.found.absolute(expand(folder, values))
        words = shlex.split(expand(self.keys.get("command", ""), values))
        if not words:
            self._leave("command", "there is none")
            return name, None
        if "/" in words[0] and not words[0].startswith("\0"):
            words[0] = os.path.normpath(os.path.join(cwd, os.path.expanduser(words[0])))
        table: Table = {"command": [written(word) for word in words], "cwd": written(cwd)}
        variables = {
            **environment(expand(self.daemon.get("environment", ""), values)),
            **environment(expand(self.keys.get("environment", ""), values)),
        }
        if variables:
            table["env"] = {key: written(value) for key, value in variables.items()}
        return name, table

    def _values(self, number: int) -> dict[str, object]:
        """What ``%(name)s`` stands for in one process of the program."""
        program = self.section.removeprefix("program:").strip()
        return {
            "here": self.found.folder,
            "program_name": program,
            "group_name": program,
            "process_num": number,
            "host_node_name": socket.gethostname(),
            "numprocs": self._number("numprocs", 1),
        }

    def _common(self) -> Table:
        """What is the same for all processes of the program."""
        table: Table = self._account()
        if self.keys.get("autostart", "").lower() in FALSE:
            table["enabled"] = False
        table["restart"] = self._restart()
        table |= {key: value for key, value in (("stop", self._stop()), ("log", self._log())) if value}
        return table

    def _account(self) -> Table:
        """User and umask, which only a daemon that runs as root can give."""
        table: Table = {}
        user = self.keys.get("user")
        if user is not None and os.geteuid() == 0 and _is_user(user):
            table["user"] = int(user) if _is_number(user) else user
        elif user is not None and user not in {getpass.getuser(), str(os.geteuid())}:
            why = "only a daemon that runs as root can change it" if _is_user(user) else "there is no such user here"
            self._leave("user", why, "Drop it, or run the daemon as root")
        if "umask" in self.keys and os.geteuid() == 0:
            table["umask"] = self.keys["umask"]
        elif "umask" in self.keys:
            self._leave("umask", "only a daemon that runs as root can change it", "Set it where the daemon is started")
        return table

    def _restart(self) -> Table:
        policies = {"true": "always", "false": "never"}
        table: Table = {"policy": policies.get(self.keys.get("autorestart", "").lower(), "on-failure")}
        codes = [int(code) for code in re.findall(r"[0-9]+", self.keys.get("exitcodes", "")) if int(code) < 256]
        if codes:
            table["success_exit_codes"] = codes
        if FATAL_EXIT_CODE in codes:
            table["fatal_exit_codes"] = []
        if "startsecs" in self.keys:
            table["min_uptime"] = f"{self._number('startsecs', 1)}s"
        if "startretries" in self.keys:
            table["max_restarts"] = self._number("startretries", 3)
        return table

    def _stop(self) -> Table:
        table: Table = {}
        if "stopsignal" in self.keys:
            name = f"SIG{self.keys['stopsignal'].upper().removeprefix('SIG')}"
            if name in signal.Signals.__members__:
                table["signal"] = name
            else:
                why = f"{self.keys['stopsignal']!r} is not the name of one signal"
                self._leave("stopsignal", why, "Choose one: stop.signal")
        if "stopwaitsecs" in self.keys:
            table["grace"] = f"{self._number('stopwaitsecs', 10)}s"
        return table

    def _log(self) -> Table:
        table: Table = {}
        if "stdout_logfile_maxbytes" in self.keys:
            match = re.fullmatch(r"([0-9]+)(|kb|mb|gb)", self.keys["stdout_logfile_maxbytes"].lower())
            if match is None or int(match[1]) == 0:
                self._leave("stdout_logfile_maxbytes", "a log always has a limit", "Choose one: log.max_size")
            else:
                table["max_size"] = f"{match[1]}{SIZES[match[2]]}"
        if "stdout_logfile_backups" in self.keys:
            table["keep"] = min(self._number("stdout_logfile_backups", 10), 1000)
        return table

    def _number(self, key: str, default: int) -> int:
        value = self.keys.get(key)
        if value is None:
            return default
        if not re.fullmatch(r"[0-9]{1,6}", value.strip()):
            self._leave(key, f"{value!r} is no whole number", f"{default} stands in its place")
            return default
        return int(value)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _is_user(name: str) -> bool:
    try:
        return bool(pwd.getpwuid(int(name)) if _is_number(name) else pwd.getpwnam(name))
    except (KeyError, OverflowError):
        return False
