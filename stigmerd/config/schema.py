"""The shape of the file: one Struct per table, one field per key.

The types say what the resolved values are; ``x-reads`` names the reader of
:mod:`stigmerd.config.values` that makes one. The JSON Schema and the tables of
docs/configuration.md are made from here, so a key cannot exist without a description.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from stigmerd.core.spec import (
    NAME_PATTERN,
    RESERVED_NAMES,
    Condition,
    LogPolicy,
    RestartPolicy,
    RestartWhen,
    StopPolicy,
)

_RESTART, _STOP, _LOG = RestartPolicy(), StopPolicy(), LogPolicy()


def _reads(reader: str) -> Meta:
    return Meta(extra_json_schema={"x-reads": reader})


def _about(description: str, example: object = None, *, secret: bool = False) -> Meta:
    """What a key is for; an error about it, or its table, shows the example; a secret one's value is never shown."""
    examples = None if example is None else [example]
    return Meta(description=description, examples=examples, extra={"secret": True} if secret else None)


String = Annotated[str, _reads("string")]
Text = Annotated[str, _reads("text")]
Seconds = Annotated[float, _reads("seconds")]
PositiveSeconds = Annotated[float, _reads("positive_seconds")]
Command = Annotated[tuple[str, ...], _reads("command")]
ExitCode = Annotated[int, Meta(ge=0, le=255)]
Port = Annotated[int, Meta(ge=1, le=65535)]
HttpStatus = Annotated[int, Meta(ge=100, le=599)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Environment = Annotated[
    dict[str, String],
    _about("environment, over `env_file`; values are never shown", {"NAME": "value"}, secret=True),
]


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file."""


class ProcessTable(Table, frozen=True, kw_only=True):
    """Passes while the process of this life is alive and not a zombie."""

    min_uptime: Annotated[
        Seconds, _about("how long it must have lived; for startup and readiness probes")
    ] = 0.0


class TcpTable(Table, frozen=True, kw_only=True):
    """Passes when a connection opens."""

    address: Annotated[str, _reads("address"), _about("`HOST:PORT`", "127.0.0.1:8080")]


class HttpTable(Table, frozen=True, kw_only=True):
    """Passes when the status of the response is within `status`."""

    url: Annotated[str, _reads("url"), _about("what to ask for", "http://127.0.0.1:8080/health")]
    method: Annotated[str, _reads("method"), _about("the method of the request")] = "GET"
    headers: Annotated[
        dict[str, Annotated[str, _reads("header_value")]],
        _about("headers of the request; values are never shown", {"Accept": "text/plain"}, secret=True),
    ] = {}
    status: Annotated[
        tuple[HttpStatus, HttpStatus], _about("the lowest and the highest status that pass")
    ] = (200, 399)


class TlsTable(Table, frozen=True, kw_only=True):
    """How a gRPC probe encrypts and verifies. Paths are PEM files."""

    ca_file: Annotated[Text | None, _about("who signed the server's certificate; none: the system's")] = None
    cert_file: Annotated[Text | None, _about("the client's certificate")] = None
    key_file: Annotated[Text | None, _about("the client's private key")] = None
    server_name: Annotated[Text | None, _about("the name to verify instead of the address")] = None


class GrpcTable(Table, frozen=True, kw_only=True):
    """Passes when `grpc.health.v1` says SERVING."""

    address: Annotated[
        str, _reads("grpc_address"), _about("`HOST:PORT` or `unix:PATH`", "127.0.0.1:7234")
    ]
    service: Annotated[String, _about("the service to ask about; none: the server as a whole")] = ""
    tls: Annotated[
        bool | TlsTable, _about("`true`: with the system's certificates; a table: with these files")
    ] = False
    connect_only: Annotated[bool, _about("the HTTP/2 handshake is enough")] = False


class ExecTable(Table, frozen=True, kw_only=True):
    """Passes when a command exits with status 0."""

    command: Annotated[Command, _about("what to run, in the environment and folder of the life", "./check.sh")]


class ContainerProbeTable(Table, frozen=True, kw_only=True):
    """Passes while the container of this life runs and is not unhealthy. It has no keys."""


class ProbeTable(Table, frozen=True, kw_only=True):
    """What the three probes have in common. Exactly one handler is given."""

    process: Annotated[ProcessTable | None, _about("handler: the process is alive")] = None
    tcp: Annotated[TcpTable | None, _about("handler: a connection opens")] = None
    http: Annotated[HttpTable | None, _about("handler: an HTTP status")] = None
    grpc: Annotated[GrpcTable | None, _about("handler: gRPC health")] = None
    exec: Annotated[ExecTable | None, _about("handler: a command's exit status")] = None
    container: Annotated[ContainerProbeTable | None, _about("handler: the container runs")] = None
    initial_delay: Annotated[Seconds, _about("wait this long before the first attempt")] = 0.0
    period: Annotated[PositiveSeconds, _about("from one attempt to the next")]
    timeout: Annotated[float, _reads("probe_timeout"), _about("of one attempt: more than 0, at most 1 s")] = 1.0
    failure_threshold: Annotated[Count, _about("failures in a row that make it failing")]
    success_threshold: Annotated[
        Count, _about("passes in a row that make it passing; more than 1 for readiness only")
    ] = 1


class StartupTable(ProbeTable, frozen=True, kw_only=True):
    """Has it started? Until it passes, the other two wait; when it fails, the life is ended."""

    period: Annotated[PositiveSeconds, _about("from one attempt to the next")] = 1.0
    failure_threshold: Annotated[Count, _about("failures in a row that make it failing")] = 30


class LivenessTable(ProbeTable, frozen=True, kw_only=True):
    """Is it alive? When it fails, the life is ended and a restart follows."""

    period: Annotated[PositiveSeconds, _about("from one attempt to the next")] = 10.0
    failure_threshold: Annotated[Count, _about("failures in a row that make it failing")] = 3


class ReadinessTable(ProbeTable, frozen=True, kw_only=True):
    """May it be used? When it fails, `ready` becomes false and nothing else happens."""

    period: Annotated[PositiveSeconds, _about("from one attempt to the next")] = 5.0
    failure_threshold: Annotated[Count, _about("failures in a row that make it failing")] = 3


class RestartTable(Table, frozen=True, kw_only=True):
    """Whether, when and how often a component is restarted."""

    policy: Annotated[RestartWhen, _about("which exits are followed by a restart", "on-failure")] = _RESTART.when
    initial_backoff: Annotated[Seconds, _about("delay before the first restart")] = _RESTART.initial_backoff
    backoff_factor: Annotated[
        float, _reads("factor"), _about("what each further delay is multiplied by; 1 or more")
    ] = _RESTART.backoff_factor
    max_backoff: Annotated[Seconds, _about("the longest delay")] = _RESTART.max_backoff
    jitter: Annotated[
        float, _reads("fraction"), _about("0 to 1: the fraction of the delay that is added at random")
    ] = _RESTART.jitter
    max_restarts: Annotated[
        int, Meta(ge=0, le=1_000_000), _about("restarts within `window`; one more is a failure")
    ] = _RESTART.max_restarts
    window: Annotated[PositiveSeconds, _about("how long a restart counts")] = _RESTART.window
    min_uptime: Annotated[
        Seconds, _about("a life of this length starts the backoff anew")
    ] = _RESTART.min_uptime
    success_exit_codes: Annotated[tuple[ExitCode, ...], _about("exit codes that mean success")] = (0,)
    fatal_exit_codes: Annotated[
        tuple[ExitCode, ...], _about("exit codes after which a restart cannot help")
    ] = (78,)
    recovery: Annotated[
        float | None,
        _reads("recovery"),
        _about("`off`, or how long after it failed one more life is tried"),
    ] = None


class StopTable(Table, frozen=True, kw_only=True):
    """How a life is asked to end."""

    signal: Annotated[str, _reads("stop_signal"), _about("sent to the process group", "SIGINT")] = _STOP.signal
    grace: Annotated[Seconds, _about("from the start of the stop to SIGKILL")] = _STOP.grace
    pre_stop: Annotated[
        Command | None, _about("run before the signal, inside the grace, at every stop of a live process")
    ] = None


class LogTable(Table, frozen=True, kw_only=True):
    """What is kept of a component's output."""

    max_size: Annotated[
        int, _reads("size"), _about("the log is rotated at this size", "50MiB")
    ] = _LOG.max_size
    keep: Annotated[int, Meta(ge=0, le=1000), _about("rotated logs that are kept")] = _LOG.keep
    compress: Annotated[bool, _about("gzip the rotated logs")] = _LOG.compress


class ContainerTable(Table, frozen=True, kw_only=True):
    """A container instead of a command. The words are those of `docker run`."""

    image: Annotated[Text | None, _about("the image; required", "nginx:1.27")] = None
    name: Annotated[
        str | None, _reads("container_name"), _about("the container's name; none: `stigmerd-COMPONENT`")
    ] = None
    command: Annotated[Command | None, _about("replaces the image's command")] = None
    entrypoint: Annotated[Command | None, _about("replaces the image's entrypoint")] = None
    env: Environment = {}
    env_file: Annotated[Text | None, _about("a file of `NAME=VALUE` lines")] = None
    network: Annotated[Text | None, _about("a network's name, or `host`; none: the engine's default")] = None
    ports: Annotated[
        tuple[Annotated[str, _reads("port_mapping")], ...], _about("published ports, `HOST:CONTAINER`")
    ] = ()
    volumes: Annotated[
        tuple[Annotated[str, _reads("volume")], ...], _about("mounts, `SOURCE:TARGET` or `SOURCE:TARGET:ro`")
    ] = ()
    user: Annotated[Text | None, _about("who runs it inside, `USER` or `UID:GID`")] = None
    working_dir: Annotated[Text | None, _about("the folder inside")] = None
    labels: Annotated[dict[str, String], _about("more labels", {"team": "web"})] = {}
    pull: Annotated[
        Literal["never", "missing"], _about("`missing`: pull the image when it is not there")
    ] = "never"


class DefaultsTable(Table, frozen=True, kw_only=True):
    """For every component that does not say otherwise. A `container` table here is for containers only."""

    container: Annotated[ContainerTable | None, _about("a container instead of a command")] = None
    cwd: Annotated[Text | None, _about("the folder it runs in; none: the configuration's")] = None
    env: Environment = {}
    env_file: Annotated[Text | None, _about("a file of `NAME=VALUE` lines")] = None
    optional: Annotated[bool, _about("its failure does not make `status` exit 1")] = False
    enabled: Annotated[bool, _about("false: not started with the daemon; can be started by hand")] = True
    depends_on: Annotated[
        dict[str, Condition], _about("component to condition: `started`, `ready` or `completed`", {"db": "ready"})
    ] = {}
    on_dependency_restart: Annotated[
        Literal["ignore", "restart"], _about("`restart`: begin a new life when a dependency does")
    ] = "ignore"
    user: Annotated[
        str | int | None, _reads("account"), _about("user to run as; needs a daemon that runs as root")
    ] = None
    group: Annotated[
        str | int | None, _reads("account"), _about("group to run as; needs a daemon that runs as root")
    ] = None
    umask: Annotated[
        int | None, _reads("file_mode_mask"), _about("file mode mask; needs a daemon that runs as root")
    ] = None
    nofile: Annotated[
        Annotated[int, Meta(ge=1, le=2**31 - 1)] | None, _about("limit of open files")
    ] = None
    restart: Annotated[RestartTable, _about("restarts")] = RestartTable()
    stop: Annotated[StopTable, _about("stops")] = StopTable()
    log: Annotated[LogTable, _about("output")] = LogTable()
    startup: Annotated[StartupTable | None, _about("startup probe")] = None
    liveness: Annotated[LivenessTable | None, _about("liveness probe")] = None
    readiness: Annotated[ReadinessTable | None, _about("readiness probe")] = None


class ComponentTable(DefaultsTable, frozen=True, kw_only=True):
    """One component: a `command` or a `container`, and how it is kept alive."""

    preset: Annotated[Text | None, _about("a table to start from; what is written here overrides it")] = None
    command: Annotated[
        Command | None, _about("argv; a string is split like a shell would, without a shell")
    ] = None
    ports: Annotated[
        tuple[Port, ...], _about("must not be listened on by a stranger before a start")
    ] = ()


class DaemonTable(Table, frozen=True, kw_only=True):
    """The daemon itself."""

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], _about("what goes into the daemon's own log", "debug")
    ] = "info"
    stigmer_binary: Annotated[
        str | None, _reads("program_path"), _about("the Go program that two presets run")
    ] = None


