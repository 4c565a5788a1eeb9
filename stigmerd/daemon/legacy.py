"""What this daemon leaves to the next one, whenever and however it ends: the counterpart of ``succession``."""

from __future__ import annotations

import os

import trio

from stigmerd import __version__
from stigmerd.adapters.disk.store import EventFiles, StateFiles
from stigmerd.adapters.processes import identity
from stigmerd.core.record import DaemonRecord
from stigmerd.daemon.configuration import Configuration
from stigmerd.daemon.start import Start

SAVE_BOUND = 5.0
"""Seconds for the last write of the state: a disk that hangs must not keep the daemon from ending."""


class Legacy:
    """The state and the history on disk, with the daemon's own record in it. The components' are the engine's."""

    def __init__(
        self, start: Start, configuration: Configuration, state: StateFiles, events: EventFiles, began_at: str
    ) -> None:
        self._start = start
        self._configuration = configuration
        self._state = state
        self._events = events
        self._began_at = began_at

    @property
    def problems(self) -> tuple[str | None, ...]:
        """Sentences about what cannot be written now."""
        return (self._state.problem, self._events.problem)

    def remember(self, *, clean: bool = False) -> None:
        """Write down whose state this is: this daemon's, which goes by the configuration in force."""
        self._state.set_daemon(
            DaemonRecord(
                pid=os.getpid(),
                start_ticks=identity.start_ticks(os.getpid()),
                boot_id=identity.boot_id(),
                version=__version__,
                started_at=self._began_at,
                config=self._configuration.path,
                source=self._configuration.stack.source,
                log_format=self._start.log_format,
                log_level=self._start.log_level,
                order=tuple(self._configuration.stack.components),
                clean=clean,
            )
        )

    def checkpoint(self) -> None:
        """Write what the disk has not got yet. To be called in a thread."""
        self._events.flush()
        self._state.checkpoint(last_seq=self._events.last_seq)

    async def save(self, *, clean: bool) -> None:
        """Write everything for the last time. ``clean``: everything was stopped in order."""
        self.remember(clean=clean)
        try:
            with trio.move_on_after(SAVE_BOUND):
                await trio.to_thread.run_sync(self.checkpoint, abandon_on_cancel=True)
        except RuntimeError:  # no more threads; nobody else needs this one any more
            self.checkpoint()
