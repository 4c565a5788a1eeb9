"""How a command ends when it cannot do its work: one sentence for stderr, and an exit code."""

from __future__ import annotations

from collections.abc import Iterable

from stigmerd.cli.escape import quoted

OK = 0
FAILED = 1
USAGE = 2
NOT_RUNNING = 3
SILENT = 4


class CommandError(Exception):
    """The command ends here. The message says what, where and what to do, in one or two lines."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def usage_error(message: str) -> CommandError:
    """What was typed makes no sense."""
    return CommandError(message, USAGE)


def check_names(names: Iterable[str], known: Iterable[str]) -> None:
    """Refuse a name that no component has, with the nearest one that exists.

    Raises:
        CommandError: exit code 2.
    """
    known = tuple(known)
    for name in names:
        if name not in known:
            raise usage_error(unknown_component(name, known))


def unknown_component(name: str, known: Iterable[str]) -> str:
    """The sentence about a name that no component has."""
    from difflib import get_close_matches  # only on the way to an error: it costs start-up time

    known = tuple(known)
    if name == "all":
        return "No component is called 'all': leave the names out, and everything is meant."
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"There is no component {quoted(name)}. Did you mean {quoted(near[0])}?"
    choice = f"There are: {', '.join(known)}." if known else "The stack has no components."
    return f"There is no component {quoted(name)}. {choice}"
