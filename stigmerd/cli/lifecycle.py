"""``start``, ``stop``, ``restart``, ``signal``, ``wait``, ``reload``: what changes the stack."""

from __future__ import annotations

import json
import signal as signals
import sys
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from stigmerd.adapters.disk.store import EventTail, Home, read_events
from stigmerd.cli.errors import FAILED, NOT_RUNNING, OK, SILENT, CommandError, usage_error
from stigmerd.cli.escape import escape, escape_line, quoted
from stigmerd.cli.launch import ensure_daemon
from stigmerd.cli.leftovers import stop_without_daemon
from stigmerd.cli.progress import TICK, Progress, call_and_show, shown
from stigmerd.cli.reach import (
    Answer,
    answers_in,
    daemon_log,
    explained,
    fetch_status,
    find_home,
    hint,
    open_client,
    other_protocol,
    parse_seconds,
    reached,
    to_document,
    warn_of_other_version,
)
from stigmerd.cli.status import last_known, print_status
from stigmerd.control.client import Client, ConnectionLostError, DeadlinePassedError, RemoteError
from stigmerd.core.describe import describe_lateness
from stigmerd.core.status import ComponentDocument, DaemonDocument, StatusDocument

START_TIMEOUT = 60.0
FAREWELL_TIMEOUT = 10.0
"""Seconds in which a daemon that has stopped everything ends itself."""
LINGER_TIMEOUT = 2.0
"""Seconds for the process of a daemon that has given its home back; one that hangs in the kernel stays longer."""

AT_REST = 1.5
"""Seconds in which a new daemon has begun none of what is stopped still: then it is so on purpose."""

UP = frozenset({"running", "completed"})
DOWN = frozenset({"stopped", "completed", "failed"})


# start


def start(
    names: Sequence[str], *, home: str | None, config: str | None, timeout: str | None, quiet: bool, as_json: bool
) -> int:
    """Start the daemon and all, or the named components of a running one."""
    place = find_home(home)
    limit = parse_seconds(timeout, "--timeout")
    if names:
        if config is not None:
            raise usage_error("--config is for the start of the daemon: leave the names out, or leave it out.")
        return _ask_up(place, "start", names, {"timeout": limit}, quiet=quiet, as_json=as_json)
    last = max((entry.seq for entry in read_events(place)[-1:]), default=0)
    with explained(place):
        is_new = ensure_daemon(place, config)
    if not is_new:
        return _already_running(place, config, quiet=quiet, as_json=as_json)
    with shown(quiet=quiet or as_json, all_is_new=True) as progress, EventTail(place, last) as history:
        missing = _wait_settled(place, history, progress, START_TIMEOUT if limit is None else limit)
    document, missing = _concluded(place, missing)
    if not quiet or as_json:
        print_status(document, as_json=as_json)
    return _complain(document, missing)


def _already_running(place: Home, config: str | None, *, quiet: bool, as_json: bool) -> int:
    with reached(place) as client:
        document = fetch_status(client)
    daemon = document.daemon
    said = f"The daemon is running already (pid {daemon.pid if daemon else '?'}, home {escape_line(place.path)})."
    if config is not None:
        said += " Its configuration stays: apply a changed one with: " + hint("stigmer server reload", place)
    if not quiet:
        (sys.stderr if as_json else sys.stdout).write(f"{said}\n")
    if not quiet or as_json:
        print_status(document, as_json=as_json)
    return OK


def _wait_settled(place: Home, history: EventTail, progress: Progress, limit: float) -> dict[str, str]:
    """Follow a new daemon until everything required is up or cannot be. Returns why not, by name.

    A life counts once it has started, however soon it ends: the event history tells of those that
    were up only between two snapshots.
    """
    began = stirred = time.monotonic()
    down: set[str] = set()
    has_run: set[str] = set()
    with reached(place) as client:
        document = fetch_status(client)
        client.call("status.subscribe")
        while time.monotonic() < began + limit:
            try:
                document = to_document(client.next_notification(time.monotonic() + TICK).params)
                progress.show(document)
            except DeadlinePassedError:
                pass
            has_run |= {entry.component or "" for entry in history.poll() if entry.event in UP}
            if down != (down := {c.name for c in _required(document) if c.state == "stopped"}):
                stirred = time.monotonic()
            if not _pending(document, has_run, is_late=time.monotonic() > stirred + AT_REST):
                # The history may be ahead of the last snapshot: show how it ended.
                document = fetch_status(client)
                progress.show(document)
                break
    waited = min(limit, time.monotonic() - began)  # less where waiting for longer is of no use
    return {
        component.name: _why_not_up(component, waited)
        for component in _required(document)
        if component.state == "failed" or (component.name not in has_run and component.state not in {*UP, "stopped"})
    }


