"""The commands of ``stigmer`` and their options. What they do is in one module per group.

The modules are imported by the command that needs them: an operator waits for every import.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, CycloptsError, Group, Parameter, UnusedCliTokensError

from stigmerd import __version__
from stigmerd.cli.errors import usage_error
from stigmerd.cli.escape import escape_line, quoted

if TYPE_CHECKING:
    from cyclopts.completion import CompletionContext


def _complete_names(context: CompletionContext) -> Mapping[str, str]:
    """The components that may be named next, for a shell that completes."""
    from stigmerd.cli.complete import component_names

    home = context.get("--home")
    named = {token.value for token in context.argument.tokens}
    known = component_names(home.raw if home else None)
    return {name: state for name, state in known.items() if name not in named}


def _complete_event(_: CompletionContext) -> Sequence[str]:
    from stigmerd.core.event import EVENTS

    return sorted(EVENTS)


def _complete_reason(_: CompletionContext) -> Sequence[str]:
    from stigmerd.core.event import REASONS

    return sorted(REASONS)


def _check_names(_: object, names: str | Sequence[str]) -> None:
    """Refuse what no component can be called, before anybody is asked about it."""
    for name in [names] if isinstance(names, str) else names:
        # Capitals and dots are let through: they are near to a name, which the answer then gives.
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,63}", name):
            shown = quoted(name if len(name) <= 63 else f"{name[:60]}...")
            raise usage_error(f"{shown} is no name of a component: those are 1 to 63 of a-z, 0-9, '_' and '-'.")


Name = Annotated[str, Parameter(completer=_complete_names, validator=_check_names)]
HomeOption = Annotated[
    str | None,
    Parameter(name="--home", metavar="DIR", help="The daemon's home. Default: $STIGMER_HOME, else ~/.stigmer."),
]
ConfigOption = Annotated[
    Path | None,
    Parameter(name="--config", metavar="FILE", help="The configuration. Default: stigmer.toml in the home."),
]
TimeoutOption = Annotated[
    str | None, Parameter(name="--timeout", metavar="TIME", help="How long to wait, such as 30 or 2m. Default: 60 s.")
]
GraceOption = Annotated[
    str | None, Parameter(name="--timeout", metavar="TIME", help="The longest grace that any of them gets.")
]
NowOption = Annotated[bool, Parameter(name="--now", negative="", help="Kill at once, without the grace.")]
JsonOption = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]
QuietOption = Annotated[bool, Parameter(name=["--quiet", "-q"], negative="", help="Print errors only.")]
FollowOption = Annotated[
    bool, Parameter(name=["--follow", "-f"], negative="", help="Go on with what is new, until Ctrl-C.")
]
SinceOption = Annotated[
    str | None,
    Parameter(name="--since", metavar="TIME", help="Only what is younger: 10m, 2h30m, or 2026-01-22T04:00:00Z."),
]

USUAL_SIGNALS = ("HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "WINCH")

RUN = Group.create_ordered("Run")
LOOK = Group.create_ordered("Look")
SET_UP = Group.create_ordered("Set up")

app = App(
    name="stigmer",
    help="""Run a stack of processes and containers, see how it is, and ask why.

    **Examples**

        stigmer server                 # start everything, in the background
        stigmer server status          # how is it?
        stigmer server explain NAME    # why is it so?
        stigmer server --help          # all commands
    """,
    version=f"stigmer {__version__}",
    help_format="markdown",
    suppress_keyboard_interrupt=False,  # `main` says what goes on without us
    default_parameter=Parameter(show_default=False),
)
server = App(
    name="server",
    help="""The local stack: its daemon and its components. Without a command: start.

    **Examples**

        stigmer server
        stigmer server status --watch
        stigmer server logs NAME --follow
        stigmer server init --from docker-compose.yml
    """,
    help_epilogue=(
        "Exit codes: 0 done, or healthy; 1 failed, or unhealthy; 2 usage or configuration; "
        "3 the daemon is not running; 4 the daemon does not answer."
    ),
    version_flags=[],
)
app.command(server)


def run(arguments: Sequence[str]) -> int:
    """Parse the command line, carry it out, and return the exit code.

    Raises:
        CommandError: it could not be done, or was no command.
    """
    if "help" in arguments[:2]:  # `stigmer help`, `stigmer server help`, as other tools have it
        arguments = [*(word for word in arguments if word != "help"), "--help"]
    try:
        result = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except SystemExit as exc:
        if isinstance(exc.__context__, BrokenPipeError):  # how rich ends the program whose reader has gone
            raise exc.__context__ from None
        raise
    except UnusedCliTokensError as exc:
        raise usage_error(_unused(exc, arguments)) from exc
    except CycloptsError as exc:
        raise usage_error(f"{escape_line(str(exc))} See: {_help_of(arguments)}") from exc
    return result if isinstance(result, int) else 0


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _unused(error: UnusedCliTokensError, arguments: Sequence[str]) -> str:
    """What to say about a word that no command takes: without another command it is a misspelt one."""
    word = str((error.unused_tokens or [""])[0])
    if not {*app.resolved_commands(), *server.resolved_commands()}.isdisjoint(arguments[1:2]):
        return f"{quoted(word)} is one word too many. See: {_help_of(arguments)}"
    commands = [name for name in server.resolved_commands() if not name.startswith("-")]
    near = difflib.get_close_matches(word, commands, n=1, cutoff=0.5)
    guess = f"Did you mean: stigmer server {near[0]}?" if near else f"There are: {', '.join(commands)}."
    return f"There is no command {quoted(word)}. {guess}"


def _help_of(arguments: Sequence[str]) -> str:
    commands = {*app.resolved_commands(), *server.resolved_commands()}
    known = [word for word in arguments[:2] if word in commands and not word.startswith("-")]
    return " ".join(["stigmer", *known, "--help"])


@server.default
def start_all(
    *,
    home: HomeOption = None,
    config: ConfigOption = None,
    timeout: TimeoutOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> int:
    """Start the daemon in the background and everything it looks after, and show how it went."""
    return start(home=home, config=config, timeout=timeout, quiet=quiet, json=json)


@server.command(group=RUN)
def start(
    *names: Name,
    home: HomeOption = None,
    config: ConfigOption = None,
    timeout: TimeoutOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> int:
    """Start the daemon and everything it looks after, or just these components.

    **Examples**

        stigmer server start
        stigmer server start --config ./stigmer.toml
        stigmer server start workflow-runner

    Parameters
    ----------
    names
        Components to start at once, with those of their dependencies that are down.
    """
    from stigmerd.cli import lifecycle

    return lifecycle.start(names, home=home, config=_text(config), timeout=timeout, quiet=quiet, as_json=json)


@server.command(group=RUN)
def stop(
    *names: Name,
    home: HomeOption = None,
    timeout: GraceOption = None,
    now: NowOption = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> int:
    """Stop the daemon and everything, or just these components.

    Succeeds only when nothing of them is alive any more; else it names what is.

    **Examples**

        stigmer server stop
        stigmer server stop workflow-runner --timeout 5
        stigmer server stop --now

    Parameters
    ----------
    names
        Components to stop. The daemon and the others go on.
    """
    from stigmerd.cli import lifecycle

    return lifecycle.stop(names, home=home, timeout=timeout, now=now, quiet=quiet, as_json=json)


@server.command(group=RUN)
def restart(
    *names: Name,
    daemon: Annotated[
        bool,
        Parameter(name="--daemon", negative="", help="Replace the daemon's program and touch no component."),
    ] = False,
    home: HomeOption = None,
    timeout: TimeoutOption = None,
    now: NowOption = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> int:
    """Stop and start at once: these components, or all that are wanted up or have failed.

    **Examples**

        stigmer server restart workflow-runner
        stigmer server restart --daemon

    Parameters
    ----------
    names
        Components to restart. Dependents go on unless they ask to be restarted too.
    """
    from stigmerd.cli import lifecycle

    if daemon and names:
        raise usage_error("--daemon restarts the daemon alone: leave the names out.")
    if daemon:
        return lifecycle.restart_daemon(home=home, timeout=timeout, quiet=quiet, as_json=json)
    return lifecycle.restart(names, home=home, timeout=timeout, now=now, quiet=quiet, as_json=json)


@server.command(group=RUN)
def signal(
    sig: Annotated[str, Parameter(completer=lambda _: USUAL_SIGNALS)],
    /,
    *names: Name,
    home: HomeOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> int:
    """Send a signal to the main process of components. Not KILL or STOP: use stop.

    **Examples**

        stigmer server signal HUP stigmer-server

    Parameters
    ----------
    sig
        The signal by name, such as HUP or SIGUSR1.
    names
        The components.
    """
    from stigmerd.cli import lifecycle

    return lifecycle.signal(sig, names, home=home, quiet=quiet, as_json=json)


@server.command(group=RUN)
def wait(
    *names: Name,
    condition: Annotated[
        Literal["running", "ready", "stopped"], Parameter(name="--for", help="What to wait for.")
    ] = "running",
    home: HomeOption = None,
    timeout: TimeoutOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> int:
    """Wait until components are running, ready or stopped. Fails at once when one has failed.

    **Examples**

        stigmer server wait --for ready
        stigmer server wait stigmer-server --for ready --timeout 30s

    Parameters
    ----------
    names
        The components. Without: all that are enabled and not optional.
    """
    from stigmerd.cli import lifecycle

    return lifecycle.wait(
        names, condition=condition, home=home, timeout=timeout, quiet=quiet, as_json=json
    )


@server.command(group=LOOK)
def status(
    *names: Name,
    verbose: Annotated[
        bool, Parameter(name=["--verbose", "-v"], negative="", help="Add probes, budget, usage, command.")
    ] = False,
    watch: Annotated[
        bool, Parameter(name=["--watch", "-w"], negative="", help="Show it live, until q or Ctrl-C.")
    ] = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> int:
    """Show how every component is. Exit 0: all that is required is healthy.

    **Examples**

        stigmer server status
        stigmer server status workflow-runner --verbose
        stigmer server status --watch
        stigmer server status --json | jq .healthy

    Parameters
    ----------
    names
        The components to show and to judge. Without: all.
    """
    from stigmerd.cli import status as group

    if watch:
        from stigmerd.cli import watch as live

        return live.watch(names, home=home, verbose=verbose, as_json=json)
    return group.status(names, home=home, verbose=verbose, as_json=json)


@server.command(group=LOOK)
def logs(
    *names: Name,
    component: Annotated[
        tuple[str, ...],
        Parameter(
            name=["-c", "--component"],
            metavar="NAME",
            negative="",
            help="The same as NAME.",
            completer=_complete_names,
            validator=_check_names,
        ),
    ] = (),
    include_daemon: Annotated[
        bool, Parameter(name="--all", negative="", help="All components, and the daemon's own log.")
    ] = False,
    follow: FollowOption = False,
    no_follow: Annotated[
        bool, Parameter(name="--no-follow", negative="", help="End with what is there, on a terminal too.")
    ] = False,
    tail: Annotated[
        int | None,
        Parameter(name=["--tail", "-n"], metavar="N", help="How many of each log's last lines. Default: 50."),
    ] = None,
    since: SinceOption = None,
    grep: Annotated[
        str | None,
        Parameter(name="--grep", metavar="REGEX", help="Only lines in which this regular expression is found."),
    ] = None,
    previous: Annotated[
        bool, Parameter(name="--previous", negative="", help="Only what the life before the last one wrote.")
    ] = False,
    raw: Annotated[
        bool, Parameter(name="--raw", negative="", help="The bytes as they are: no escaping, no prefix.")
    ] = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> int:
    """Show what components wrote, several in the order of their times, and go on with what is new.

    **Examples**

        stigmer server logs
        stigmer server logs workflow-runner --tail 200 --no-follow
        stigmer server logs --all --since 10m --grep 'ERROR|panic'

    Parameters
    ----------
    names
        The components. Without: all.
    """
    from stigmerd.cli import logs as group

    wish = group.Wish(
        names=(*names, *component),
        include_daemon=include_daemon,
        follow=follow or (False if no_follow else None),
        tail=tail,
        since=since,
        grep=grep,
        previous=previous,
        raw=raw,
        as_json=json,
    )
    return group.logs(wish, home=home)


@server.command(group=LOOK)
def events(
    *names: Name,
    event: Annotated[
        tuple[str, ...],
        Parameter(
            name="--event",
            metavar="EVENT",
            negative="",
            help="Only these, such as exited or failed.",
            completer=_complete_event,
        ),
    ] = (),
    reason: Annotated[
        tuple[str, ...],
        Parameter(
            name="--reason",
            metavar="REASON",
            negative="",
            help="Only for these reasons, such as budget.",
            completer=_complete_reason,
        ),
    ] = (),
    follow: FollowOption = False,
    since: SinceOption = None,
    tail: Annotated[
        int | None, Parameter(name=["--tail", "-n"], metavar="N", help="How many of the last events. Default: all.")
    ] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> int:
    """Show what the daemon did and saw: every start, exit, verdict and restart, with its reason.

    **Examples**

        stigmer server events --since 1h
        stigmer server events workflow-runner -f
        stigmer server events --event exited --event failed
        stigmer server events --json | jq 'select(.uptime < 1)'

    Parameters
    ----------
    names
        Only events of these components.
    """
    from stigmerd.cli import events as group

    return group.events(
        names, kinds=event, reasons=reason, follow=follow, since=since, tail=tail, home=home, as_json=json
    )


@server.command(alias="why", group=LOOK)
def explain(name: Name, /, *, home: HomeOption = None, json: JsonOption = False) -> int:
    """Explain a component's last failure: what was seen, why, and what happens next.

    **Examples**

        stigmer server explain workflow-runner

    Parameters
    ----------
    name
        The component.
    """
    from stigmerd.cli import explain as group

    return group.explain(name, home=home, as_json=json)


@server.command(group=RUN)
def reload(
    *,
    dry_run: Annotated[
        bool, Parameter(name="--dry-run", negative="", help="Only tell what would change.")
    ] = False,
    home: HomeOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> int:
    """Apply a changed configuration. Everything is checked before anything is touched.

    Tells for each component which keys have changed, and whether it is restarted for them.

    **Examples**

        stigmer server reload --dry-run
        stigmer server reload
    """
    from stigmerd.cli import reload as group

    return group.reload(dry_run=dry_run, home=home, quiet=quiet, as_json=json)


@server.command(group=SET_UP)
def check(
    file: Annotated[Path | None, Parameter(name="--config", metavar="FILE")] = None,
    *,
    home: HomeOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> int:
    """Check a configuration without a daemon, and name every error with its place.

    **Examples**

        stigmer server check ./stigmer.toml

    Parameters
    ----------
    file
        The configuration. Without: stigmer.toml in the home.
    """
    from stigmerd.cli import config

    return config.check(_text(file), home=home, quiet=quiet, as_json=json)


@server.command(group=SET_UP)
def init(
    source: Annotated[Path | None, Parameter(name="--from", metavar="FILE")] = None,
    *,
    home: HomeOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> int:
    """Write a commented stigmer.toml from what is installed here, or from another tool's file.

    It never overwrites one. What cannot be carried over is listed here and at the top of the file.

    **Examples**

        stigmer server init
        stigmer server init --from Procfile
        stigmer server init --from docker-compose.yml
        stigmer server init --from /etc/supervisor/supervisord.conf

    Parameters
    ----------
    source
        A Procfile, a compose file or a supervisord.conf, whose services become components.
    """
    from stigmerd.cli import init as group

    return group.init(_text(source), home=home, quiet=quiet, as_json=json)


@server.command(group=SET_UP)
def schema(*, home: HomeOption = None) -> int:  # as every command has it, though no home is looked at
    """Print the JSON Schema of the configuration, for editors that complete and check.

    **Examples**

        stigmer server schema > stigmer.schema.json
    """
    from stigmerd.cli import config

    return config.schema()


@server.command(group=SET_UP)
def doctor(*, home: HomeOption = None, json: JsonOption = False) -> int:
    """Check home, permissions, socket, Docker, ports, limits and platform, and say what to do.

    **Examples**

        stigmer server doctor
    """
    from stigmerd.cli import doctor as group

    return group.doctor(home=home, as_json=json)


@app.command(name="completion", show=True)
def completion(shell: Literal["bash", "zsh", "fish"], /, *, home: HomeOption = None) -> int:
    """Print the completion script of a shell.

    **Examples**

        stigmer completion bash > ~/.local/share/bash-completion/completions/stigmer

    Parameters
    ----------
    shell
        The shell to complete in.
    """
    sys.stdout.write(app.generate_completion(shell=shell))
    return 0
