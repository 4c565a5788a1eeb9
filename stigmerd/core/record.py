"""What survives the daemon: one record a component, and one for the daemon itself.

Instants named ``*_boot`` are seconds of CLOCK_BOOTTIME, which goes on across daemons and means
nothing after a reboot; ``boot_id`` tells. No record holds a secret: definitions are digests.
"""

from __future__ import annotations

import msgspec

from stigmerd.core.status import ComponentDocument

SCHEMA = 1


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Which process or container a life is, such that a later daemon can prove it.

    ``start_ticks`` is field 22 of ``/proc/PID/stat`` (elsewhere: microseconds since the epoch).
    ``nonce`` is the life's ``STIGMER_LIFE``. ``cgroup`` is the absolute path of its leaf; ``sealed``:
    it was born in there, so that nothing of it can be anywhere else.
    """

    nonce: str
    boot_id: str
    pid: int | None = None
    start_ticks: int | None = None
    pidfd_inode: int | None = None
    cgroup: str | None = None
    sealed: bool = False
    container_id: str | None = None

    @property
    def is_intent(self) -> bool:
        """Whether it names nobody yet: a life was ordered, and it is not known what came of that."""
        return self.pid is None and self.container_id is None


class ComponentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """All that the next daemon needs to go on with a component where this one stopped.

    ``phase``, ``failed_because`` are names of the lifecycle's enums. ``identity`` is of the present
    life, or None. ``shown`` is the component as it was last shown. ``stop_signal`` and ``grace``, in
    seconds, are for whoever has to end it while no daemon runs.
    """

    name: str
    phase: str
    wanted: bool
    life: int
    definition: str
    shown: ComponentDocument
    identity: Identity | None = None
    spawned_boot: float | None = None
    due_boot: float | None = None
    charge: bool = False
    trial: bool = False
    restarts: int = 0
    counted_boot: tuple[float, ...] = ()
    streak: int = 0
    delay: float | None = None
    failed_because: str | None = None
    stop_signal: str = "SIGTERM"
    grace: float = 10.0


class DaemonRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon that wrote the state. ``clean`` is True after an ordered stop of everything.

    ``config`` is the path it was started with, None for the default place. ``source`` is the file
    that was read in the end, None for the reference stack. Both are absolute. ``order`` are the names
    of the components in the order of the file, which that of their records need not be.
    """

    pid: int
    start_ticks: int | None
    boot_id: str
    version: str
    started_at: str
    config: str | None = None
    source: str | None = None
    log_format: str = "text"
    log_level: str | None = None
    order: tuple[str, ...] = ()
    clean: bool = False