def _required(document: StatusDocument) -> list[ComponentDocument]:
    return [component for component in document.components if component.enabled and not component.optional]


def _pending(document: StatusDocument, has_run: set[str], *, is_late: bool) -> list[str]:
    """The required components that may still come up by themselves."""
    settled = {*UP, "failed", *(["stopped"] if is_late else [])}
    pending = [c for c in _required(document) if c.name not in has_run and c.state not in settled]
    if any(component.state == "failed" for component in _required(document)):
        pending = [component for component in pending if component.state != "waiting"]  # for the failed one
    return [component.name for component in pending]


def _why_not_up(component: ComponentDocument, waited: float) -> str:
    if component.state == "failed":
        return _why_failed(component)
    return describe_lateness(waited, component.state, component.reason, component.last_error)


def _why_failed(component: ComponentDocument) -> str:
    return component.reason or component.last_error or ""


def _concluded(
    place: Home, missing: dict[str, str], names: Sequence[str] = ()
) -> tuple[StatusDocument, dict[str, str]]:
    """Where things stand, and what of all that was asked for is not up and why: also what failed since it was."""
    with reached(place) as client:
        document = fetch_status(client, names)
    asked = list(document.components) if names else _required(document)
    if not names:  # everything: what is optional or disabled is not missed
        missing = {name: why for name, why in missing.items() if name in {component.name for component in asked}}
    failed = {one.name: _why_failed(one) for one in asked if one.state == "failed"}
    return document, {**failed, **missing}


def _complain(document: StatusDocument, missing: dict[str, str]) -> int:
    """Name what did not come up, why, and its log."""
    sys.stdout.flush()
    by_name = {component.name: component for component in document.components}
    for name, why in missing.items():
        component = by_name.get(name)
        sys.stderr.write(f"{_complaint(name, component.state if component else 'gone', why, component)}\n")
    return FAILED if missing else OK


def _complaint(name: str, state: str, why: str, component: ComponentDocument | None) -> str:
    """One line about a component that is not as was asked; it ends with the path of its log."""
    return escape_line(_with_log(f"{name} is {state}{f': {why}' if why else ''}", component.log if component else ""))


def _with_log(text: str, log: str) -> str:
    """The text, with the path of the log at its end."""
    if not log or text.rstrip(".").endswith(log):
        return text
    return f"{text.rstrip('.')}. Log: {log}"


# start NAME, stop, restart


def _ask_up(
    place: Home, method: str, names: Sequence[str], params: dict[str, Any], *, quiet: bool, as_json: bool
) -> int:
    """Have components started or restarted, and conclude from the daemon's answer."""
    _check(place, names)
    result = _call_through(place, method, names, params, quiet=quiet or as_json)
    answers = answers_in(result)
    missing = {answer.name: answer.message for answer in answers if not answer.ok}
    document, missing = _concluded(place, missing, names)
    if as_json:
        told = [msgspec.to_builtins(_as_concluded(answer, document, missing)) for answer in answers]
        sys.stdout.write(json.dumps({"components": told}) + "\n")
    elif not quiet:
        print_status(document)
    return _complain(document, missing)


def _as_concluded(answer: Answer, document: StatusDocument, missing: dict[str, str]) -> Answer:
    """What the daemon answered, with what has become of the component since."""
    component = next((one for one in document.components if one.name == answer.name), None)
    if component is None:
        return answer
    answer = msgspec.structs.replace(answer, state=component.state)
    why = missing.get(component.name)
    if why is None and answer.ok and component.state == "failed":  # an optional one
        why = _why_failed(component)
    return answer if why is None else msgspec.structs.replace(answer, ok=False, message=_with_log(why, component.log))


