"""``stigmerd``: the daemon in the foreground. Reads its arguments, takes the home, and hands over."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from stigmerd import __version__
from stigmerd.daemon.log import LEVELS, say
from stigmerd.daemon.start import BACKGROUND, INHERITANCE, PRIVATE, Inheritance, Start, StartError

if TYPE_CHECKING:
    from stigmerd.adapters.disk.store import Home


def run(arguments: tuple[str, ...]) -> int:
    """Run the daemon, with the signals as ``reset_signals`` leaves them. Returns its exit code."""
    if sys.platform not in {"linux", "darwin"}:
        say(f"this platform ({sys.platform}) is not supported: stigmerd runs on Linux and macOS")
        return 2
    options = _parse(arguments)
    environment = dict(os.environ)
    inherited = environment.get(INHERITANCE)
    background = BACKGROUND in environment
    for name in PRIVATE:
        environment.pop(name, None)
    return _start_or_check(options, arguments, environment, inherited, foreground=not background)


EXAMPLES = """\
examples:
  stigmerd                                        as a service manager runs it
  stigmerd --home /srv/stack --log-format json
  stigmer server                                  in the background

SIGTERM, SIGINT and SIGQUIT stop everything in order, SIGHUP reloads. See: stigmer --help
"""


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="stigmerd",
        description="Supervise this home's components in the foreground.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXAMPLES,
    )
    parser.add_argument("--home", metavar="DIR", help="where everything is kept (default: $STIGMER_HOME or ~/.stigmer)")
    parser.add_argument("--config", metavar="FILE", help="the configuration (default: stigmer.toml in the home)")
    parser.add_argument("--log-format", choices=("text", "json"), default="text", help="how log lines look")
    parser.add_argument("--log-level", choices=tuple(LEVELS), help="what is logged (default: info)")
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"stigmerd {__version__}")
    return parser.parse_args(arguments)


def _start_or_check(
    options: argparse.Namespace,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    inherited: str | None,
    *,
    foreground: bool,
) -> int:
    from stigmerd.adapters.disk.store import Home, HomeError, default_home
    from stigmerd.daemon.own_process import heed_signals

    os.environ.pop(INHERITANCE, None)
    try:
        home = Home.at(default_home(environment) if options.home is None else options.home)
    except HomeError as exc:
        say(str(exc))
        return 2
    try:
        if options.check:
            heed_signals()
            return _check(home, options.config, environment)
        home.prepare()
        start = _take(home, options, arguments, environment, inherited, foreground=foreground)
    except HomeError as exc:
        say(str(exc))
        return 1
    return _supervise(start)


def _take(
    home: Home,
    options: argparse.Namespace,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    inherited: str | None,
    *,
    foreground: bool,
) -> Start:
    """Take the home, or over from the program that this process was before.

    Raises:
        HomeError: another daemon has it, or its lock cannot be used.
    """
    from stigmerd.daemon.own_process import raise_nofile

    inheritance = Inheritance.from_text(inherited) if inherited is not None else None
    start = Start(
        home=home,
        config=os.path.abspath(options.config) if options.config is not None else None,
        log_format=options.log_format,
        log_level=options.log_level,
        environment=environment,
        children_nofile=inheritance.nofile if inheritance else raise_nofile(),
        lock=inheritance.lock if inheritance else home.take_lock(),
        listener=socket.socket(fileno=inheritance.listener) if inheritance else None,
        arguments=tuple(arguments),
        foreground=foreground,
    )
    for fd in (inheritance.lock, inheritance.listener) if inheritance else ():
        os.set_inheritable(fd, False)
    return start


def _supervise(start: Start) -> int:
    """Run the daemon to its end. Returns its exit code."""
    import trio

    from stigmerd.adapters.disk.output import DAEMON, LogFiles
    from stigmerd.daemon import log as daemon_log
    from stigmerd.daemon.daemon import Daemon
    from stigmerd.daemon.own_process import ignore_signals, outlast_signals

    logs = LogFiles(start.home)
    logs.recover()
    own_log = daemon_log.set_up(
        lambda: logs.open_for_child(DAEMON),
        form=start.log_format,
        level=start.log_level or "info",
        foreground=start.foreground,
    )

    async def run_daemon() -> int:
        return await Daemon(start, logs, own_log).run()

    outlast_signals()
    try:
        return trio.run(run_daemon)
    except (StartError, BaseExceptionGroup) as exc:
        error = _start_error(exc)
        if error is None:
            raise
        for sentence in str(error).splitlines():
            daemon_log.log.error("%s", sentence)
        if not start.foreground:
            say(str(error))
        return error.code
    finally:
        ignore_signals()
        # A thread that hangs in the kernel keeps this process from going, but not the home from the next daemon.
        os.close(start.lock)


def _check(home: Home, config: str | None, environment: Mapping[str, str]) -> int:
    """Look at the home, load the configuration and nothing else: what a daemon asks of the program that is
    to replace it."""
    from stigmerd.adapters.disk.store import HomeError
    from stigmerd.config.load import load_stack
    from stigmerd.config.problems import ConfigError

    try:
        home.check()
        load_stack(config, home=home.path, environ=environment)
    except (ConfigError, HomeError) as exc:
        say(str(exc))
        return 2
    return 0


def _start_error(raised: BaseException) -> StartError | None:
    """The error of the start in what the nurseries of the daemon raised, or None where a bug is in it too."""
    first = raised
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    is_alone = not isinstance(raised, BaseExceptionGroup) or raised.split(StartError)[1] is None
    return first if isinstance(first, StartError) and is_alone else None
