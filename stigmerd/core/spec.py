"""What a component is, after the configuration has been read, merged and checked.

Everything here is frozen and resolved: durations are seconds, sizes are bytes, paths are
absolute, ``${}`` is substituted. Where a value may hold a secret, a ``display_`` twin carries
the text of the file, and only that is ever shown.
"""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Literal

NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}$"
RESERVED_NAMES = frozenset({"stigmerd", "all"})

PROBE_CEILING = 1.0
"""Seconds that no probe attempt outlives, whatever the configuration says."""

LARGEST_PEM = 1024 * 1024
"""Bytes. A system's whole trust store has a quarter of that."""


class RestartWhen(enum.Enum):
    """Which exits are followed by a restart."""

    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    NEVER = "never"


class Condition(enum.Enum):
    """What a dependent waits for its dependency to be."""

    STARTED = "started"
    READY = "ready"
    COMPLETED = "completed"


class ProbeKind(enum.Enum):
    """The three questions of Kubernetes: has it started, is it alive, may it be used?"""

    STARTUP = "startup"
    LIVENESS = "liveness"
    READINESS = "readiness"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """Bound how often, and how fast, a component is restarted.

    A component that needs more than ``max_restarts`` restarts within ``window`` seconds is
    failed. The bound is inclusive, as Erlang/OTP's ``intensity``. Durations are seconds.
    """

    when: RestartWhen = RestartWhen.ALWAYS
    initial_backoff: float = 1.0
    backoff_factor: float = 2.0
    max_backoff: float = 60.0
    jitter: float = 0.0
    """0..1: the fraction of the delay that is added at random."""
    max_restarts: int = 10
    window: float = 600.0
    min_uptime: float = 10.0
    success_exit_codes: frozenset[int] = frozenset({0})
    fatal_exit_codes: frozenset[int] = frozenset({78})
    recovery: float | None = None
    """Seconds in failed before one half-open trial; None is off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopPolicy:
    """How a life is asked to end. ``grace`` is seconds from the start of the stop to SIGKILL."""

    signal: str = "SIGTERM"
    grace: float = 10.0
    pre_stop: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPolicy:
    """When the log is rotated, and what is kept. ``max_size`` is bytes."""

    max_size: int = 10 * 1024 * 1024
    keep: int = 5
    compress: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessHandler:
    """Passes while the leader of the life is alive and, if asked, has lived ``min_uptime`` seconds."""

    min_uptime: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpHandler:
    """Passes when a connection opens."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpHandler:
    """Passes when the response's status is within ``status``, both ends included."""

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    status: tuple[int, int] = (200, 399)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Certificates of a probe: PEM files by absolute path, and the name to verify against."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    server_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcHandler:
    """Passes when ``grpc.health.v1`` says SERVING; with ``connect_only`` when HTTP/2 shakes hands.

    ``address`` is ``HOST:PORT`` or ``unix:/path``.
    """

    address: str
    service: str = ""
    tls: Tls | None = None
    connect_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecHandler:
    """Passes when the command exits with 0. It runs in the environment and folder of the life."""

    command: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerHandler:
    """Passes while the container of the life runs and its health check does not say unhealthy."""


Handler = ProcessHandler | TcpHandler | HttpHandler | GrpcHandler | ExecHandler | ContainerHandler

