"""What the history, and the component's own log, are told when a component changes its phase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stigmerd.core.event import Entry
from stigmerd.core.exit_status import ExitStatus
from stigmerd.core.health import Streak, Verdict
from stigmerd.core.lifecycle import FailedBecause, Phase, State
from stigmerd.core.record import Identity
from stigmerd.core.spec import ProbeKind
from stigmerd.engine.board import View
from stigmerd.engine.journal import Journal
from stigmerd.engine.ports import Logs


@dataclass(frozen=True, slots=True, kw_only=True)
class Condemnation:
    """Which probe condemned a life, and its evidence."""

    probe: str
    evidence: str

    @property
    def reason(self) -> str:
        """The history's word for it."""
        return f"{self.probe}_probe"


def condemnation(kind: ProbeKind, streak: Streak) -> Condemnation | None:
    """What a streak condemns a life for, if it does: a readiness probe never does."""
    if kind is ProbeKind.READINESS or streak.verdict is not Verdict.FAILING:
        return None
    times = f"{streak.consecutive_failures} times" if streak.consecutive_failures > 1 else "once"
    return Condemnation(probe=kind.value, evidence=f"{kind.value} probe failed {times}: {streak.message}")


class Teller:
    """Writes one component's story: events into the history, a few lines into its log."""

    def __init__(self, name: str, journal: Journal, logs: Logs) -> None:
        self._name = name
        self._journal = journal
        self._logs = logs
        self._last_line: str | None = None
        """About a life that ended, not written yet."""

    def event(self, event: str, life: int, *, reason: str | None = None, message: str = "", **details: object) -> None:
        """Write one event. Life 0 is no life."""
        self._journal.record(event, component=self._name, life=life or None, reason=reason, message=message, **details)

    def line(self, text: str) -> None:
        """Write one line into the component's log."""
        self.write_last_line()
        self._logs.note(self._name, text)

    def write_last_line(self) -> None:
        """Write what is still to be written about a life that ended: the order for the next one goes first."""
        line, self._last_line = self._last_line, None
        if line is not None:
            self._logs.note(self._name, line)

    def entered(self, view: View, new: State, now: float, *, cause: str | None, condemned: Condemnation | None) -> str:
        """Tell that the component enters ``new.phase``. Returns the sentence about its new present.

        ``view`` is the component as it is until then.
        """
        match new.phase:
            case Phase.RUNNING:
                self.event("running", new.life)
            case Phase.CONDEMNED:
                condemned = condemned or Condemnation(probe="liveness", evidence="")
                self.event(
                    "unhealthy",
                    new.life,
                    reason=condemned.reason,
                    message=condemned.evidence,
                    probe=condemned.probe,
                    evidence=condemned.evidence,
                )
                return condemned.evidence
            case Phase.STOPPING:
                self.event("stopping", new.life, reason=cause)
                return f"stopping ({cause})" if cause else "stopping"
            case Phase.BACKOFF:
                return self._backs_off(view, new, now, condemned)
            case Phase.FAILED:
                reason, sentence = failure(view, new, condemned)
                self.event("failed", new.life, reason=reason, message=sentence)
                self.line(f"Failed {self._name}: {sentence}")
                return sentence
            case Phase.COMPLETED:
                self.event("completed", new.life, reason="exit")
                self.line(f"Completed {self._name}")
            case Phase.DOWN:
                self.event("stopped", new.life, reason=cause)
                self.line(f"Stopped {self._name}")
        return ""

    def _backs_off(self, view: View, new: State, now: float, condemned: Condemnation | None) -> str:
        policy = view.spec.restart
        attempt = new.history.within(policy.window, now) + 1
        delay = round(new.history.delay or 0.0, 3)
        sentence = f"restarts after {delay:g} s (attempt {attempt}/{policy.max_restarts})"
        self.event(
            "restarting",
            new.life,
            reason=failure_reason(view, condemned),
            message=sentence,
            attempt=attempt,
            max_restarts=policy.max_restarts,
            delay=delay,
        )
        return sentence

    def born(self, view: View, identity: Identity, now: float, cause: str | None) -> None:
        """Tell that a process or container came to be."""
        state = view.state
        self.event(
            "starting",
            state.life,
            reason="trial" if state.trial else cause,
            pid=identity.pid,
            container=identity.container_id,
        )
        if state.charge and not state.trial:
            attempt = state.history.within(view.spec.restart.window, now)
            self.line(f"Restarted {self._name} (attempt {attempt}/{view.spec.restart.max_restarts})")
        else:
            container = identity.container_id
            self.line(f"Started {self._name} ({f'container {container[:12]}' if container else f'pid {identity.pid}'})")

    def unborn(self, life: int, message: str, errno: int | None) -> None:
        """Tell that no process or container came to be."""
        self.event("start_failed", life, reason="spawn", message=message, errno=errno)
        self.line(f"Could not start {self._name}: {message}")

    def exited(self, life: int, status: ExitStatus, uptime: float | None) -> None:
        """Tell that a life is over. :meth:`write_last_line` has to follow."""
        self.event(
            "exited",
            life,
            reason="signal" if status.signal else "exit",
            message=str(status),
            code=status.code,
            signal=status.signal,
            oom=status.oom,
            uptime=None if uptime is None else round(uptime, 3),
        )
        self.write_last_line()
        self._last_line = f"Exited {self._name}: {status}"


def told_status(exited: Entry) -> ExitStatus:
    """The exit status in an event that :meth:`Teller.exited` wrote, as far as it is one that makes sense."""
    code, signal, oom = (exited.details.get(key) for key in ("code", "signal", "oom"))
    return ExitStatus(
        code=code if isinstance(code, int) else None,
        signal=signal if isinstance(signal, str) else None,
        oom=oom if isinstance(oom, bool) else None,
    )


def told_uptime(exited: Entry) -> float | None:
    """How long the life lasted, in seconds, in such an event."""
    uptime = exited.details.get("uptime")
    return float(uptime) if isinstance(uptime, int | float) and uptime >= 0 else None


def failure_reason(view: View, condemned: Condemnation | None) -> str:
    """The history's word for how the last life failed."""
    if condemned is not None:
        return condemned.reason
    if view.last_exit is None:
        return "spawn"
    return "signal" if view.last_exit.signal is not None else "exit"


def failure(view: View, new: State, condemned: Condemnation | None) -> tuple[str, str]:
    """Why the component is failed: the history's word, and a sentence."""
    last = view.last_error or "it did not stay up"
    policy = view.spec.restart
    match new.failed_because:
        case FailedBecause.BUDGET:
            count = policy.max_restarts
            spent = f"{count} restart{'s' if count > 1 else ''} within {policy.window:g} s" if count else "no restarts"
            return "budget", f"{spent}: {last}"
        case FailedBecause.FATAL_EXIT:
            return "fatal_exit", f"{last}; restarting cannot help"
        case FailedBecause.UNKILLABLE:
            return "unkillable", unkillable(view, view.survivors)
        case FailedBecause.TRIAL:
            return "trial", f"the trial failed: {last}"
        case _:
            return failure_reason(view, condemned), f"{last}; restart policy {policy.when.value!r} ends here"


def unkillable(view: View, pids: Sequence[int]) -> str:
    """What a stop could not end, as far as it can be told."""
    if pids:
        return f"cannot be killed: {', '.join(f'pid {pid}' for pid in pids)}"
    if view.spec.kind == "container":
        return "its container cannot be killed"
    return "whether all of it is dead could not be told in time"
