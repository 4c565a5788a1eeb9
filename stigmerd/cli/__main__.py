"""The entry of ``stigmer``: turns every way a command can end into an exit code, never a traceback.

``stigmer server status`` is asked by people and scripts all day. Its plain forms are recognized
here and answered without the command line parser, whose import takes longer than the answer.

A Python that is too old has to be able to read this file, to say so: it lacks the import of annotations that all
others begin with.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  (that is what it tells)
    sys.stderr.write("stigmer needs Python 3.11 or later, this is %d.%d.\n" % sys.version_info[:2])  # noqa: UP031
    sys.exit(2)

import os
from collections.abc import Sequence

INTERRUPTED = 130

LEFT_BY_CTRL_C = frozenset({"logs", "events", "status"})
"""Commands that go on until somebody has seen enough."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if sys.platform not in {"linux", "darwin"}:
        sys.stderr.write(f"stigmer runs on Linux and macOS, not on {sys.platform}.\n")
        return 2
    try:
        _make_streams_harmless()
        code = _run(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = _interrupted(words)
    except BrokenPipeError:
        _discard_output()  # the reader has seen enough
        code = 0
    except OSError as exc:
        code = _complain(exc)
        _discard_output()
    return code


def _interrupted(words: Sequence[str]) -> int:
    """Say that work goes on without this client; not where Ctrl-C is how one leaves."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # once is enough: the rest takes no time
    if not LEFT_BY_CTRL_C.intersection(words):
        sys.stderr.write("Interrupted. What the daemon was asked for goes on: stigmer server status\n")
    return INTERRUPTED


def _make_streams_harmless() -> None:
    """See to it that no locale, file name or closed descriptor ends a command with a traceback."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  (for as long as the process lives)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _run(words: list[str]) -> int:
    from stigmerd.cli.errors import CommandError

    try:
        plain = recognize_status(words)
        if plain is not None:
            from stigmerd.cli import status

            names, home, verbose, as_json = plain
            return status.status(names, home=home, verbose=verbose, as_json=as_json)
        from stigmerd.cli import app

        return app.run(hoist_home(words))
    except CommandError as exc:
        sys.stdout.flush()
        sys.stderr.write(f"{exc}\n")
        return exc.exit_code


def _complain(exc: OSError) -> int:
    """Say which file or terminal failed under a command."""
    from stigmerd.cli.escape import escape_line

    where = f"{exc.filename}: " if exc.filename else ""
    sys.stderr.write(escape_line(f"stigmer: {where}{exc.strerror or exc}") + "\n")
    return 1


def recognize_status(words: Sequence[str]) -> tuple[tuple[str, ...], str | None, bool, bool] | None:
    """Names, home, verbose and json of a plain ``server status``; None for anything else.

    Whatever is not exactly known goes to the real parser, which also knows how to complain.
    """
    if list(words[:2]) != ["server", "status"]:
        return None
    names: list[str] = []
    home: str | None = None
    flags = {"--verbose": False, "--json": False}
    rest = iter(words[2:])
    for word in rest:
        flag = "--verbose" if word == "-v" else word
        if flag in flags and not flags[flag]:
            flags[flag] = True
        elif word == "--home" and home is None:
            home = next(rest, None)
            if home is None or home.startswith("-"):
                return None
        elif word.startswith("--home=") and home is None:
            home = word.removeprefix("--home=")
        elif word.startswith("-") or not word:
            return None
        else:
            names.append(word)
    return tuple(names), home, flags["--verbose"], flags["--json"]


def hoist_home(words: Sequence[str]) -> list[str]:
    """Let ``--home`` stand before the command too: ``stigmer --home D server status``."""
    moved: list[str] = []
    rest = list(words)
    position = 0
    while position < len(rest):
        word = rest[position]
        if word == "--home" and position + 1 < len(rest):
            moved += rest[position : position + 2]
            del rest[position : position + 2]
        elif word.startswith("--home="):
            moved.append(rest.pop(position))
        elif word == "server":
            position += 1
        else:
            break
    if not moved:
        return rest
    options = next((number for number, word in enumerate(rest) if word.startswith("-")), len(rest))
    return [*rest[:options], *moved, *rest[options:]]


def _discard_output() -> None:
    """Let Python's own flush at exit find somewhere to write to."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
