"""The probe that asks whether a connection opens."""

from __future__ import annotations

from stigmerd.adapters.probes.connect import connect
from stigmerd.adapters.probes.failure import AttemptFailedError
from stigmerd.adapters.probes.resolve import Resolver
from stigmerd.core.health import Outcome
from stigmerd.core.spec import TcpHandler


class TcpProbe:
    """Opens one connection and closes it at once. ``stage`` says what the present attempt does."""

    def __init__(self, handler: TcpHandler, resolver: Resolver) -> None:
        self.stage = ""
        self._handler = handler
        self._resolver = resolver

    async def attempt(self) -> Outcome:
        """Pass when the connection opens."""
        try:
            self.stage = "resolving the name"
            addresses = await self._resolver.wait_addresses(self._handler.host, self._handler.port)
            self.stage = "connecting"
            stream = await connect(addresses)
        except AttemptFailedError as exc:
            return exc.outcome
        stream.socket.close()
        return Outcome(passed=True)
