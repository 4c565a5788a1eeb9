"""The probe that asks whether the process of the life is alive, and has been for long enough."""

from __future__ import annotations

from stigmerd.core.health import Outcome
from stigmerd.core.spec import ProcessHandler
from stigmerd.engine.ports import Life


class ProcessProbe:
    """Looks at the life itself; it never waits."""

    def __init__(self, handler: ProcessHandler, life: Life) -> None:
        self.stage = ""
        self._handler = handler
        self._life = life

    async def attempt(self) -> Outcome:
        """Pass when the leader is alive and ``min_uptime`` old. A zombie is not alive."""
        if not self._life.is_alive():
            return Outcome(passed=False, message="the process is not alive")
        age, wanted = self._life.age(), self._handler.min_uptime
        if age < wanted:
            return Outcome(passed=False, message=f"alive for {age:.1f} s of {wanted:g} s")
        return Outcome(passed=True)