def _call_through(
    place: Home, method: str, names: Sequence[str], params: dict[str, Any], *, quiet: bool
) -> dict[str, Any]:
    """Have the daemon do something, also if its program is replaced meanwhile.

    The next program goes on with what was begun. It is asked again, so that it tells the end: a stop or a start
    is done once however often it is asked for, and a restart that was begun is a start by then.

    Raises:
        CommandError: it was refused, or the daemon ended before it was done.
    """
    try:
        return call_and_show(place, method, names, params, shown(quiet=quiet))
    except CommandError as exc:
        if not _is_replaced_meanwhile(exc) or not place.is_taken():
            raise
    again = "start" if method == "restart" else method
    return call_and_show(place, again, names, {"timeout": params["timeout"]}, shown(quiet=quiet))


def _check(place: Home, names: Sequence[str]) -> None:
    """Refuse unknown names before anything is done."""
    with reached(place) as client:
        if names:
            fetch_status(client, names)


def restart(
    names: Sequence[str], *, home: str | None, timeout: str | None, now: bool, quiet: bool, as_json: bool
) -> int:
    """Stop and start components at once."""
    params = {"timeout": parse_seconds(timeout, "--timeout"), "now": now or None}
    return _ask_up(find_home(home), "restart", names, params, quiet=quiet, as_json=as_json)


def stop(
    names: Sequence[str], *, home: str | None, timeout: str | None, now: bool, quiet: bool, as_json: bool
) -> int:
    """Stop components, or everything and the daemon."""
    place = find_home(home)
    limit = parse_seconds(timeout, "--timeout")
    params = {"timeout": limit, "now": now or None}
    try:
        with reached(place, any_protocol=not names) as client:
            pid = client.server_pid
            mismatch = other_protocol(client, place)
            if names:
                fetch_status(client, names)
    except CommandError as exc:
        if exc.exit_code != NOT_RUNNING:
            raise
        return stop_without_daemon(place, names, 0.0 if now else limit, quiet=quiet, as_json=as_json)
    if mismatch is not None:
        sys.stderr.write(f"{mismatch}\n")
    if mismatch is not None or not names:
        return _shut_down(place, pid, params, quiet=quiet or mismatch is not None, as_json=as_json)
    result = _call_through(place, "stop", names, params, quiet=quiet or as_json)
    return _conclude_stop(result, quiet=quiet, as_json=as_json)


def _shut_down(place: Home, pid: object, params: dict[str, Any], *, quiet: bool, as_json: bool) -> int:
    from stigmerd.adapters.processes.identity import start_ticks

    began = start_ticks(pid) if isinstance(pid, int) else None
    result = call_and_show(place, "shutdown", (), params, shown(quiet=quiet or as_json))
    code = _conclude_stop(result, quiet=quiet, as_json=as_json)
    deadline = time.monotonic() + FAREWELL_TIMEOUT
    while place.is_taken():
        if time.monotonic() > deadline:
            raise CommandError(f"The daemon (pid {pid}) has stopped everything and does not end: kill {pid}")
        time.sleep(TICK / 2)
    if isinstance(pid, int):
        _wait_process_end(pid, began)
    if not quiet and not as_json:
        sys.stdout.write("The daemon has stopped.\n")
    return code


def _wait_process_end(pid: int, began: int | None) -> None:
    """Wait until the process that began then is gone, so that nobody finds it who looks after a stop."""
    from stigmerd.adapters.processes.identity import read_stat

    deadline = time.monotonic() + LINGER_TIMEOUT
    while (stat := read_stat(pid)) is not None and stat.is_alive and stat.start_ticks == began:
        if time.monotonic() > deadline:
            return
        time.sleep(TICK / 2)


def _conclude_stop(result: dict[str, Any], *, quiet: bool, as_json: bool) -> int:
    """Say what has stopped, which dependents go on, and what could not be killed."""
    answers = answers_in(result)
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
    for answer in answers:
        text = f"{answer.name}: {answer.state}"
        if not answer.ok:
            alive = ", ".join(map(str, answer.survivors))
            # The message last: it ends with the path of the log.
            parts = [text, *([f"still alive: {alive}"] if alive else []), *([answer.message] if answer.message else [])]
            sys.stderr.write(escape_line("; ".join(parts)) + "\n")
        elif not quiet and not as_json:
            sys.stdout.write(escape_line(f"{text}{f' ({answer.message})' if answer.message else ''}") + "\n")
    return OK if all(answer.ok for answer in answers) else FAILED