HANDLER_NAMES: Mapping[type[Handler], str] = {
    ProcessHandler: "process",
    TcpHandler: "tcp",
    HttpHandler: "http",
    GrpcHandler: "grpc",
    ExecHandler: "exec",
    ContainerHandler: "container",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSpec:
    """One probe. Durations are seconds; ``timeout`` is at most :data:`PROBE_CEILING`."""

    handler: Handler
    initial_delay: float = 0.0
    period: float
    timeout: float = 1.0
    failure_threshold: int
    success_threshold: int = 1

    @property
    def handler_name(self) -> str:
        """The handler's key in the configuration, such as ``grpc``."""
        return HANDLER_NAMES[type(self.handler)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """A component that is a process. ``env`` holds env_file and env, already merged.

    ``argv[0]`` is a bare name (looked up on the component's PATH) or an absolute path.
    ``user``, ``group`` and ``umask`` are for a daemon that runs as root.
    """

    argv: tuple[str, ...]
    cwd: str
    env: Mapping[str, str] = field(default_factory=dict)
    pass_env: tuple[str, ...] = ()
    """Names whose values come from the daemon's own environment; shown, and never compared by value."""
    user: str | int | None = None
    group: str | int | None = None
    umask: int | None = None
    nofile: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """A component that is a container; the words are those of ``docker run``.

    ``network`` is a network's name, ``host``, or None for the engine's default. ``ports`` are
    ``HOST:CONTAINER`` texts, ``volumes`` are ``SOURCE:TARGET[:ro]`` texts. ``env`` holds
    env_file and env, already merged.
    """

    image: str
    name: str
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    pass_env: tuple[str, ...] = ()
    network: str | None = None
    ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    user: str | None = None
    working_dir: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    extra_hosts: Mapping[str, str] = field(default_factory=dict)
    pull: Literal["never", "missing"] = "never"


SHORTEST_SECRET = 4
"""Characters from which a value of ``${}`` is looked for anywhere in a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentSpec:
    """One component: what runs, when, and how its health is judged."""

    name: str
    runs: ProcessSpec | ContainerSpec
    display_command: tuple[str, ...]
    """The command as the file has it, with ``${}`` unsubstituted; what every display shows."""
    ports: tuple[int, ...] = ()
    optional: bool = False
    enabled: bool = True
    depends_on: Mapping[str, Condition] = field(default_factory=dict)
    restart_with_dependency: bool = False
    restart: RestartPolicy = RestartPolicy()
    stop: StopPolicy = StopPolicy()
    log: LogPolicy = LogPolicy()
    startup: ProbeSpec | None = None
    liveness: ProbeSpec | None = None
    readiness: ProbeSpec | None = None
    secrets: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """What ``${}`` stands for here: each value, and the text of the file to be shown in its place."""

    def conceal(self, text: str) -> str:
        """A text from the system, or from what runs, without the values of ``${}``.

        A shorter value is in many a text by chance, as 1 is in ``exit code 1``. It is looked for in the path
        that a text begins with, such as that of a program which cannot be run, and there as a whole name.
        """
        for value in sorted(self.secrets, key=len, reverse=True):
            if len(value) >= SHORTEST_SECRET:
                text = text.replace(value, self.secrets[value])
        path, colon, said = text.partition(": ")
        if not colon or " " in path:
            return text
        return "/".join(self.secrets.get(name, name) for name in path.split("/")) + colon + said

    @property
    def kind(self) -> Literal["process", "container"]:
        """``process`` or ``container``, as the status document has it."""
        return "process" if isinstance(self.runs, ProcessSpec) else "container"

    @property
    def probes(self) -> Mapping[ProbeKind, ProbeSpec]:
        """The probes that are configured, in the order startup, liveness, readiness."""
        kinds = {
            ProbeKind.STARTUP: self.startup,
            ProbeKind.LIVENESS: self.liveness,
            ProbeKind.READINESS: self.readiness,
        }
        return {kind: probe for kind, probe in kinds.items() if probe is not None}

    @property
    def definition(self) -> str:
        """A digest of what makes a life what it is: a change of it needs a new life.

        Secrets enter the digest only, so it may be stored; ``pass_env`` enters by name.
        """
        canonical = json.dumps(_plain(self.runs), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonSpec:
    """The ``[daemon]`` table."""

    log_level: str = "info"
    stigmer_binary: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSpec:
    """All that one daemon supervises.

    ``components`` keeps the order of the file. ``source`` is the configuration's absolute path,
    or None for the reference stack; ``fingerprint`` changes when any file that was read changes.
    """

    daemon: DaemonSpec = DaemonSpec()
    components: Mapping[str, ComponentSpec] = field(default_factory=dict)
    source: str | None = None
    fingerprint: str = ""


def _plain(value: object) -> object:
    """Turn a spec into what json can write, with its type's name, so that equal text is equal meaning."""
    if is_dataclass(value) and not isinstance(value, type):
        return {"": type(value).__name__, **{f.name: _plain(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list | frozenset):
        return [_plain(item) for item in value]
    return value
