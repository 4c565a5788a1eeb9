"""How one value of the file becomes a value of the core: durations, sizes, commands, signals, addresses.

Each reader takes what TOML gave and a function that fills in ``${}``, and raises
:class:`~stigmerd.config.problems.RefusedError` with advice.
"""

from __future__ import annotations

import math
import re
import signal
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

from stigmerd.config.interpolate import split
from stigmerd.config.problems import RefusedError, quoted
from stigmerd.core.spec import PROBE_CEILING

Fill = Callable[[str], str]
"""Fills in ``${}``."""

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
SIZES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}

LONGEST = 1e9
"""Seconds, some 31 years: longer than any duration that is meant."""
LARGEST = 2**63 - 1
"""What TOML promises of a whole number."""

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s?(B|KiB|MiB|GiB)")
_HOST_PORT = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%]+[^\]]*)\]|(?P<host>[^\s:/\[\]]+)):(?P<port>[0-9]{1,5})")

_DURATION_ADVICE = 'give a number of seconds or a string, such as "500ms", "10s", "10m" or "1h"'


def seconds(value: object, fill: Fill) -> float:
    """A duration of zero or more."""
    if isinstance(value, str):
        number, unit = _measured(_DURATION, fill(value), _DURATION_ADVICE)
        # Division by 1000 rounds once; a multiplication by 0.001 would round twice.
        found = number / 1000 if unit == "ms" else number * UNITS[unit]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        found = _finite(value)
    else:
        raise RefusedError(_DURATION_ADVICE)
    if not 0 <= found <= LONGEST:
        raise RefusedError('give a duration of zero or more, such as "10s"' if found < 0 else "give less than 30 years")
    return found


def _measured(pattern: re.Pattern[str], text: str, advice: str) -> tuple[float, str]:
    match = pattern.fullmatch(text)
    if match is None:
        raise RefusedError(advice)
    return float(match[1]), match[2]