# restart --daemon


def restart_daemon(*, home: str | None, timeout: str | None, quiet: bool, as_json: bool) -> int:
    """Replace the daemon's program, and wait until the new one answers."""
    place = find_home(home)
    limit = parse_seconds(timeout, "--timeout")
    before, touched = _ask_replacement(place)
    deadline = time.monotonic() + (START_TIMEOUT if limit is None else limit)
    while time.monotonic() < deadline:
        after = _daemon_of(place)
        if after is not None and before is not None and after.started_at != before.started_at:
            if as_json:
                sys.stdout.write(json.dumps({"pid": after.pid, "version": after.version}) + "\n")
            elif not quiet:
                version = escape_line(after.version)
                sys.stdout.write(f"The daemon was replaced: stigmerd {version}, pid {after.pid}.{touched}\n")
            return OK
        time.sleep(TICK)
    raise CommandError(f"The daemon was asked to replace itself and has not. Look at its log: {daemon_log(place)}")


def _ask_replacement(place: Home) -> tuple[DaemonDocument | None, str]:
    """Ask the daemon to replace itself. Returns the one that was asked, and a word on what that touches."""
    while True:
        try:
            with reached(place) as client:
                before = fetch_status(client).daemon
                touched = _touched(client)
                try:
                    client.call("reexec")
                except ConnectionLostError:
                    pass  # the old program has gone before it could answer
                except RemoteError as exc:
                    why = escape(exc.message)
                    raise CommandError(f"The daemon was not replaced and goes on as it is: {why}") from exc
                return before, touched
        except CommandError as exc:
            if not _is_replaced_meanwhile(exc):
                raise


def _is_replaced_meanwhile(error: CommandError) -> bool:
    """Whether the daemon went away in the middle, as it does for another operator's replacement."""
    return isinstance(error.__cause__, ConnectionLostError)


def _daemon_of(place: Home) -> DaemonDocument | None:
    """The daemon that answers now; None while a new program is loaded, which a busy machine takes long for."""
    try:
        with reached(place) as client:
            return fetch_status(client).daemon
    except CommandError as exc:
        if exc.exit_code != SILENT and not _is_replaced_meanwhile(exc):
            raise
        return None


def _touched(client: Client) -> str:
    """What a replacement does to components: nothing, unless the configuration has changed since it was read."""
    try:
        plan = client.call("reload", dry_run=True)
    except RemoteError:
        return ""  # only the new program can tell
    touched = [*plan.get("restarted", []), *plan.get("removed", [])]
    if not touched:
        return " No component was touched."
    return f" Its configuration has changed, and with it: {escape_line(', '.join(touched))}."


# signal


def signal(name: str, names: Sequence[str], *, home: str | None, quiet: bool, as_json: bool) -> int:
    """Send a signal to the leaders of components."""
    full = name.upper() if name.upper().startswith("SIG") else f"SIG{name.upper()}"
    if full not in signals.Signals.__members__:
        raise usage_error(f"There is no signal {quoted(name)}. Name one, such as HUP or SIGUSR1.")
    if full in {"SIGKILL", "SIGSTOP"}:
        raise usage_error(f"{full} is not sent this way: use stigmer server stop.")
    if not names:
        raise usage_error(f"Name the components to send {full} to.")
    place = find_home(home)
    with reached(place) as client:
        fetch_status(client, names)
        result = client.call("signal", names=list(names), signal=full)
    answers = answers_in(result)
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
    for answer in answers:
        said = f"{answer.name}: {full} sent" if answer.ok else f"{answer.name}: {answer.message or answer.state}"
        if not answer.ok or not (quiet or as_json):
            (sys.stdout if answer.ok else sys.stderr).write(f"{escape_line(said)}\n")
    return OK if all(answer.ok for answer in answers) else FAILED


# wait


