"""What a component knows of one life and of no other: how it comes to be, who sees it through, why it ends.

What follows from any of that is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass

from stigmerd.core.event import Entry
from stigmerd.core.spec import StopPolicy
from stigmerd.engine.checkup import Checkup
from stigmerd.engine.launch import Launch
from stigmerd.engine.life import Tenure
from stigmerd.engine.telling import Condemnation


@dataclass(slots=True, kw_only=True)
class Course:
    """Replaced as a whole when the next life is ordered, so that nothing of one gets into the next.

    Until then it is there for whoever asks why the life ended. Touched by the component's task only.
    """

    is_renewal: bool = False
    """Whether a restart that somebody asked for is done with it."""
    launch: Launch | None = None
    """From the order until there is a life."""
    tenure: Tenure | None = None
    """From then on until the life is over."""
    checkup: Checkup | None = None
    condemned: Condemnation | None = None
    told_exit: Entry | None = None
    """The exit, where the last daemon wrote it down and died before it was in the state."""
    ended_at: float | None = None
    """When that was, where it is known."""

    @property
    def stranger(self) -> str:
        """One sentence about a stranger who answers in the component's place; or ""."""
        return self.checkup.stranger if self.checkup is not None else ""

    def end(self, policy: StopPolicy, cap: float | None) -> None:
        """Have the life end, if it has come to be: probes say nothing about one that ends."""
        if self.tenure is not None:
            self.stop_checkup()
            self.tenure.end(policy, cap)

    def hasten(self, policy: StopPolicy, cap: float | None) -> None:
        """Let an end that is under way become as fast as the newest request wants it."""
        if self.tenure is not None:
            self.tenure.end(policy, cap)
        if self.launch is not None:
            self.launch.hasten(policy.grace if cap is None else min(cap, policy.grace))

    def stop_checkup(self) -> None:
        """End all probing, and forget whom it saw."""
        if self.checkup is not None:
            self.checkup.stop()
        self.checkup = None

    def close(self) -> None:
        """Let go of a life that is over, or that nothing more can be done about."""
        self.stop_checkup()
        self.tenure = None
