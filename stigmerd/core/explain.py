"""Why is this component as it is? From its status, its events and its output to one causal report.

Pure: the daemon answers ``explain`` with it, and the CLI builds the same from files when the
daemon is dead. It looks for the *last failure*: the newest life that did not come to be, was
condemned by a probe, or ended without being asked; what merely waits is explained by what it
waits for.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

import msgspec

from stigmerd.core.describe import ASKED_FOR, describe, describe_exit, end_text, exit_of, span_text
from stigmerd.core.event import Entry
from stigmerd.core.status import ComponentDocument, ExitDocument, ProbeDocument

OUTPUT_LINES = 20

TAILS = (200, 2_000, 20_000)
"""How many of the log's last lines are looked through, one after the other, for those of the life that
failed: the next one may have written a lot since."""
TIMELINE_LINES = 15

DEPENDENCY_SHADOW = 30.0
"""Seconds before a failure in which a dependency's own failure is taken for its cause."""

OWN_FAULTS = frozenset({"SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE", "SIGTRAP", "SIGSYS"})
"""Signals that the kernel sends a program for what it did itself. Source: signal(7)."""

CONDITIONS = {"started": "has started", "ready": "is ready", "completed": "has completed"}

GATES = frozenset({"dependency", "port", "engine", "unkillable"})


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the timeline. ``at`` is RFC 3339."""

    at: str
    event: str
    life: int | None
    text: str


class ExplainReport(msgspec.Struct, frozen=True, kw_only=True):
    """The report of ``explain --json``.

    ``cause`` is one of ``none``, ``spawn``, ``crash``, ``signal``, ``out_of_memory``, ``probe``,
    ``stopped``, ``dependency``, ``port``, ``engine``, ``unkillable``, ``internal``. ``happened`` is
    one sentence; ``evidence`` are more. ``root_cause`` is the component where it began, if that is
    another one. ``blocks`` are the components that wait for this one, directly or not. Where not
    ``supervised``, no daemon runs, and ``state`` is the last known one.
    """

    component: str
    state: str
    healthy: bool
    supervised: bool = True
    cause: str
    happened: str
    at: str | None = None
    life: int | None = None
    evidence: tuple[str, ...] = ()
    exit: ExitDocument | None = None
    probe: ProbeDocument | None = None
    blocked_by: str | None = None
    root_cause: str | None = None
    blocks: tuple[str, ...] = ()
    timeline: tuple[Moment, ...] = ()
    output: tuple[str, ...] = ()
    log: str = ""
    next: str
    next_start_at: str | None = None
    command: str


class _Failure(msgspec.Struct, frozen=True, kw_only=True):
    """The last failure, as far as events and status tell it."""

    cause: str
    happened: str
    at: str | None = None
    life: int | None = None
    evidence: tuple[str, ...] = ()
    exit: ExitDocument | None = None


def build_report(
    component: ComponentDocument,
    all_components: Sequence[ComponentDocument],
    events: Sequence[Entry],
    read_tail: Callable[[int], Sequence[str]],
    now: float,
) -> ExplainReport:
    """Explain the last failure of ``component``.

    ``events`` may hold those of other components too; ``read_tail`` returns so many of the log's last
    lines, oldest first; ``now`` is seconds since the epoch.
    """
    own = [entry for entry in events if entry.component == component.name]
    by_name = {other.name: other for other in all_components}
    failure = _gate(component, own) or _last_failure(component, own) or _no_failure(component, own)
    root = _root_cause(component, by_name, failure)
    found = [*failure.evidence, *_given_up(component, own)]
    if root is not None:
        found.append(_root_sentence(root))
    failure = msgspec.structs.replace(failure, evidence=tuple(found))
    following, command = _what_next(component, failure, root, now)
    return ExplainReport(
        component=component.name,
        state=component.state,
        healthy=component.healthy,
        cause=failure.cause,
        happened=failure.happened,
        at=failure.at,
        life=failure.life,
        evidence=failure.evidence,
        exit=failure.exit,
        probe=next((probe for probe in component.probes if probe.verdict == "failing"), None),
        blocked_by=component.blocked_by,
        root_cause=root.name if root else None,
        blocks=_blocked(component.name, all_components),
        timeline=_timeline(own, failure),
        output=_output(component.name, own, failure, read_tail),
        log=component.log,
        next=following,
        next_start_at=component.next_start_at,
        command=command,
    )


# What happened.


def _gate(component: ComponentDocument, own: Sequence[Entry]) -> _Failure | None:
    """What a waiting component waits for: that, and no older failure, is why it is not up."""
    if component.state != "waiting":
        return None
    entry = _last(own, {"waiting"})
    reason = (entry.reason if entry else None) or ("dependency" if component.blocked_by else "internal")
    sentence = component.reason or (entry.message if entry else "") or f"waiting for {component.blocked_by}"
    return _Failure(
        cause=reason if reason in GATES else "dependency",
        happened=_sentence(f"It has not been started{_because(sentence)}"),
        at=entry.at if entry else None,
        life=component.life or None,
        evidence=_sentences([f"Before that: {component.last_error}"] if component.last_error else []),
    )


def _because(sentence: str) -> str:
    """The reason as it reads within a sentence: ``, because it is waiting for db to be ready``."""
    return f", because {'it is ' if sentence.startswith('waiting') else ''}{_lower_first(sentence)}"


def _last_failure(component: ComponentDocument, own: Sequence[Entry]) -> _Failure | None:
    """The newest life that failed, as the events tell it; without events, as the status does."""
    stops = {entry.life: entry for entry in own if entry.event == "stopping" and entry.reason in ASKED_FOR}
    condemned = {entry.life: entry for entry in own if entry.event == "unhealthy"}
    verdict = _last(own, {"failed"})
    if verdict is not None and verdict.reason in {"internal", "unkillable"} and component.state == "failed":
        return _from_verdict(verdict)
    for entry in reversed(own):
        if entry.event == "start_failed":
            return _from_spawn(entry)
        if entry.event == "unhealthy":
            return _from_probe(entry, _exit_of(own, entry.life))
        if entry.event == "exited" and entry.life in condemned:
            return _from_probe(condemned[entry.life], entry)
        if entry.event == "exited" and entry.life not in stops and not _is_success(entry, own):
            return _from_exit(entry)
    return None if _has_completed(component, own) else _from_status(component)


def _has_completed(component: ComponentDocument, own: Sequence[Entry]) -> bool:
    """Whether its last exit, if there was one, was the end that its policy calls complete. The events tell of no
    failure; those of an older one may be gone, which the last error outlives."""
    return component.state == "completed" or component.last_error is None or _last(own, {"completed"}) is not None


def _is_success(entry: Entry, own: Sequence[Entry]) -> bool:
    """Whether the exit was the end that its policy calls complete."""
    return any(other.event == "completed" and other.life == entry.life for other in own)


def _from_verdict(entry: Entry) -> _Failure:
    cause = entry.reason or "internal"
    words = {
        "internal": f"The daemon itself failed while it looked after this component: {entry.message}",
        "unkillable": f"Its last life does not die: {entry.message}",
    }
    return _Failure(cause=cause, happened=_sentence(words[cause]), at=entry.at, life=entry.life)


def _from_spawn(entry: Entry) -> _Failure:
    return _Failure(
        cause="spawn",
        happened=_sentence(f"It could not be started at all: {entry.message}"),
        at=entry.at,
        life=entry.life,
        evidence=("No process came to be, so it wrote no output.",),
    )


def _from_probe(entry: Entry, ended: Entry | None) -> _Failure:
    kind = str(entry.details.get("probe") or (entry.reason or "liveness_probe").removesuffix("_probe"))
    question = "never came up" if kind == "startup" else "was alive but did not do its work"
    said = f"{kind} probe failed"
    finding = entry.message if entry.message.startswith(said) else f"{said}: {entry.message}"
    evidence = [f"The daemon ended this life: a restart is what a failing {kind} probe asks for."]
    if ended is not None:
        was = "was " if ended.details.get("signal") else ""
        evidence.append(f"On being stopped it {was}{describe_exit(ended)}.")
    return _Failure(
        cause="probe",
        happened=_sentence(f"It {question}: its {finding}"),
        at=entry.at,
        life=entry.life,
        evidence=tuple(evidence),
        exit=exit_of(ended) if ended else None,
    )


def _from_exit(entry: Entry) -> _Failure:
    status = exit_of(entry)
    uptime = entry.details.get("uptime")
    lived = f" after {span_text(uptime)}" if isinstance(uptime, int | float) else ""
    cause, sentence, evidence = _read_exit(status, lived)
    return _Failure(
        cause=cause,
        happened=_sentence(sentence),
        at=entry.at,
        life=entry.life,
        evidence=_sentences(evidence),
        exit=status,
    )


def _from_status(component: ComponentDocument) -> _Failure | None:
    """The failure as the status document alone tells it: the events may be gone."""
    if component.last_exit is not None:
        cause, sentence, evidence = _read_exit(component.last_exit)
        words = _sentences(evidence)
        return _Failure(
            cause=cause,
            happened=_sentence(sentence),
            at=component.last_exit.at,
            life=component.life or None,
            evidence=words,
            exit=component.last_exit,
        )
    if component.last_error is not None:
        return _Failure(cause="spawn", happened=_sentence(f"It did not start: {component.last_error}"))
    return None


def _given_up(component: ComponentDocument, own: Sequence[Entry]) -> list[str]:
    """Why a failure was the last one: what a restart would have cost, or could not have helped."""
    verdict = _last(own, {"failed"})
    if component.state != "failed" or verdict is None:
        return []
    match verdict.reason:
        case "budget":
            spent = verdict.message.split(":")[0]
            return [f"Its restart budget is spent: {spent}."]
        case "fatal_exit":
            return ["It is not restarted: a restart cannot help after this exit code (fatal_exit_codes)."]
        case "trial":
            return ["That was a trial start after it had been given up (recovery)."]
        case "internal" | "unkillable":
            return []
        case _:
            return ["It is not restarted: its restart policy ends here."]


def _read_exit(status: ExitDocument, lived: str = "") -> tuple[str, str, list[str]]:
    """Cause, sentence and evidence of a life that ended without being asked; ``lived`` as ``after 3 s``."""
    if status.oom:
        return "out_of_memory", f"The kernel killed it{lived}, because memory ran out", [f"It {_was(status)}"]
    if status.signal in OWN_FAULTS:
        return "crash", f"It crashed with {status.signal}{lived}", ["The signal is for a fault of the program itself"]
    if status.signal is not None:
        doubt = "Somebody, or another program, sent the signal: the daemon did not"
        if status.signal == "SIGKILL" and status.oom is None:
            doubt += "; whether it was the kernel, out of memory, cannot be told here (see the kernel's log)"
        return "signal", f"It {_was(status, lived)}, from outside", [doubt]
    if status.code is None:
        return "crash", f"It ended{lived}; the platform did not tell how", ["It was not a child of this daemon"]
    if status.code == 0:
        return "crash", f"It ended by itself{lived}, with success, where it was to go on", []
    told = "This is how a shell, or a container, tells that its program was ended by that signal"
    return "crash", f"It {_was(status, lived)}", [told] if ": 128 + " in end_text(status) else []


def _was(status: ExitDocument, lived: str = "") -> str:
    return f"{'was ' if status.signal else ''}{end_text(status, lived)}"


def _no_failure(component: ComponentDocument, own: Sequence[Entry]) -> _Failure:
    if component.state == "running" and not component.ready:
        return _not_ready(component)
    if component.state in {"stopped", "stopping"}:
        ended = _last(own, {"completed"})
        before = ("Before that it had done its work and ended with success.",)
        is_done = ended is not None and ended.life == component.life
        return _Failure(cause="stopped", happened=_down_because(component, own), evidence=before if is_done else ())
    words = {"completed": "It has done its work and ended with success", "starting": "It is starting"}
    return _Failure(cause="none", happened=_sentence(words.get(component.state, "It has not failed")))


def _down_because(component: ComponentDocument, own: Sequence[Entry]) -> str:
    """Who wanted it down: a reader takes a component that never ran for one that was stopped."""
    if component.life == 0:
        why = "" if component.enabled else ", because it is disabled in the configuration"
        return f"It was never started{why}."
    asked = _last(own, {"stopping", "stopped"})
    who = {
        "operator": "an operator asked for it",
        "shutdown": "the daemon was stopped",
        "reload": "a changed configuration asked for it",
        "dependency": "what it depends on was restarted",
    }
    by = who.get(asked.reason or "", "it was asked to be") if asked else "it was asked to be"
    return f"It is {component.state}, because {by}."


def _not_ready(component: ComponentDocument) -> _Failure:
    probe = next((probe for probe in component.probes if probe.kind == "readiness"), None)
    if probe is None or not probe.message:
        return _Failure(cause="none", happened="It runs and has not become ready yet.")
    return _Failure(cause="probe", happened=_sentence(f"It runs, but its readiness probe fails: {probe.message}"))


# Where it began, and whom it holds up.


def _root_cause(
    component: ComponentDocument,
    by_name: Mapping[str, ComponentDocument],
    failure: _Failure,
) -> ComponentDocument | None:
    """The component at the bottom: along what blocks now, else a dependency that was down at the time."""
    root = _follow_blocks(component, by_name)
    if root is not None or failure.cause not in {"crash", "probe"}:
        return root
    return _failed_dependency(component, by_name, failure.at, {component.name})


def _failed_dependency(
    component: ComponentDocument, by_name: Mapping[str, ComponentDocument], at: str | None, seen: set[str]
) -> ComponentDocument | None:
    """The dependency, or that of a dependency, that is down, or was just before the instant ``at``."""
    for name in component.depends_on:
        other = by_name.get(name)
        if other is None or name in seen:
            continue
        seen.add(name)
        if _failed_before(other, at) or not (other.healthy or component.healthy):
            deeper = _failed_dependency(other, by_name, other.last_exit.at if other.last_exit else at, seen)
            return deeper or _follow_blocks(other, by_name) or other
    return None


def _follow_blocks(component: ComponentDocument, by_name: Mapping[str, ComponentDocument]) -> ComponentDocument | None:
    seen, current = {component.name}, component
    while (blocker := by_name.get(current.blocked_by or "")) is not None and blocker.name not in seen:
        current = blocker
        seen.add(current.name)
    return current if current is not component else None


def _failed_before(other: ComponentDocument, at: str | None) -> bool:
    """Whether a component's own last failure was shortly before the instant ``at``."""
    failed, then = _seconds(other.last_exit.at if other.last_exit else None), _seconds(at)
    return failed is not None and then is not None and 0 <= then - failed <= DEPENDENCY_SHADOW


