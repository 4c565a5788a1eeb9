"""What the daemon tells of itself and its components: the status document, and the report on a failure.

Looks only, and changes nothing. How these are shown is the client's business.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import trio

from stigmerd import __version__
from stigmerd.adapters.disk.output import tail_texts
from stigmerd.control.protocol import PROTOCOL
from stigmerd.core.explain import ExplainReport, build_report
from stigmerd.core.status import (
    ComponentDocument,
    DaemonDocument,
    StatusDocument,
    is_stack_healthy,
    to_plain,
)
from stigmerd.daemon.configuration import Configuration
from stigmerd.daemon.lookup import Lookup
from stigmerd.engine.ports import Clock, Life
from stigmerd.engine.supervisor import Supervisor

USAGE_BOUND = 1.0
"""Seconds for looking at what a component uses."""

EXPLAIN_BOUND = 10.0
"""Seconds for reading the history and the end of a log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What is so now.

    ``began`` is an instant, ``began_at`` the same for people. ``problems`` gives sentences about the
    daemon; what is empty is left out. ``explaining`` looks at what a report is made of.
    """

    supervisor: Supervisor
    configuration: Configuration
    clock: Clock
    home: str
    began: float
    began_at: str
    problems: Callable[[], Iterable[str | None]]
    explaining: Lookup = field(default_factory=lambda: Lookup("the history or the log", bound=EXPLAIN_BOUND))

    async def status(self, names: Sequence[str], *, verbose: bool) -> StatusDocument:
        """The status document of the components with these names; ``verbose``: with what they use."""
        usage: dict[str, ComponentDocument] = {}
        documents = {name: self._component(name) for name in names}
        if verbose:
            async with trio.open_nursery() as looks:
                for name in names:
                    life = self.supervisor.component(name).life
                    if life is not None:
                        looks.start_soon(_measure, life, documents[name], usage)
        components = tuple(usage.get(name, documents[name]) for name in names)
        return StatusDocument(daemon=self._daemon(), healthy=is_stack_healthy(components), components=components)

    async def explain(self, name: str) -> dict[str, Any]:
        """The report on a component's last failure, as plain values.

        Raises:
            RefusedError: the history or the log does not answer.
        """
        everything = tuple(self._component(other) for other in self.supervisor.board.names())
        document = self._component(name)

        def look() -> ExplainReport:
            events = self.supervisor.journal.history(name)
            return build_report(document, everything, events, lambda n: tail_texts(document.log, n), self.clock.wall())

        plain: dict[str, Any] = to_plain(await self.explaining.do(look))
        return plain

    def _component(self, name: str) -> ComponentDocument:
        component = self.supervisor.component(name)
        document = self.supervisor.board.document(name, trio.current_time(), self.clock.wall())
        note = component.life.note if component.life is not None else ""
        return document if document.reason or not note else msgspec.structs.replace(document, reason=note)

    def _daemon(self) -> DaemonDocument:
        strangers = [self.supervisor.component(name).stranger for name in self.supervisor.board.names()]
        said = [*self.problems(), *strangers]
        return DaemonDocument(
            pid=os.getpid(),
            version=__version__,
            protocol=PROTOCOL,
            started_at=self.began_at,
            uptime=round(trio.current_time() - self.began, 3),
            home=self.home,
            config=self.configuration.stack.source,
            config_stale=self.configuration.is_stale,
            problems=tuple(dict.fromkeys(sentence for sentence in said if sentence)),
        )


async def _measure(life: Life, document: ComponentDocument, measured: dict[str, ComponentDocument]) -> None:
    with trio.move_on_after(USAGE_BOUND):
        usage = await life.usage()
        measured[document.name] = msgspec.structs.replace(
            document, cpu_percent=usage.cpu_percent, memory_bytes=usage.memory_bytes
        )
