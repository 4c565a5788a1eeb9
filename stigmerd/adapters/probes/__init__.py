"""The probe handlers: what one attempt looks at. How outcomes become a verdict is not known here.

An attempt is bounded by its caller's cancel scope alone. What it opened (sockets, processes) is
closed when it is cancelled; ``stage`` tells what it was doing then.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Protocol, assert_never

from stigmerd.adapters.probes.container import ContainerProbe
from stigmerd.adapters.probes.exec import ExecProbe
from stigmerd.adapters.probes.process import ProcessProbe
from stigmerd.adapters.probes.resolve import Resolver
from stigmerd.adapters.probes.tcp import TcpProbe
from stigmerd.core.health import Outcome
from stigmerd.core.spec import (
    ComponentSpec,
    ContainerHandler,
    ExecHandler,
    GrpcHandler,
    Handler,
    HttpHandler,
    ProcessHandler,
    TcpHandler,
)
from stigmerd.engine.ports import Life

HEAVY: Mapping[type[Handler], str] = {
    HttpHandler: "stigmerd.adapters.probes.http",
    GrpcHandler: "stigmerd.adapters.probes.grpc",
}
"""The modules whose libraries cost tens of milliseconds and megabytes: imported where one is probed."""


class StagedProbe(Protocol):
    """A probe that can tell what a time-out interrupted, as words that follow ``while``."""

    @property
    def stage(self) -> str:
        """What the present attempt does, or ""."""
        ...

    async def attempt(self) -> Outcome:
        """Look once."""
        ...


class ProbeFactory:
    """Makes probes, which share one resolver so that threads stay bounded across lives."""

    def __init__(self, resolver: Resolver | None = None) -> None:
        self._resolver = resolver or Resolver()

    def __call__(self, handler: Handler, life: Life, spec: ComponentSpec) -> StagedProbe:
        """The probe of ``handler`` for ``life``, which shows no secret of ``spec`` where it quotes somebody.

        grpcio and httpcore are imported at first need.
        """
        match handler:
            case ProcessHandler():
                return ProcessProbe(handler, life)
            case TcpHandler():
                return TcpProbe(handler, self._resolver)
            case HttpHandler():
                from stigmerd.adapters.probes.http import HttpProbe

                return HttpProbe(handler, self._resolver, spec.conceal)
            case GrpcHandler():
                from stigmerd.adapters.probes.grpc import GrpcProbe

                return GrpcProbe(handler, self._resolver, spec.conceal)
            case ExecHandler():
                return ExecProbe(handler, life, spec.conceal)
            case ContainerHandler():
                return ContainerProbe(life)
            case _:
                assert_never(handler)


def preload(specs: Iterable[ComponentSpec]) -> None:
    """Import what the probes of ``specs`` need, before a loop runs that an import would hold up."""
    handlers = {type(probe.handler) for spec in specs for probe in spec.probes.values()}
    for handler in handlers & HEAVY.keys():
        importlib.import_module(HEAVY[handler])