class StackTable(Table, frozen=True, kw_only=True):
    """The whole file."""

    daemon: Annotated[DaemonTable, _about("the daemon itself")] = DaemonTable()
    defaults: Annotated[DefaultsTable, _about("for every component")] = DefaultsTable()
    component: Annotated[dict[str, ComponentTable], _about("the components, by name")] = {}


HANDLERS = ("process", "tcp", "http", "grpc", "exec", "container")
"""The keys of a probe that are handlers."""
PROBES = ("startup", "liveness", "readiness")
PROCESS_ONLY = ("cwd", "user", "group", "umask", "nofile")
"""The keys of a component that mean nothing to a container."""

_STRING_OR = {
    "seconds": "number", "positive_seconds": "number", "probe_timeout": "number", "recovery": "number",
    "size": "integer", "file_mode_mask": "integer", "command": "array", "account": "integer",
}  # fmt: skip
"""Readers that accept a string beside the type that they make."""


_DURATION = r"[0-9]+(\.[0-9]+)?(ms|s|m|h)"
_PATTERNS = {
    "seconds": _DURATION, "positive_seconds": _DURATION, "probe_timeout": _DURATION,
    "recovery": rf"off|{_DURATION}", "size": r"[0-9]+(\.[0-9]+)?\s?(B|KiB|MiB|GiB)",
    "file_mode_mask": "(0o)?[0-7]{1,4}", "address": r".+:[0-9]{1,5}", "grpc_address": r"unix:.+|.+:[0-9]{1,5}",
    "url": "https?://.+", "method": "[A-Z]{1,16}", "program_path": ".*/.*", "text": ".+",
}  # fmt: skip
"""What a string looks like that a reader accepts; anything may hold a ``${}``."""


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the file, for editors. It knows the shape alone: the loader decides.

    It may object to a ``${}`` in the place of one of a few words, which the loader fills in first.
    """
    schema = msgspec.json.schema(StackTable)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "stigmer.toml"
    _widen(schema)
    tables = schema["$defs"]
    names = {"pattern": NAME_PATTERN, "not": {"enum": sorted(RESERVED_NAMES)}}
    tables["StackTable"]["properties"]["component"]["propertyNames"] = names
    tables["ComponentTable"]["not"] = {"required": ["command", "container"]}
    return schema


def _widen(node: Any) -> None:  # noqa: ANN401  (JSON is what it is)
    """Say where a string may stand for a number or a list, and drop null: TOML has none."""
    if isinstance(node, list):
        for item in node:
            _widen(item)
    if not isinstance(node, dict):
        return
    if node.get("default") is None or isinstance(node["default"], dict):
        node.pop("default", None)
    if {"type": "null"} in node.get("anyOf", ()):
        node["anyOf"].remove({"type": "null"})
        if len(node["anyOf"]) == 1:
            node.update(node.pop("anyOf")[0])
    reader = node.pop("x-reads", "")
    if reader in _STRING_OR:
        node.pop("anyOf", None)
        node["type"] = [_STRING_OR[reader], "string"]
    if _STRING_OR.get(reader) == "number":
        node["minimum"] = 0
    if reader in _PATTERNS:
        node["pattern"] = rf"^({_PATTERNS[reader]})$|\$\{{"
    for item in tuple(node.values()):
        _widen(item)