def _root_sentence(root: ComponentDocument) -> str:
    error = f": {root.last_error or root.reason}" if root.last_error or root.reason else ""
    how = "had failed just before" if root.healthy else f"is {root.state}"
    return _sentence(f"The root cause is {root.name}, which {how}{error}")


def _blocked(name: str, all_components: Iterable[ComponentDocument]) -> tuple[str, ...]:
    """Who waits for ``name``, directly or through others."""
    waiting = [component for component in all_components if component.blocked_by is not None]
    found: dict[str, None] = {name: None}
    grew = True
    while grew:
        fresh = [c.name for c in waiting if c.blocked_by in found and c.name not in found]
        found |= dict.fromkeys(fresh)
        grew = bool(fresh)
    return tuple(found)[1:]


# What it wrote.


def _output(
    name: str, own: Sequence[Entry], failure: _Failure, read_tail: Callable[[int], Sequence[str]]
) -> tuple[str, ...]:
    """The last lines that the life that failed wrote, without what the daemon noted between them."""
    if failure.life is None or failure.cause == "spawn":
        return ()
    exits_since = sum(entry.event == "exited" and (entry.life or 0) >= failure.life for entry in own)
    chosen: Sequence[str] = ()
    for count in TAILS:
        tail = read_tail(count)
        lives = _lives(name, tail)
        chosen = lives[-1 - exits_since] if exits_since < len(lives) else ()
        if exits_since < len(lives) - 1 or len(chosen) >= OUTPUT_LINES or len(tail) < count:
            break
    return tuple(text.rstrip("\r\n") for text in chosen[-OUTPUT_LINES:])


