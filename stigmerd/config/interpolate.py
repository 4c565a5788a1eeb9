"""``${NAME}``, ``${NAME:-default}`` and ``$$`` in the strings of a configuration.

What comes out of ``${}`` is a secret: it goes into what runs, and a display shows the text of the
file. So nothing here ever puts a substituted value into an error.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from stigmerd.config.problems import RefusedError

_PLACEHOLDER = re.compile(
    r"""
    (?P<dollar> \$\$ )
    | \$\{ (?P<name> [A-Za-z_][A-Za-z0-9_]* ) (?: :- (?P<default> [^}]* ) )? \}
    | (?P<broken> \$\{ )
    """,
    re.VERBOSE,
)


def substitute(text: str, environ: Mapping[str, str]) -> str:
    """Fill in what ``${}`` names. As in a shell, the default also stands in for an empty value.

    Any other ``$`` is left alone, so that ``sh -c 'echo $HOME'`` needs no escape.

    Raises:
        RefusedError: a name is missing, or a ``${`` is not the start of a placeholder.
    """
    if "$" not in text:
        return text
    return _PLACEHOLDER.sub(lambda match: _filled(match, environ), text)


def _filled(match: re.Match[str], environ: Mapping[str, str]) -> str:
    if match["dollar"]:
        return "$"
    name, default = match["name"], match["default"]
    if match["broken"] or (default is not None and "${" in default):
        raise RefusedError(
            'write ${NAME} or ${NAME:-default}, or "$${" for the text itself',
            said='holds a "${" that is no placeholder',
        )
    value = environ.get(name)
    if default is not None:
        return value or default.replace("$$", "$")
    if value is None:
        raise RefusedError(
            f"set it where the daemon is started, or write ${{{name}:-default}}",
            said=f"needs ${{{name}}}, which is not in the environment",
        )
    return value


def secrets(raw: object, environ: Mapping[str, str]) -> dict[str, str]:
    """What ``${}`` fills into the strings of a table: each value, and the text of the file that stands for it."""
    if isinstance(raw, str):
        found = [match for match in _PLACEHOLDER.finditer(raw) if match["name"]]
        return {environ[match["name"]]: match[0] for match in found if environ.get(match["name"])}
    inner = raw.values() if isinstance(raw, Mapping) else raw if isinstance(raw, list) else ()
    return {value: text for item in inner for value, text in secrets(item, environ).items()}


def display(text: str) -> str:
    """The text of the file, as it may be shown: ``${}`` stays, ``$$`` is the ``$`` that it stands for."""
    return _PLACEHOLDER.sub(lambda match: "$" if match["dollar"] else match[0], text)


def escape(text: str) -> str:
    """The text that :func:`substitute` turns into exactly this one. A ``$`` that stands for itself stays alone."""
    return re.sub(r"\$(?=[${])", "$$", text)


def split(text: str) -> list[str]:
    """Split like a shell would. A placeholder stays whole and unfilled, whatever it holds.

    Splitting comes before substitution, so a secret with a blank or a quote in it stays one word.

    Raises:
        RefusedError: a quotation is not closed, or there is a NUL character.
    """
    whole: list[str] = []

    def hide(match: re.Match[str]) -> str:
        whole.append(match[0])
        return f"\0{len(whole) - 1}\0"

    if "\0" in text:
        raise RefusedError("take it out", said="holds a NUL character")
    try:
        words = shlex.split(_PLACEHOLDER.sub(hide, text))
    except ValueError as exc:
        raise RefusedError("close the quotation, or give a list of strings", said="cannot be split") from exc
    return [re.sub("\0([0-9]+)\0", lambda match: whole[int(match[1])], word) for word in words]
