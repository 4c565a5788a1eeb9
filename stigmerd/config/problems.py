"""What is wrong with a configuration: where, what was found there, and what to do about it."""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

Path = tuple[str | int, ...]
"""The keys that lead to a value; a number is an index into a list."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SHOWN_LENGTH = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One error. ``path`` is the key path, "" for the file as a whole; ``message`` is the whole sentence."""

    path: str
    message: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        """The sentence alone."""
        return self.message


class ConfigError(Exception):
    """A configuration was refused. ``errors`` has every reason; ``source`` is the file, if there is one."""

    def __init__(self, errors: Iterable[Problem], *, source: str | None = None) -> None:
        self.errors = tuple(errors)
        self.source = source
        super().__init__("\n".join(self._located(error) for error in self.errors))

    def _located(self, error: Problem) -> str:
        return located(error, self.source)


def located(error: Problem, source: str | None) -> str:
    """The sentence after file, line and column, in the form that editors jump to."""
    place = ":".join(str(part) for part in (source, error.line, error.column) if part is not None)
    return f"{place}: {error.message}" if place and not error.message.startswith(place) else error.message


LOAD_BOUND = 10.0
"""Seconds for reading a configuration, which may lie on a file system that hangs."""


def unanswered(bound: float) -> ConfigError:
    """A configuration could not be read within so many seconds."""
    sentence = (
        f"the configuration could not be read within {bound:g} s: it, or an env_file, "
        "lies on a file system that does not answer"
    )
    return ConfigError([Problem(path="", message=sentence)])


class RefusedError(ValueError):
    """One value was refused. ``said`` replaces ``is VALUE`` in the sentence, where that says too little."""

    def __init__(self, advice: str, *, said: str | None = None) -> None:
        super().__init__(advice)
        self.advice = advice
        self.said = said


class Findings:
    """Collects what is wrong, in order, each once."""

    def __init__(self) -> None:
        self._found: dict[tuple[Path, str], None] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, path: Path, sentence: str) -> None:
        """Note that the value at ``path`` is wrong; ``sentence`` goes on after the path."""
        self._found[path, sentence] = None

    def extend(self, others: Findings, place: Callable[[Path], Path]) -> None:
        """Take over what ``others`` holds, each at the path that ``place`` gives it.

        A path that is moved to one with a finding already is the same error seen again.
        """
        known = {path for path, _ in self._found}
        for path, sentence in others._found:
            if place(path) == path or place(path) not in known:
                self.add(place(path), sentence)

    def problems(self, line_of: Callable[[Path], int | None]) -> tuple[Problem, ...]:
        """Everything that was found, in the order of the file."""
        found = (
            Problem(path=spell(path), message=_sentence(spell(path), sentence), line=line_of(path))
            for path, sentence in self._found
        )
        return tuple(sorted(found, key=lambda problem: problem.line or 0))


def _sentence(path: str, rest: str) -> str:
    return f"{path}{rest}" if rest.startswith(":") else f"{path} {rest}"


def spell(path: Path) -> str:
    """The path as it would be written in the file, such as ``component.web.ports[0]``."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            text += ("." if text else "") + (key if _BARE_KEY.fullmatch(key) else quoted(key))
    return text


def quoted(value: object) -> str:
    """A value as an error shows it: on one line, short, and harmless to a terminal."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
    elif isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, list):
        return "an empty list" if not value else "a list"
    else:
        text = _number(value)
    if len(text) > _SHOWN_LENGTH:
        text = f"{text[: _SHOWN_LENGTH - 4]}...{text[-1]}"
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)


def _number(value: object) -> str:
    try:
        return str(value)
    except ValueError:  # an integer of more than 4300 digits
        return "a very large number"


def kind_of(value: object) -> str:
    """What a value is, for an error that must not show it."""
    for kind, words in _KINDS:
        if isinstance(value, kind):
            return words
    return "a date or time"


_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (str, "a string"),
    (bool, "true or false"),
    ((int, float), "a number"),
    (list, "a list"),
    (dict, "a table"),
)


def nearest(word: str, known: Iterable[str]) -> str:
    """Say which known word is most like this one, or that there is none."""
    return _nearest(word[:64], tuple(known))


_ELSEWHERE = {
    **dict.fromkeys(("image", "build"), "container"),
    **dict.fromkeys(("cmd", "exec", "entrypoint", "args", "program", "run"), "command"),
    **dict.fromkeys(("environment", "envs", "vars"), "env"),
    **dict.fromkeys(("directory", "dir", "workdir", "working_dir", "working_directory", "chdir"), "cwd"),
    **dict.fromkeys(("autostart", "disabled"), "enabled"),
    **dict.fromkeys(("autorestart", "restart_policy", "backoff"), "restart"),
    **dict.fromkeys(("stopsignal", "stop_signal", "stop_grace_period", "shutdown", "kill"), "stop"),
    **dict.fromkeys(("health", "healthcheck", "health_check", "liveness_probe", "probe"), "liveness"),
    **dict.fromkeys(("ready", "readiness_probe"), "readiness"),
    **dict.fromkeys(("depends", "after", "requires", "needs"), "depends_on"),
    **dict.fromkeys(("interval", "period_seconds", "every"), "period"),
    **dict.fromkeys(("retries", "failures", "unhealthy_threshold"), "failure_threshold"),
    **dict.fromkeys(("start_period", "delay", "initial_delay_seconds"), "initial_delay"),
    **dict.fromkeys(("timeout", "timeout_seconds", "stopwaitsecs", "wait", "kill_after"), "grace"),
    **dict.fromkeys(("host", "port"), "address"),
    **dict.fromkeys(("path", "endpoint", "uri"), "url"),
    **dict.fromkeys(("max_retries", "startretries", "limit", "attempts"), "max_restarts"),
    **dict.fromkeys(("backups", "rotate", "count"), "keep"),
    **dict.fromkeys(("service", "services", "program", "process"), "component"),
}
"""What other tools call a key: like a misspelling, but by meaning."""


@functools.lru_cache(maxsize=256)
def _nearest(word: str, known: tuple[str, ...]) -> str:
    meant = _ELSEWHERE.get(word.lower())
    match = [meant] if meant in known else difflib.get_close_matches(word, known, n=1, cutoff=0.0)
    return f"the nearest is {quoted(match[0])}" if match else "there is none"


def either(words: Iterable[str]) -> str:
    """The words as a choice: ``"a", "b" or "c"``."""
    *first, last = (quoted(word) for word in words)
    return f"{', '.join(first)} or {last}" if first else last
