"""``doctor``: looks at everything that supervision stands on, and says what to do about it.

It changes nothing that stays. Each check is one function that returns findings.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

from stigmerd.adapters.disk.rotation import can_collapse
from stigmerd.adapters.disk.store import Home, HomeError, default_home, read_state
from stigmerd.cli.containers import engine_version
from stigmerd.cli.errors import FAILED, NOT_RUNNING, OK, CommandError
from stigmerd.cli.escape import escape_line
from stigmerd.cli.machine import BAD, FAIR, GOOD, Finding, look_at_machine
from stigmerd.cli.paint import Line, Span, line, paint, wants_colour
from stigmerd.cli.reach import fetch_status, hint, reached
from stigmerd.cli.reader import read_stack
from stigmerd.cli.times import duration_text, size_text
from stigmerd.config.problems import ConfigError
from stigmerd.core.spec import ContainerSpec, ProcessSpec, StackSpec
from stigmerd.core.status import DaemonDocument
from stigmerd.engine.ports import EngineUnavailableError

ENOUGH_DISK = 256 * 1024 * 1024
CLOCK_SLACK = 60.0
"""Seconds that the wall clock may lie behind what was written last."""

SYMBOLS = {GOOD: "✓", FAIR: "!", BAD: "✗"}


def doctor(*, home: str | None, as_json: bool) -> int:
    """Print all findings. Exit 1 when one of them keeps the stack from working."""
    try:
        place = Home.at(home if home is not None else default_home(os.environ))
    except HomeError as exc:
        raise CommandError(escape_line(str(exc))) from exc
    findings = [*_findings(place)]
    if as_json:
        levels = {GOOD: "ok", FAIR: "warning", BAD: "error"}
        sys.stdout.write(json.dumps([{**f._asdict(), "level": levels[f.level]} for f in findings]) + "\n")
    else:
        lines = [spans for finding in findings for spans in _render(finding)]
        sys.stdout.write(paint(lines, colour=wants_colour(sys.stdout)))
    return FAILED if any(finding.level == BAD for finding in findings) else OK


def _findings(home: Home) -> Iterator[Finding]:
    yield from look_at_machine(home.path)
    yield from _home(home)
    daemon, finding = _daemon(home)
    yield finding
    stack, configuration = _configuration(home, daemon)
    yield configuration
    yield _disk(home, stack)
    if stack is not None:
        yield from _programs(stack)
        yield from _ports(stack, is_running=daemon is not None)
    yield _docker(stack)


def _render(finding: Finding) -> list[Line]:
    symbol = Span(f"{SYMBOLS[finding.level]} ", finding.level)
    lines = [line(symbol, Span(f"{finding.subject}: ", "strong"), escape_line(finding.sentence))]
    return [*lines, line(f"  {escape_line(finding.advice)}")] if finding.advice else lines


def _home(home: Home) -> Iterator[Finding]:
    try:
        home.check()
    except HomeError as exc:
        yield Finding(BAD, "home", str(exc))
        return
    if not home.exists():
        yield _absent_home(home)
        return
    if not os.access(home.path, os.W_OK | os.X_OK):
        advice = f"Make it yours, or choose another with --home: chown -R {os.geteuid()} {home.path}"
        yield Finding(BAD, "home", f"{home.path} cannot be written", advice)
        return
    yield Finding(GOOD, "home", f"{home.path} is ours alone")
    yield from (Finding(FAIR, "state", problem) for problem in read_state(home).problems)
    yield from _written_in_the_future(home)
    yield from _rotation(home)


def _absent_home(home: Home) -> Finding:
    above = home.path
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if os.path.isdir(above) and os.access(above, os.W_OK | os.X_OK):
        return Finding(GOOD, "home", f"{home.path} is not there yet; the first start makes it")
    return Finding(BAD, "home", f"{home.path} cannot be made: {above} cannot be written", "Choose another with --home")


def _written_in_the_future(home: Home) -> Iterator[Finding]:
    """Whether the wall clock went back: what is younger would then stand before what is older."""
    try:
        written = os.stat(os.path.join(home.state, "events.jsonl")).st_mtime
    except OSError:
        return
    if written > time.time() + CLOCK_SLACK:
        said = f"the last event is of {duration_text(written - time.time())} in the future: the clock went back"
        yield Finding(FAIR, "clock", said, "Set it; until then --since shows too much or too little")


def _rotation(home: Home) -> Iterator[Finding]:
    if not os.path.isdir(home.logs):
        return
    try:
        collapses = can_collapse(home.logs)
    except OSError as exc:
        advice = "Make room there, or make it yours"
        yield Finding(BAD, "logs", f"{home.logs} cannot be written: {exc.strerror}", advice)
        return
    if collapses:
        yield Finding(GOOD, "logs", "are rotated under their writer without losing a byte")
    else:
        said = "this file system cannot cut a file at its head: what is written during a rotation may be lost"
        yield Finding(FAIR, "logs", said, "ext4 and xfs can: choose a home there with --home")


def _disk(home: Home, stack: StackSpec | None) -> Finding:
    """Room at the home, and whether it is enough for all logs at their largest."""
    above = home.path
    while not os.path.isdir(above):
        above = os.path.dirname(above)
    free = shutil.disk_usage(above).free
    said = f"{size_text(free)} free at {above}"
    if free < ENOUGH_DISK:
        return Finding(BAD, "disk", said, "Make room: logs and state need it")
    largest = sum((spec.log.keep + 2) * spec.log.max_size for spec in stack.components.values()) if stack else 0
    if largest > free:
        said = f"{said}; the logs may grow to {size_text(largest)}"
        return Finding(FAIR, "disk", said, "Make room, or lower log.max_size or log.keep in [defaults]")
    return Finding(GOOD, "disk", f"{said}; logs take at most {size_text(largest)}" if largest else said)


def _daemon(home: Home) -> tuple[DaemonDocument | None, Finding]:
    try:
        with reached(home) as client:
            daemon = fetch_status(client).daemon
    except CommandError as exc:
        return None, Finding(FAIR if exc.exit_code == NOT_RUNNING else BAD, "daemon", str(exc))
    if daemon is None:
        return None, Finding(BAD, "daemon", "it answers and says that it is not there")
    problems = list(daemon.problems)
    if daemon.config_stale:
        problems.append(f"the configuration has changed: {hint('stigmer server reload', home)}")
    said = f"version {daemon.version}, pid {daemon.pid}, up {duration_text(daemon.uptime)}, answers at {home.socket}"
    return daemon, Finding(FAIR if problems else GOOD, "daemon", "; ".join([said, *problems]))


def _configuration(home: Home, daemon: DaemonDocument | None) -> tuple[StackSpec | None, Finding]:
    """What the daemon runs, or would run."""
    path = daemon.config if daemon is not None else None
    try:
        stack = read_stack(path, home=home.path)
    except ConfigError as exc:
        count = len(exc.errors)
        more = f", and {count - 1} more" if count > 1 else ""
        check = f"stigmer server check {path}" if path is not None else "stigmer server check"
        advice = f"See all: {hint(check, home)}"
        return None, Finding(BAD, "configuration", f"{exc.errors[0].message}{more}", advice)
    source = stack.source or "none, so the reference stack runs"
    return stack, Finding(GOOD, "configuration", f"{source}, {len(stack.components)} components")


def _programs(stack: StackSpec) -> Iterator[Finding]:
    """Whether the command of every component is there."""
    for spec in stack.components.values():
        if not isinstance(spec.runs, ProcessSpec) or not spec.enabled:
            continue
        path = spec.runs.env.get("PATH", os.environ.get("PATH", os.defpath))
        program = spec.runs.argv[0]
        if shutil.which(program, path=path) is None:
            shown = spec.display_command[0] if spec.display_command else spec.name
            advice = "Install it, or correct the command in the configuration"
            yield Finding(FAIR if spec.optional else BAD, spec.name, f"there is no program {shown}", advice)


def _ports(stack: StackSpec, *, is_running: bool) -> Iterator[Finding]:
    """Whether a port that a component needs is taken already; while the stack runs, it is, by itself."""
    needed = [(spec.name, port) for spec in stack.components.values() for port in spec.ports]
    if is_running or not needed:
        return
    listeners = _listeners()
    for name, port in needed:
        if port in listeners:
            said = f"port {port} is taken by {listeners[port]}: it would wait for it"
            yield Finding(FAIR, name, said, f"Stop that, or give {name} another port")
    if free := [str(port) for _, port in needed if port not in listeners]:
        yield Finding(GOOD, "ports", f"free: {', '.join(free)}")


def _listeners() -> dict[int, str]:
    """Who listens on which port, as far as we may know."""
    import psutil  # only where ports are needed

    found: dict[int, str] = {}
    with suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr:
                found[connection.laddr.port] = _process_name(connection.pid)
    return found


def _process_name(pid: int | None) -> str:
    import psutil

    if pid is not None:
        with suppress(psutil.Error):
            return f"{psutil.Process(pid).name()} (pid {pid})"
    return "a process of another user"


def _docker(stack: StackSpec | None) -> Finding:
    """Whether the Docker Engine answers, and who needs it."""
    components = stack.components if stack else {}
    users = [name for name, spec in components.items() if isinstance(spec.runs, ContainerSpec)]
    try:
        return Finding(GOOD, "docker", f"the engine answers, version {engine_version()}")
    except EngineUnavailableError as exc:
        if not users:
            return Finding(GOOD, "docker", f"{exc}; no component needs it")
        required = any(not components[name].optional for name in users)
        advice = f"{', '.join(users)} waits for it. Start Docker, or join its group: usermod -aG docker USER"
        return Finding(BAD if required else FAIR, "docker", str(exc), advice)
