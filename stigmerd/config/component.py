"""From the table of one component to its spec: what no single key can tell is checked here."""

from __future__ import annotations

import grp
import pwd
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from stigmerd.config import schema
from stigmerd.config.files import TrustedFiles, check_pem, variables
from stigmerd.config.interpolate import display
from stigmerd.config.presets import Preset
from stigmerd.config.problems import Findings, Path, RefusedError, either, quoted
from stigmerd.config.values import command_words, host_and_port
from stigmerd.core.spec import (
    ComponentSpec,
    ContainerHandler,
    ContainerSpec,
    ExecHandler,
    GrpcHandler,
    Handler,
    HttpHandler,
    LogPolicy,
    ProbeSpec,
    ProcessHandler,
    ProcessSpec,
    RestartPolicy,
    StopPolicy,
    TcpHandler,
    Tls,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the tables of one file are read against. ``folder`` is the configuration's, absolute."""

    folder: str
    is_root: bool
    files: TrustedFiles

    def absolute(self, path: str) -> str:
        """A path of the file, taken from the configuration's folder."""
        return str(FilePath(self.folder) / path)

    def argv(self, words: tuple[str, ...]) -> tuple[str, ...]:
        """A command; a program with a slash is taken from the folder, a bare one is left to PATH."""
        program = self.absolute(words[0]) if "/" in words[0] else words[0]
        return (program, *words[1:])


HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A token. Source: RFC 9110, section 5.6.2."""

LONG_VALUE = 8
"""Characters from which a value of ``env`` or ``env_file`` may be a secret that a probe's output tells: shorter ones,
such as ``true``, are in many a text by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolver:
    """Makes the spec of one component. ``raw`` is its table as the file has it, ``table`` the same read."""

    name: str
    raw: Mapping[str, Any]
    table: schema.ComponentTable
    preset: Preset
    around: Surroundings
    findings: Findings
    env_secrets: dict[str, str] = field(default_factory=dict)
    """Long values out of ``env`` and an ``env_file``, and what is shown where something tells one; a preset's own are
    no secrets. Filled by :meth:`spec`."""

    def spec(self) -> ComponentSpec | None:
        """The spec, or None where it has no program. What is wrong is in ``findings``."""
        table = self.table
        self._check_kind()
        self._check_ports()
        self._check_exit_codes()
        runs = self._container() if "container" in self.raw else self._process()
        probes = {kind: self._probe(kind, getattr(table, kind)) for kind in schema.PROBES}
        if runs is None:
            return None
        return ComponentSpec(
            name=self.name,
            runs=runs,
            display_command=self._display_command(),
            ports=table.ports,
            optional=table.optional,
            enabled=table.enabled,
            depends_on=table.depends_on,
            restart_with_dependency=table.on_dependency_restart == "restart",
            restart=_restart(table.restart),
            stop=self._stop(table.stop),
            log=LogPolicy(max_size=table.log.max_size, keep=table.log.keep, compress=table.log.compress),
            startup=probes["startup"],
            liveness=probes["liveness"],
            readiness=probes["readiness"],
        )

    def _refuse(self, keys: Path, sentence: str) -> None:
        self.findings.add(("component", self.name, *keys), sentence)

    def _check_kind(self) -> None:
        has_command, has_container = "command" in self.raw, "container" in self.raw
        if has_command and has_container:
            self._refuse((), 'has both "command" and "container": drop one of them')
        elif not has_command and not has_container and self.preset.lacks_command:
            self._refuse(("preset",), f"is {quoted(self.raw['preset'])}, which {self.preset.lacks_command}")
        elif not has_command and not has_container:
            self._refuse((), 'has neither "command" nor "container": give it one')
        if has_container:
            for key in schema.PROCESS_ONLY:
                if key in self.raw:
                    self._refuse((key,), f"is for a command, not for a container: {_INSTEAD[key]}")
        elif not self.around.is_root:
            for key in ("user", "group", "umask"):
                if key in self.raw:
                    self._refuse((key,), "needs a daemon that runs as root: drop it, or run the daemon as root")

    def _check_ports(self) -> None:
        for index, port in enumerate(self.table.ports):
            if port in self.table.ports[:index]:
                self._refuse(("ports", index), f"is {port}, which is there already: drop it")

    def _check_exit_codes(self) -> None:
        restart = self.table.restart
        for code in sorted({*restart.success_exit_codes} & {*restart.fatal_exit_codes}):
            self._refuse(
                ("restart", "success_exit_codes"),
                f"has {code}, which fatal_exit_codes has too: drop it from one of them",
            )

    def _process(self) -> ProcessSpec | None:
        table = self.table
        self._check_account("user", table.user, pwd.getpwnam)
        self._check_account("group", table.group, grp.getgrnam)
        env = self._env((), table.env_file, table.env)
        if table.command is None:
            return None
        return ProcessSpec(
            argv=self.around.argv(table.command),
            cwd=self.around.absolute(table.cwd or "."),
            env=env,
            pass_env=self.preset.pass_env,
            user=table.user,
            group=table.group,
            umask=table.umask,
            nofile=table.nofile,
        )

    def _check_account(self, key: str, account: str | int | None, look_up: Callable[[str], object]) -> None:
        if isinstance(account, str):
            try:
                look_up(account)
            except KeyError:
                self._refuse((key,), f"is {quoted(self.raw[key])}: there is no such {key} on this machine")

    def _container(self) -> ContainerSpec | None:
        table = self.table.container
        env = self._env((), self.table.env_file, self.table.env)
        if table is None:
            return None
        env |= self._env(("container",), table.env_file, table.env)
        if "image" not in self.raw["container"]:
            self._refuse(("container",), 'lacks "image": add image = "nginx:1.27"')
        if table.image is None:
            return None
        return ContainerSpec(
            image=table.image,
            name=table.name or f"stigmerd-{self.name}",
            command=table.command,
            entrypoint=table.entrypoint,
            env=env,
            pass_env=self.preset.pass_env,
            network=table.network,
            ports=table.ports,
            volumes=tuple(self._volume(volume) for volume in table.volumes),
            user=table.user,
            working_dir=table.working_dir,
            labels=table.labels,
            extra_hosts=self.preset.extra_hosts,
            pull=table.pull,
        )

    def _volume(self, volume: str) -> str:
        """A source with a slash is a folder, taken from the configuration's; any other is a volume's name."""
        source, rest = volume.split(":", 1)
        return f"{self.around.absolute(source)}:{rest}" if "/" in source else volume

    def _env(self, keys: Path, env_file: str | None, env: Mapping[str, str]) -> dict[str, str]:
        """The variables of one table, ``env`` over ``env_file``."""
        for name in env:
            if not name or "=" in name or "\0" in name:
                self._refuse((*keys, "env", name), 'is no name of a variable: take out "=" and give it a letter')
        self._keep_secret({name: value for name, value in env.items() if value not in self._preset_values()})
        if env_file is None:
            return dict(env)
        path = self.around.absolute(env_file)
        try:
            found = variables(self.around.files.read(path), path)
        except RefusedError as refused:
            wanted = "give a file of NAME=VALUE lines that only you can write"
            self._refuse_file((*keys, "env_file"), refused, wanted)
            return dict(env)
        self._keep_secret(found)
        return {**found, **env}

    def _refuse_file(self, keys: Path, refused: RefusedError, wanted: str) -> None:
        """Say what is wrong with a file; where its path is a secret, ``wanted`` instead."""
        written = _within(self.raw, keys)
        sentence = f": {refused.said}: {refused.advice}"
        self._refuse(keys, f"is {quoted(written)}: {wanted}" if "${" in written else sentence)

    def _keep_secret(self, variables: Mapping[str, str]) -> None:
        self.env_secrets.update((v, f"${{{name}}}") for name, v in variables.items() if len(v) >= LONG_VALUE)

    def _preset_values(self) -> set[object]:
        table = self.preset.table
        tables = (table, table.get("container", {}))
        return {value for one in tables for value in one.get("env", {}).values()}

    def _display_command(self) -> tuple[str, ...]:
        """What a status shows: the command as the file has it, a container's after its image."""
        if self.table.container is None:
            words = command_words(self.raw["command"])
        else:
            container = self.raw["container"]
            words = [container["image"]]
            words += command_words(container["command"]) if self.table.container.command else []
        return tuple(display(word) for word in words)

    def _stop(self, table: schema.StopTable) -> StopPolicy:
        pre_stop = None if table.pre_stop is None else self.around.argv(table.pre_stop)
        return StopPolicy(signal=table.signal, grace=table.grace, pre_stop=pre_stop)

    def _probe(self, kind: str, table: schema.ProbeTable | None) -> ProbeSpec | None:
        raw = self.raw.get(kind)
        if table is None or not isinstance(raw, dict):
            return None
        self._check_handlers(kind, tuple(key for key in schema.HANDLERS if key in raw))
        self._check_probe(kind, table, raw)
        handler = self._handler(table)
        if handler is None:
            return None
        return ProbeSpec(
            handler=handler,
            initial_delay=table.initial_delay,
            period=table.period,
            timeout=table.timeout,
            failure_threshold=table.failure_threshold,
            success_threshold=table.success_threshold,
        )

    def _check_probe(self, kind: str, table: schema.ProbeTable, raw: Mapping[str, Any]) -> None:
        if kind != "readiness" and table.success_threshold > 1:
            self._refuse(
                (kind, "success_threshold"),
                f"is {table.success_threshold}: only readiness may need more than 1",
            )
        if kind == "liveness" and isinstance(raw.get("process"), dict) and "min_uptime" in raw["process"]:
            self._refuse(
                (kind, "process", "min_uptime"), "is for startup and readiness probes: drop it from liveness"
            )
        if table.http is not None and table.http.status[0] > table.http.status[1]:
            low, high = sorted(table.http.status)
            self._refuse((kind, "http", "status"), f"has the highest status first: write [{low}, {high}]")
        for name in table.http.headers if table.http is not None else ():
            if not HEADER_NAME.fullmatch(name):
                self._refuse((kind, "http", "headers", name), 'is no name of a header: use letters, digits and "-"')
        if table.grpc is not None and isinstance(table.grpc.tls, schema.TlsTable):
            self._check_tls((kind, "grpc", "tls"), table.grpc.tls)

    def _check_tls(self, place: Path, table: schema.TlsTable) -> None:
        if (table.cert_file is None) != (table.key_file is None):
            self._refuse(place, 'needs both "cert_file" and "key_file", or neither: add the other')
        for key in ("ca_file", "cert_file", "key_file"):
            path = self._file(getattr(table, key))
            if path is None:
                continue
            try:
                check_pem(path)
            except RefusedError as refused:
                self._refuse_file((*place, key), refused, "give a regular file of at most 1 MiB")

    def _check_handlers(self, kind: str, given: tuple[str, ...]) -> None:
        if not given:
            self._refuse((kind,), f"has no handler: add {either(schema.HANDLERS)}")
        elif len(given) > 1:
            self._refuse((kind,), f"has {len(given)} handlers, {', '.join(given)}: keep one of them")
        elif given == ("container",) and "container" not in self.raw:
            self._refuse((kind, "container"), "is for a container, and this is a command: write process = {}")

    def _handler(self, table: schema.ProbeTable) -> Handler | None:
        if table.process is not None:
            return ProcessHandler(min_uptime=table.process.min_uptime)
        if table.tcp is not None:
            host, port = host_and_port(table.tcp.address)
            return TcpHandler(host=host, port=port)
        if table.http is not None:
            return self._http(table.http)
        if table.grpc is not None:
            return self._grpc(table.grpc)
        if table.exec is not None:
            return ExecHandler(command=self.around.argv(table.exec.command))
        return None if table.container is None else ContainerHandler()

    def _http(self, table: schema.HttpTable) -> HttpHandler:
        return HttpHandler(url=table.url, method=table.method, headers=table.headers, status=table.status)

    def _grpc(self, table: schema.GrpcTable) -> GrpcHandler:
        address = table.address
        if address.startswith("unix:"):
            address = f"unix:{self.around.absolute(address.removeprefix('unix:'))}"
        return GrpcHandler(
            address=address, service=table.service, tls=self._tls(table.tls), connect_only=table.connect_only
        )

    def _tls(self, table: bool | schema.TlsTable) -> Tls | None:
        if isinstance(table, bool):
            return Tls() if table else None
        return Tls(
            ca_file=self._file(table.ca_file),
            cert_file=self._file(table.cert_file),
            key_file=self._file(table.key_file),
            server_name=table.server_name,
        )

    def _file(self, path: str | None) -> str | None:
        return None if path is None else self.around.absolute(path)


_INSTEAD = {
    "cwd": "use container.working_dir",
    "user": "use container.user",
    "group": 'use container.user = "UID:GID"',
    "umask": "drop it",
    "nofile": "drop it",
}


def _restart(table: schema.RestartTable) -> RestartPolicy:
    return RestartPolicy(
        when=table.policy,
        initial_backoff=table.initial_backoff,
        backoff_factor=table.backoff_factor,
        max_backoff=table.max_backoff,
        jitter=table.jitter,
        max_restarts=table.max_restarts,
        window=table.window,
        min_uptime=table.min_uptime,
        success_exit_codes=frozenset(table.success_exit_codes),
        fatal_exit_codes=frozenset(table.fatal_exit_codes),
        recovery=table.recovery,
    )


def _within(table: Mapping[str, Any], keys: Path) -> str:
    found: Any = table
    for key in keys:
        found = found[key]
    return str(found)
