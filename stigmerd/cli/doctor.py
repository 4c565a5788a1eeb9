"""``doctor``: looks at everything that supervision stands on, and says what to do about it.

Looks only. Each check is one function that returns findings.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import socket
import sys
from collections.abc import Iterator
from typing import NamedTuple

from stigmerd.adapters.store import Home, HomeError, default_home, read_state
from stigmerd.cli.containers import engine_version
from stigmerd.cli.errors import FAILED, NOT_RUNNING, OK, CommandError
from stigmerd.cli.escape import escape_line
from stigmerd.cli.paint import Line, Span, line, paint, wants_colour
from stigmerd.cli.reach import fetch_status, hint, reached
from stigmerd.cli.times import duration_text, size_text
from stigmerd.config.load import load_stack
from stigmerd.config.problems import ConfigError
from stigmerd.core.spec import ContainerSpec, ProcessSpec, StackSpec
from stigmerd.core.status import DaemonDocument
from stigmerd.engine.ports import EngineUnavailableError

OLDEST_KERNEL = (5, 4)
ENOUGH_DISK = 256 * 1024 * 1024
ENOUGH_DESCRIPTORS = 4096

GOOD, FAIR, BAD = "good", "busy", "bad"
SYMBOLS = {GOOD: "✓", FAIR: "!", BAD: "✗"}


class Finding(NamedTuple):
    """One thing that was looked at. ``advice`` is what to do, where there is something to do."""

    level: str
    subject: str
    sentence: str
    advice: str = ""


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
    yield _platform()
    yield from _guarantees()
    yield from _limits()
    yield from _home(home)
    daemon, finding = _daemon(home)
    yield finding
    stack, configuration = _configuration(home, daemon)
    yield configuration
    if stack is not None:
        yield from _programs(stack)
        yield from _ports(stack, is_running=daemon is not None)
        yield from _docker(stack)


def _render(finding: Finding) -> list[Line]:
    symbol = Span(f"{SYMBOLS[finding.level]} ", finding.level)
    lines = [line(symbol, Span(f"{finding.subject}: ", "strong"), escape_line(finding.sentence))]
    return [*lines, line(f"  {escape_line(finding.advice)}")] if finding.advice else lines


def _platform() -> Finding:
    release = platform.release()
    said = f"{platform.system()} {release}, Python {platform.python_version()}"
    if sys.platform == "linux":
        numbers = release.replace("-", ".").split(".")[:2]
        if all(part.isdigit() for part in numbers) and tuple(map(int, numbers)) < OLDEST_KERNEL:
            return Finding(BAD, "platform", said, "stigmerd needs Linux 5.4 or later")
    return Finding(GOOD, "platform", said)


def _guarantees() -> Iterator[Finding]:
    """What this platform lets the daemon prove about processes."""
    if hasattr(os, "pidfd_open"):
        yield Finding(GOOD, "identity", "processes are held by pidfd: no signal goes to a stranger")
    else:
        yield Finding(FAIR, "identity", "no pidfd here: processes are told apart by start time and environment")
    if sys.platform != "linux":
        return
    folder = _own_cgroup()
    if folder is not None and os.access(folder, os.W_OK):
        yield Finding(GOOD, "descendants", f"cgroup v2 is ours to use ({folder})")
    else:
        yield Finding(
            FAIR,
            "descendants",
            "no writable cgroup v2 folder: descendants are found as subreaper and by their environment",
            "Under systemd: systemd-run --user --scope -p Delegate=yes stigmerd",
        )


def _own_cgroup() -> str | None:
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as lines:
            path = next((text[3:].strip() for text in lines if text.startswith("0::")), None)
    except OSError:
        return None
    return None if path is None else os.path.join("/sys/fs/cgroup", path.lstrip("/"))


def _limits() -> Iterator[Finding]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < ENOUGH_DESCRIPTORS:
        yield Finding(FAIR, "descriptors", f"at most {hard} open files", "Raise it with: ulimit -Hn 65536")
    else:
        yield Finding(GOOD, "descriptors", f"at most {'any number of' if hard < 0 else hard} open files")


def _home(home: Home) -> Iterator[Finding]:
    try:
        home.check()
    except HomeError as exc:
        yield Finding(BAD, "home", str(exc))
        return
    if not home.exists():
        yield Finding(GOOD, "home", f"{home.path} is not there yet; the first start makes it")
        return
    yield Finding(GOOD, "home", f"{home.path} is ours alone")
    yield from (Finding(FAIR, "state", problem) for problem in read_state(home).problems)
    free = shutil.disk_usage(home.path).free
    if free < ENOUGH_DISK:
        yield Finding(BAD, "disk", f"{size_text(free)} free at {home.path}", "Make room: logs and state need it")
    else:
        yield Finding(GOOD, "disk", f"{size_text(free)} free")


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
    said = f"version {daemon.version}, pid {daemon.pid}, up {duration_text(daemon.uptime)}"
    return daemon, Finding(FAIR if problems else GOOD, "daemon", "; ".join([said, *problems]))


def _configuration(home: Home, daemon: DaemonDocument | None) -> tuple[StackSpec | None, Finding]:
    """What the daemon runs, or would run."""
    path = daemon.config if daemon is not None else None
    try:
        stack = load_stack(path, home=home.path, environ=os.environ)
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
    if is_running:
        return
    for spec in stack.components.values():
        for port in spec.ports:
            if _is_listened_on(port):
                advice = f"Find its owner with: lsof -i :{port}"
                yield Finding(FAIR, spec.name, f"port {port} is taken: it would wait for it", advice)


def _is_listened_on(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _docker(stack: StackSpec) -> Iterator[Finding]:
    """Whether the Docker Engine answers, where a component needs it."""
    users = [name for name, spec in stack.components.items() if isinstance(spec.runs, ContainerSpec)]
    if not users:
        return
    try:
        version = engine_version()
    except EngineUnavailableError as exc:
        required = any(not stack.components[name].optional for name in users)
        advice = f"{', '.join(users)} waits for it. Start Docker, or join its group: usermod -aG docker USER"
        yield Finding(BAD if required else FAIR, "docker", str(exc), advice)
    else:
        yield Finding(GOOD, "docker", f"the engine answers, version {version}")
