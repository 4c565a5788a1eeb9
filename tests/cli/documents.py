"""Status documents and events to render and to explain, with a fixed time."""

from __future__ import annotations

from stigmerd.core.event import Entry
from stigmerd.core.status import (
    ComponentDocument,
    DaemonDocument,
    ExitDocument,
    ProbeDocument,
    StatusDocument,
    is_stack_healthy,
)

NOW = 1769054412.0
"""2026-01-22T04:00:12Z."""

LOGS = "/home/u/.stigmer/logs"


def at(seconds_ago: float) -> str:
    """A time of a document, so long before NOW, within the last minute."""
    return f"2026-01-22T04:00:{12 - seconds_ago:06.3f}Z"


DAEMON = DaemonDocument(
    pid=4711,
    version="0.1.0",
    protocol=1,
    started_at=at(12),
    uptime=12.5,
    home="/home/u/.stigmer",
    config="/home/u/.stigmer/stigmer.toml",
)

SERVER = ComponentDocument(
    name="stigmer-server",
    kind="process",
    state="running",
    healthy=True,
    ready=True,
    life=1,
    pid=12345,
    command=("stigmer-server", "--port", "7234"),
    log=f"{LOGS}/stigmer-server.log",
    started_at=at(12),
    uptime=12.1,
    max_restarts=10,
    cpu_percent=1.5,
    memory_bytes=83_886_080,
    probes=(
        ProbeDocument(
            kind="liveness",
            handler="grpc",
            verdict="passing",
            consecutive_successes=4,
            last_at=at(2),
            duration=0.0012,
            duration_p50=0.001,
            duration_p99=0.31,
            timeout=1.0,
            message="SERVING",
        ),
    ),
)

RUNNER = ComponentDocument(
    name="workflow-runner",
    kind="process",
    state="restarting",
    healthy=False,
    life=3,
    log=f"{LOGS}/workflow-runner.log",
    restarts=3,
    restarts_in_window=3,
    max_restarts=10,
    backoff=4.0,
    last_restart_at=at(10),
    next_start_at="2026-01-22T04:00:16.000Z",
    reason="restarts in 4 s (attempt 4/10)",
    last_exit=ExitDocument(signal="SIGKILL", at=at(1)),
    last_error="killed by SIGKILL",
)

WAITING = ComponentDocument(
    name="web",
    kind="process",
    state="waiting",
    healthy=False,
    blocked_by="workflow-runner",
    reason="waiting for workflow-runner to be ready",
    log=f"{LOGS}/web.log",
    max_restarts=10,
)

AGENT = ComponentDocument(
    name="agent-runner",
    kind="container",
    state="failed",
    healthy=False,
    optional=True,
    life=11,
    container_id="0123456789abcdef0123456789abcdef",
    log=f"{LOGS}/agent-runner.log",
    restarts=10,
    restarts_in_window=10,
    max_restarts=10,
    reason="10 restarts within 600 s: exited with code 1",
    last_exit=ExitDocument(code=1, at=at(9)),
    last_error="exited with code 1",
)

OFF = ComponentDocument(
    name="migrate", kind="process", state="completed", healthy=True, life=1, log=f"{LOGS}/migrate.log", max_restarts=10
)


def stack(*components: ComponentDocument, daemon: DaemonDocument | None = DAEMON) -> StatusDocument:
    """A document of these components, judged as the daemon would."""
    healthy = daemon is not None and is_stack_healthy(components)
    return StatusDocument(daemon=daemon, healthy=healthy, components=components)


def entry(
    seq: int, event: str, *, life: int = 1, reason: str | None = None, message: str = "", **details: object
) -> Entry:
    """One event of the workflow-runner."""
    return Entry(
        seq=seq,
        at=at(12 - seq / 10),
        component="workflow-runner",
        life=life,
        event=event,
        reason=reason,
        message=message,
        details=details,
    )
