"""How a life ended, and what that means under its restart policy."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from stigmerd.core.spec import RestartPolicy, RestartWhen

SIGNAL_NAMES = {
    1: "SIGHUP",
    2: "SIGINT",
    3: "SIGQUIT",
    4: "SIGILL",
    5: "SIGTRAP",
    6: "SIGABRT",
    8: "SIGFPE",
    9: "SIGKILL",
    11: "SIGSEGV",
    13: "SIGPIPE",
    14: "SIGALRM",
    15: "SIGTERM",
}
"""The numbers that Linux and macOS share; an adapter passes the platform's name for the others."""

MEANINGS = {
    126: "the command was found but could not be executed",
    127: "the command was not found",
    78: "a configuration error (EX_CONFIG)",
}


class Consequence(enum.Enum):
    """What an exit leads to, before the budget is asked."""

    RESTART = "restart"
    COMPLETE = "complete"
    FAIL = "fail"
    FATAL = "fatal"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitStatus:
    """A code or the name of a signal; both None is an exit whose status the platform did not tell.

    ``oom`` is True when the kernel's out-of-memory killer did it, None where nobody can tell.
    Source: waitid(2); for containers, ``State`` of the engine's inspect.
    """

    code: int | None = None
    signal: str | None = None
    oom: bool | None = None

    def __str__(self) -> str:
        """One phrase for a reader: ``exited with code 1``, ``killed by SIGKILL``."""
        memory = " (out of memory)" if self.oom else ""
        if self.signal is not None:
            return f"killed by {self.signal}{memory}"
        if self.code is None:
            return f"exited, status unknown{memory}"
        meaning = MEANINGS.get(self.code) or self._signal_by_convention()
        return f"exited with code {self.code}{f': {meaning}' if meaning else ''}{memory}"

    def _signal_by_convention(self) -> str | None:
        name = SIGNAL_NAMES.get((self.code or 0) - 128)
        return f"128 + {name}" if name else None


def judge(status: ExitStatus, policy: RestartPolicy) -> Consequence:
    """Say what the end of a life that nobody asked for leads to.

    An unknown status counts as a failure: a supervisor that guesses success leaves users without
    their service.
    """
    if status.code is not None and status.code in policy.fatal_exit_codes:
        return Consequence.FATAL
    success = status.code is not None and status.code in policy.success_exit_codes
    if policy.when is RestartWhen.ALWAYS:
        return Consequence.RESTART
    if success:
        return Consequence.COMPLETE
    return Consequence.RESTART if policy.when is RestartWhen.ON_FAILURE else Consequence.FAIL