def wait(
    names: Sequence[str], *, condition: str, home: str | None, timeout: str | None, quiet: bool, as_json: bool
) -> int:
    """Wait for a condition. 1 when the time is over, or at once when a component has failed."""
    place = find_home(home)
    limit = parse_seconds(timeout, "--timeout")
    limit = START_TIMEOUT if limit is None else limit
    left = _wait_for(place, names, condition, limit)
    if left is None and not (quiet or as_json):
        sys.stdout.write(f"The daemon is not running: nothing of it is up (home {escape_line(place.path)}).\n")
    missing = left or []
    if as_json:
        told = [{"name": c.name, "state": c.state, "message": _why_not(c, condition)} for c in missing]
        sys.stdout.write(json.dumps({"for": condition, "missing": told}) + "\n")
    hopeless = [component for component in missing if _is_hopeless(component, condition)]
    for component in hopeless or missing:  # the others had time left
        why = _why_not(component, condition) or ""
        if not hopeless:
            why = f"not {condition} after {limit:g} s{f': {why}' if why else ''}"
        sys.stderr.write(_complaint(component.name, component.state, why, component) + "\n")
    return FAILED if missing else OK


def _why_not(component: ComponentDocument, condition: str) -> str | None:
    """Why it is not as asked, if there is more to say than its state."""
    if component.reason:
        return component.reason
    if component.state == "starting":
        return _not_passed(component, "startup") or "its process or container is on its way"
    if component.state == "running":  # the last error is an old one
        return None if condition == "stopped" else _not_passed(component, "readiness")
    return component.last_error


def _not_passed(component: ComponentDocument, kind: str) -> str | None:
    """That a probe has not passed yet, and what it last said."""
    probe = next((probe for probe in component.probes if probe.kind == kind), None)
    if probe is None:
        return None
    return f"its {kind} probe has not passed yet{f': {probe.message}' if probe.message else ''}"


def _wait_for(
    place: Home, names: Sequence[str], condition: str, limit: float
) -> list[ComponentDocument] | None:
    """What is not as asked after ``limit`` seconds, or once one of them cannot be; None where nothing is up
    because no daemon runs.

    Raises:
        CommandError: as `_wait_connected`; and no daemon runs, where somebody has to be up.
    """
    deadline = time.monotonic() + limit
    left: list[ComponentDocument] = []
    is_warned = False
    while True:
        try:
            with explained(place), open_client(place) as client:
                if not is_warned:  # it connects again after a replacement
                    warn_of_other_version(client, place)
                is_warned = True
                left = _wait_connected(client, names, condition, deadline)
            if not left or any(_is_hopeless(component, condition) for component in left):
                return left
        except CommandError as exc:
            if exc.exit_code == NOT_RUNNING and condition == "stopped":
                left = _left_alive(place, names)
                if not left:
                    return None
            elif not isinstance(exc.__cause__, ConnectionLostError):
                raise
        if time.monotonic() >= deadline:
            return left
        time.sleep(TICK)


def _left_alive(place: Home, names: Sequence[str]) -> list[ComponentDocument]:
    """What a dead daemon left and still runs, with the way to end it as the reason."""
    way_out = f"left by a dead daemon, end it with: {hint('stigmer server stop', place)}"
    return [
        msgspec.structs.replace(component, reason=f"pid {component.pid} was {way_out}" if component.pid else way_out)
        for component in last_known(place, names).components
        if component.alive
    ]


def _wait_connected(
    client: Client, names: Sequence[str], condition: str, deadline: float
) -> list[ComponentDocument]:
    """Wait on one connection. Returns what is not as asked when the time is over, or one of them has failed.

    Raises:
        CommandError: there is no component of a name.
        ConnectionLostError: the daemon ended, or was replaced.
    """
    document = fetch_status(client, names)
    client.call("status.subscribe")
    while True:
        left = [one for one in _chosen(document, names, condition) if not _is_so(one, condition)]
        if not left or any(_is_hopeless(component, condition) for component in left):
            return left
        try:
            document = to_document(client.next_notification(deadline).params)
        except DeadlinePassedError:
            return left


def _chosen(document: StatusDocument, names: Sequence[str], condition: str) -> list[ComponentDocument]:
    if names:
        return [component for component in document.components if component.name in names]
    return list(document.components) if condition == "stopped" else _required(document)


def _is_hopeless(component: ComponentDocument, condition: str) -> bool:
    """Whether waiting is of no use: nothing happens to what has failed by itself."""
    return component.state == "failed" and condition != "stopped"


def _is_so(component: ComponentDocument, condition: str) -> bool:
    if condition == "stopped":
        return component.state in DOWN and component.pid is None
    if component.state == "completed":
        return True
    return component.state == "running" and (condition == "running" or component.ready)
