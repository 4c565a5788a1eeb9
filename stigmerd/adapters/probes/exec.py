"""The probe that runs a command in the environment of the life."""

from __future__ import annotations

import errno

from stigmerd.adapters.probes.failure import MESSAGE_LIMIT, OUR_SHORTAGES, Conceal, quote
from stigmerd.core.health import Outcome
from stigmerd.core.spec import ExecHandler
from stigmerd.engine.ports import EngineUnavailableError, Life, SpawnFailedError

SPAWN_SHORTAGES = OUR_SHORTAGES | {errno.EAGAIN}
"""EAGAIN is fork's word for no more processes."""


class ExecProbe:
    """Runs the command through the life, which kills the command's whole tree on a time-out."""

    def __init__(self, handler: ExecHandler, life: Life, conceal: Conceal) -> None:
        self.stage = "running the command"
        self._handler = handler
        self._life = life
        self._conceal = conceal

    async def attempt(self) -> Outcome:
        """Pass when the command exits with 0. The end of its output is the message."""
        try:
            result = await self._life.run(self._handler.command)
        except EngineUnavailableError as exc:
            # What cannot be asked keeps its state: nothing was learnt of the container.
            return Outcome(passed=True, message=str(exc), conclusive=False)
        except SpawnFailedError as exc:
            message = quote(str(exc), self._conceal)
            return Outcome(passed=False, message=message, conclusive=exc.errno not in SPAWN_SHORTAGES)
        passed = result.status.code == 0
        message = self._conceal(result.tail).strip()[-MESSAGE_LIMIT:]
        return Outcome(passed=passed, message=message or ("" if passed else str(result.status)))