def _lives(name: str, tail: Sequence[str]) -> list[list[str]]:
    """What each life wrote, oldest first; of the first one it may be the end alone.

    Lives are told apart by the notes of their exits: those of their births may come after the
    first lines of a quick child.
    """
    said_by_daemon = re.compile(rf"\S+Z stigmerd\[{re.escape(name)}\]: (\w+)")
    lives: list[list[str]] = [[]]
    for text in tail:
        note = said_by_daemon.match(text)
        if note is None:
            lives[-1].append(text)
        elif note[1] == "Exited":
            lives.append([])
    return lives


# What comes next.


def _what_next(
    component: ComponentDocument, failure: _Failure, root: ComponentDocument | None, now: float
) -> tuple[str, str]:
    """What happens now without anybody's doing, and the one command to try."""
    name, state = component.name, component.state
    if root is not None and state == "waiting":
        asked = CONDITIONS.get(component.depends_on.get(component.blocked_by or "", ""), "is up")
        return f"It starts by itself as soon as {component.blocked_by} {asked}.", f"stigmer server explain {root.name}"
    if state == "waiting":
        return "It starts by itself as soon as that is over; this spends no restart.", _gate_command(component)
    if state == "restarting":
        attempt = f"{component.restarts_in_window + 1} of {component.max_restarts}"
        look = f"stigmer server explain {root.name}" if root is not None else _look(component, failure)
        return f"It is restarted {_when(component.next_start_at, now)} (attempt {attempt}).", look
    if state == "failed":
        after = "Nothing happens by itself: it stays down until you start it."
        if component.next_start_at:
            after = f"One trial start follows {_when(component.next_start_at, now)}."
        return after, _repair(component, failure)
    return _what_next_when_up_or_down(component, failure, name)