def _finite(value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RefusedError("give a finite number")
    return number


def positive_seconds(value: object, fill: Fill) -> float:
    """A duration of more than zero."""
    found = seconds(value, fill)
    if found == 0:
        raise RefusedError('give a positive duration, such as "10s"')
    return found


def probe_timeout(value: object, fill: Fill) -> float:
    """A duration under the hard ceiling of a probe."""
    found = seconds(value, fill)
    if not 0 < found <= PROBE_CEILING:
        raise RefusedError("give more than 0 and at most 1 s: no probe attempt outlives one second")
    return found


def recovery(value: object, fill: Fill) -> float | None:
    """``"off"``, or a duration of more than zero."""
    if isinstance(value, str) and fill(value) == "off":
        return None
    try:
        return positive_seconds(value, fill)
    except RefusedError as refused:
        raise RefusedError(f'{refused.advice}, or "off"', said=refused.said) from None


def size(value: object, fill: Fill) -> int:
    """Bytes, one or more."""
    advice = 'give a number of bytes or a string, such as "512KiB", "10MiB" or "1GiB"'
    if isinstance(value, str):
        number, unit = _measured(_SIZE, fill(value), advice)
        found = int(_finite(number * SIZES[unit]))
    elif isinstance(value, int) and not isinstance(value, bool):
        found = value
    else:
        raise RefusedError(advice)
    if not 1 <= found <= LARGEST:
        raise RefusedError('give a positive size, such as "10MiB"' if found < 1 else "give less than 8 EiB")
    return found


def factor(value: object, fill: Fill) -> float:
    """A number of one or more."""
    if isinstance(value, bool) or not isinstance(value, int | float) or _finite(value) < 1:
        raise RefusedError("give a number of 1 or more")
    return float(value)


def fraction(value: object, fill: Fill) -> float:
    """A number from zero to one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= _finite(value) <= 1:
        raise RefusedError("give a number from 0 to 1")
    return float(value)


def string(value: object, fill: Fill) -> str:
    """A string that a program, a path or a variable can carry."""
    if not isinstance(value, str):
        raise RefusedError("give a string, in quotes")
    filled = fill(value)
    if "\0" in filled:
        raise RefusedError("take it out", said="holds a NUL character")
    return filled


def text(value: object, fill: Fill) -> str:
    """A string with something in it."""
    filled = string(value, fill)
    if not filled:
        raise RefusedError("give at least one character, or leave the key out")
    return filled


def command_words(value: object) -> list[str]:
    """The words of a command as the file has them: a list as it is, a string split."""
    advice = 'give a list of strings, such as ["server", "--port", "80"], or one string'
    words = split(value) if isinstance(value, str) else value
    if not isinstance(words, list):
        raise RefusedError(advice)
    for word in words:
        if not isinstance(word, str):
            raise RefusedError("write it in quotes", said=f"holds {quoted(word)}, which is no string")
    if not words or not words[0]:
        raise RefusedError("name the program to run", said="names no program")
    return words


def command(value: object, fill: Fill) -> tuple[str, ...]:
    """An argv."""
    words = tuple(string(word, fill) for word in command_words(value))
    if not words[0]:
        raise RefusedError("name the program to run", said="names no program")
    return words


def stop_signal(value: object, fill: Fill) -> str:
    """The name of a signal that can end a process, with its SIG."""
    advice = 'give the name of a signal, such as "SIGTERM"'
    if not isinstance(value, str):
        raise RefusedError(advice)
    name = fill(value).upper()
    name = name if name.startswith("SIG") else f"SIG{name}"
    try:
        found = signal.Signals[name].name
    except KeyError:
        raise RefusedError(advice) from None
    if found in {"SIGSTOP", "SIGTSTP", "SIGCONT", "SIGCHLD"}:
        raise RefusedError('it ends no process: give one that does, such as "SIGTERM"')
    return found


def file_mode_mask(value: object, fill: Fill) -> int:
    """A umask: a whole number, or a string of octal digits."""
    advice = 'give octal digits, such as "022" or 0o022'
    if isinstance(value, str):
        digits = fill(value)
        if not re.fullmatch(r"(0o)?[0-7]{1,4}", digits):
            raise RefusedError(advice)
        value = int(digits, 8)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 0o777:
        raise RefusedError(advice)
    return value


def account(value: object, fill: Fill) -> str | int:
    """The name or the number of a user or a group."""
    if isinstance(value, str):
        return text(value, fill)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32 - 1:
        raise RefusedError("give a name or a number")
    return value


def address(value: object, fill: Fill) -> str:
    """``HOST:PORT``, with brackets around an IPv6 address."""
    filled = string(value, fill)
    host_and_port(filled)
    return filled


def grpc_address(value: object, fill: Fill) -> str:
    """``HOST:PORT`` or ``unix:PATH``."""
    filled = string(value, fill)
    if filled.startswith("unix:") and len(filled) > len("unix:"):
        return filled
    try:
        host_and_port(filled)
    except RefusedError as refused:
        raise RefusedError(f"{refused.advice}, or unix:PATH") from None
    return filled


def host_and_port(filled: str) -> tuple[str, int]:
    """The two parts of an address."""
    match = _HOST_PORT.fullmatch(filled)
    if match is None or not 1 <= int(match["port"]) <= 65535:
        raise RefusedError("give HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080")
    return match["v6"] or match["host"], int(match["port"])


def url(value: object, fill: Fill) -> str:
    """An http or https address."""
    advice = "give a full address, such as http://127.0.0.1:8080/health"
    filled = string(value, fill)
    try:
        parts = urllib.parse.urlsplit(filled)
        port = parts.port
    except ValueError:
        raise RefusedError(advice) from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0 or re.search(r"\s", filled):
        raise RefusedError(advice)
    if "@" in parts.netloc:
        raise RefusedError("put it into an Authorization header", said="holds a user or a password")
    return filled


def method(value: object, fill: Fill) -> str:
    """An HTTP method."""
    filled = string(value, fill)
    if not re.fullmatch(r"[A-Z]{1,16}", filled):
        raise RefusedError('give a method in capitals, such as "GET" or "HEAD"')
    return filled


def header_value(value: object, fill: Fill) -> str:
    """The value of an HTTP header. Source: RFC 9110, section 5.5."""
    filled = string(value, fill)
    if re.search(r"[\r\n\v\f]", filled):
        raise RefusedError("take it out", said="holds a line break")
    if filled != filled.strip(" \t"):
        raise RefusedError("take it out", said="begins or ends with a blank")
    return filled


def port_mapping(value: object, fill: Fill) -> str:
    """``[ADDRESS:]HOST:CONTAINER[/PROTOCOL]``, as ``docker run --publish`` has it."""
    filled = string(value, fill)
    if not re.fullmatch(r"(\S+:)?[0-9]{1,5}(-[0-9]{1,5})?:[0-9]{1,5}(-[0-9]{1,5})?(/(tcp|udp|sctp))?", filled):
        raise RefusedError('give HOST:CONTAINER, such as "8080:80"')
    return filled


def volume(value: object, fill: Fill) -> str:
    """``SOURCE:TARGET[:OPTIONS]``, as ``docker run --volume`` has it."""
    filled = string(value, fill)
    if not re.fullmatch(r"[^:]+:/[^:]*(:[A-Za-z,]+)?", filled):
        raise RefusedError('give SOURCE:TARGET, such as "data:/data" or "./files:/files:ro"')
    return filled


def container_name(value: object, fill: Fill) -> str:
    """A name that the Docker Engine accepts."""
    filled = string(value, fill)
    if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", filled):
        raise RefusedError('give letters, digits, "_", "." and "-"')
    return filled


def program_path(value: object, fill: Fill) -> str:
    """A program by its path, never by a bare name."""
    filled = string(value, fill)
    if "/" not in filled:
        raise RefusedError('give its path, such as "/opt/stigmer/bin/stigmer": it is never looked up on PATH')
    return filled


READERS: Mapping[str, Callable[[Any, Fill], object]] = {
    reader.__name__: reader
    for reader in (
        seconds, positive_seconds, probe_timeout, recovery, size, factor, fraction, string, text, command,
        stop_signal, file_mode_mask, account, address, grpc_address, url, method, header_value, port_mapping,
        volume, container_name, program_path,
    )
}  # fmt: skip
"""The readers by the name that the schema calls them."""