def _what_next_when_up_or_down(component: ComponentDocument, failure: _Failure, name: str) -> tuple[str, str]:
    match component.state:
        case "unhealthy":
            return "This life is being ended; a restart follows.", f"stigmer server status {name} --verbose"
        case "stopped" if component.enabled:
            return "Nothing happens by itself: it stays down until you start it.", f"stigmer server start {name}"
        case "stopped":
            return "Nothing: it is disabled in the configuration.", f"stigmer server start {name}"
        case "running" if not component.ready:
            return "It is ready by itself as soon as its readiness probe passes.", f"stigmer server logs {name}"
        case "running" if failure.cause == "none":
            return "Nothing: it runs.", f"stigmer server status {name} --verbose"
        case "running":
            return "Nothing: it runs again.", _look(component, failure)
        case "completed":
            return "Nothing: its policy asks for no restart.", f"stigmer server logs {name}"
        case "starting":
            probes = any(probe.kind == "startup" for probe in component.probes)
            after = "It is running as soon as its startup probe passes." if probes else "It is on its way."
            return after, f"stigmer server status {name} --watch"
        case _:
            return "It is on its way.", f"stigmer server status {name} --watch"


def _look(component: ComponentDocument, failure: _Failure) -> str:
    if failure.cause == "spawn":
        return _repair(component, failure)
    if failure.cause == "probe":
        return f"stigmer server status {component.name} --verbose"
    if failure.cause == "signal":
        return f"stigmer server events {component.name}"
    return f"stigmer server logs {component.name} --tail 200"


def _repair(component: ComponentDocument, failure: _Failure) -> str:
    pull = _pull_command(failure.happened)
    if pull is not None:
        return pull
    if failure.cause == "spawn":
        return _look_at_program(component, failure)
    if failure.cause == "internal":
        return "stigmer server logs stigmerd"
    if failure.cause == "unkillable" and (survivors := _pids(failure.happened)):
        return f"ps -o pid,stat,wchan,args -p {survivors}"
    return f"stigmer server restart {component.name}"


def _look_at_program(component: ComponentDocument, failure: _Failure) -> str:
    """How to see what is the matter with the program, if that is what is named."""
    program = component.command[0] if component.command else ""
    if f" {program}: " not in failure.happened:
        return "stigmer server check"
    if "/" not in program:
        return f"command -v {shlex.quote(program)}"
    return f"ls -l {shlex.quote(program)}" if program.startswith("/") else "stigmer server check"


def _gate_command(component: ComponentDocument) -> str:
    pull = _pull_command(component.reason)
    if pull is not None:
        return pull
    if holders := _pids(component.reason):
        return f"ps -o pid,user,args -p {holders}"
    return "docker info" if component.kind == "container" else f"stigmer server status {component.name} --watch"


def _pids(text: str) -> str:
    """The pids that a message names, as ``ps -p`` takes them."""
    return ",".join(re.findall(r"\bpids? (\d+)", text))


def _pull_command(text: str) -> str | None:
    """The ``docker pull IMAGE`` that an error message names, if it does."""
    words = text.replace("`", " ").replace("'", " ").split()
    for number, word in enumerate(words[:-2]):
        if word == "docker" and words[number + 1] == "pull":
            return f"docker pull {words[number + 2].rstrip('.,;:)')}"
    return None


# Words.


def _timeline(own: Sequence[Entry], failure: _Failure) -> tuple[Moment, ...]:
    """The newest events, and where those tell nothing of the life that failed, how that ended."""
    newest = own[-TIMELINE_LINES:]
    if failure.life is not None and all(entry.life != failure.life for entry in newest):
        end = [entry for entry in own if entry.life == failure.life][-TIMELINE_LINES // 3 :]
        newest = [*end, *newest[len(end) :]]
    return tuple(_moment(entry) for entry in newest)


def _moment(entry: Entry) -> Moment:
    return Moment(at=entry.at, event=entry.event, life=entry.life, text=describe(entry))


def _exit_of(own: Sequence[Entry], life: int | None) -> Entry | None:
    return next((entry for entry in reversed(own) if entry.event == "exited" and entry.life == life), None)


def _last(entries: Sequence[Entry], events: set[str]) -> Entry | None:
    return next((entry for entry in reversed(entries) if entry.event in events), None)


def _when(at: str | None, now: float) -> str:
    seconds = _seconds(at)
    if seconds is None:
        return "soon"
    return f"in {span_text(seconds - now)}" if seconds > now else "now"


def _seconds(at: str | None) -> float | None:
    if at is None:
        return None
    try:
        return datetime.fromisoformat(at).timestamp()
    except ValueError:
        return None


def _sentences(parts: Iterable[str]) -> tuple[str, ...]:
    return tuple(_sentence(part) for part in parts)


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:] if text[1:2].islower() else text
