"""A compose file: every service becomes a component that is a container.

Source: https://github.com/compose-spec/compose-spec. Where a file is spread over others (``extends``,
``include``), ``docker compose config`` writes it as one, which can be imported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from stigmerd.config import values
from stigmerd.config.files import TrustedFiles
from stigmerd.config.files import variables as read_variables
from stigmerd.config.imports.compose_variables import Variables
from stigmerd.config.imports.result import Import, ImportRefusedError, Table, sentence
from stigmerd.config.imports.yaml_text import read_yaml
from stigmerd.config.interpolate import split, substitute
from stigmerd.config.problems import RefusedError

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(us|ms|s|m|h)")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}

FLATTEN = "Write one file with docker compose config, and import that"
NO_KEY = "a component has no such key"

LEFT_OF_SERVICE: Mapping[str, tuple[str, str]] = {
    "extends": ("other files are not followed", FLATTEN),
    "logging": ("the daemon copies the output into HOME/logs/NAME.log", "Bound it with log.max_size and log.keep"),
    "secrets": ("there are no secrets of an engine", "Mount a file with volumes, or use ${NAME} in env"),
    "configs": ("there are no configs of an engine", "Mount a file with volumes"),
    "scale": ("one component is one container", "Write a component for each"),
    "deploy": ("nothing is deployed to a swarm, or limited", "Set limits where the engine is run"),
    "tmpfs": ("no tmpfs is mounted", "Use a volume"),
    "links": ("links are of the past", "Use a network of your own: container.network"),
}
"""Why a key has no place here, and what to do instead; :data:`NO_KEY` for those that are not named."""

MEANT_FOR_OTHERS = frozenset({"expose", "attach", "annotations", "develop", "stdin_open", "tty"})
"""Keys that change nothing about a container that runs by itself."""

CONDITIONS = {"service_started": "started", "service_healthy": "ready", "service_completed_successfully": "completed"}
POLICIES = {"no": "never", "false": "never", "always": "always", "unless-stopped": "always", "on-failure": "on-failure"}
PULLS = {"never": "never", "build": "never", "missing": "missing", "if_not_present": "missing"}


class _OddError(Exception):
    """A value that a compose file cannot have there, or that we cannot have here. Why, and what to do instead."""

    def __init__(self, why: str, instead: str = "") -> None:
        super().__init__(why)
        self.why, self.instead = why, instead


def read_compose(text: str, found: Import, environ: Mapping[str, str]) -> None:
    """Make a component of every service.

    Raises:
        ImportRefusedError: it is no compose file, or has no service.
    """
    document = read_yaml(text, found.source)
    services = document.get("services") if isinstance(document, dict) else None
    if not isinstance(services, dict) or not services:
        raise ImportRefusedError(f"{found.source} has no services: is it a compose file?")
    project = _Project(document=document, found=found, variables=Variables(environ=environ, dotenv=_dotenv(found)))
    names: dict[str, str] = {}
    for name, keys in services.items():
        service = _Service(name=str(name), keys=keys if isinstance(keys, dict) else {}, project=project)
        names[service.name] = found.add(service.section, service.name, service.table())
    _connect(services, names, found)
    project.leave_rest()


def _dotenv(found: Import) -> dict[str, str]:
    """The variables beside the file; they go into ours as defaults, since the daemon knows no such file."""
    path = found.absolute(".env")
    try:
        return read_variables(TrustedFiles(os.geteuid()).read(path), path)
    except RefusedError as refused:
        if os.path.lexists(path):
            found.leave(".env", "", str(refused.said), f"{sentence(refused.advice)}, and import again")
        return {}


def _connect(services: Mapping[str, Any], names: Mapping[str, str], found: Import) -> None:
    """Make sure that what components wait for can come to be."""
    for service, name in names.items():
        table = found.components[name]
        wanted: dict[str, str] = {}
        for other, condition in table.pop("depends_on", {}).items():
            target = found.components.get(names.get(other, ""))
            place = (f"services.{service}", f"depends_on.{other}")
            if target is None:
                found.leave(*place, "there is no such service in this file", "Start it by hand before")
            elif table.get("enabled", True) and not target.get("enabled", True):
                found.leave(*place, "that service has a profile, so it is not enabled", "Enable it, and add it again")
            elif condition == "completed" and target["restart"]["policy"] == "always":
                found.leave(*place, f"{other} is always restarted, so it never completes", 'It is "started" here')
                wanted[names[other]] = "started"
            else:
                wanted[names[other]] = condition
                if condition == "ready":
                    target.setdefault("readiness", {"container": {}})
        if wanted:
            table["depends_on"] = wanted


@dataclass(kw_only=True)
class _Project:
    """What services share."""

    document: Mapping[str, Any]
    found: Import
    variables: Variables

    @property
    def name(self) -> str:
        """The project's name, which compose puts before those of its images and volumes."""
        dotenv, environ = self.variables.dotenv, self.variables.environ
        given = environ.get("COMPOSE_PROJECT_NAME") or dotenv.get("COMPOSE_PROJECT_NAME")
        own = self.document.get("name")
        name = given or (self.variables.filled(own) if isinstance(own, str) else os.path.basename(self.found.folder))
        return re.sub(r"[^a-z0-9_-]", "", name.lower()).lstrip("_-") or "default"

    def resource(self, kind: str, key: str) -> tuple[str, bool]:
        """The engine's name of a volume or network, and whether it has been made outside of compose."""
        tables = self.document.get(kind)
        table = tables.get(key) if isinstance(tables, dict) else None
        table = table if isinstance(table, dict) else {}
        is_external = table.get("external") not in {None, "false"}
        default = key if is_external else f"{self.name}_{key}"
        return self.variables.filled(str(table.get("name") or default)), is_external

    def leave_rest(self) -> None:
        """Note what is left of the top of the file."""
        services = self.document["services"]
        bridged = [n for n, s in services.items() if not (isinstance(s, dict) and s.get("network_mode"))]
        if len(bridged) > 1:
            self.found.leave(
                "networks",
                "default",
                "no network is made, so containers do not find each other by the names of services",
                f"Run docker network create {self.name}, and give each container network = {self.name!r} and a name",
            )
        for key in self.document:
            if key in {"include", "secrets", "configs", "models"}:
                self.found.leave(key, "", *LEFT_OF_SERVICE.get(key, ("other files are not followed", FLATTEN)))
        volumes = self.document.get("volumes")
        for name, table in (volumes if isinstance(volumes, dict) else {}).items():
            for key in table if isinstance(table, dict) else ():
                if key not in {"name", "external", "labels"} and (key, table[key]) != ("driver", "local"):
                    instead = f"Run docker volume create for {self.resource('volumes', name)[0]!r} before"
                    self.found.leave(f"volumes.{name}", key, "a volume is made with the engine's defaults", instead)


@dataclass(kw_only=True)
class _Service:
    """One service."""

    name: str
    keys: Mapping[str, Any]
    project: _Project
    _container: Table = field(default_factory=dict)
    _component: Table = field(default_factory=dict)

    @property
    def section(self) -> str:
        """Where it stands."""
        return f"services.{self.name}"

    def table(self) -> Table:
        """Its component, whose dependencies still have the names of services."""
        self._container |= {"image": f"{self.project.name}-{self.name}", "pull": "missing"}
        self._component["restart"] = {"policy": "never"}
        for key, value in self.keys.items():
            self._carry(str(key), value)
        return {"container": self._container, **self._component}

    def _carry(self, key: str, value: Any) -> None:  # noqa: ANN401  (YAML is what it is)
        carrier = _CARRIERS.get(key)
        try:
            if carrier is not None and value is not None:
                carrier(self, value)
            elif carrier is None and key not in MEANT_FOR_OTHERS and not key.startswith("x-"):
                raise _OddError(*LEFT_OF_SERVICE.get(key, (NO_KEY, "")))
        except _OddError as odd:
            self._leave(key, odd.why, odd.instead)
        except RefusedError as refused:
            self._leave(key, refused.said or "the value has no meaning here", sentence(refused.advice))

    def _leave(self, key: str, why: str, instead: str = "") -> None:
        self.project.found.leave(self.section, key, why, instead)

    # Values.

    def _text(self, value: object) -> str:
        """A string, with our own ``${}``."""
        if not isinstance(value, str):
            raise _OddError("it is no text")
        return self.project.variables.carried(value)

    def _filled(self, value: object) -> str:
        if not isinstance(value, str):
            raise _OddError("it is no text")
        return self.project.variables.filled(value)

    def _words(self, value: object) -> list[str]:
        """A command: a list as it is, a string split."""
        words = [self._text(word) for word in value] if isinstance(value, list) else split(self._text(value))
        if not words:
            raise _OddError("it is empty, and the image's own cannot be taken away", "Build an image without it")
        return words

    def _pairs(self, value: object) -> Iterator[tuple[str, str | None]]:
        """A mapping, or a list of ``KEY=VALUE``; None where there is no value."""
        if isinstance(value, dict):
            yield from ((str(key), None if item is None else self._text(item)) for key, item in value.items())
            return
        for item in self._list(value):
            key, equals, text = self._text(item).partition("=")
            yield key, text if equals else None

    def _list(self, value: object) -> list[Any]:
        if not isinstance(value, list):
            raise _OddError("it is no list")
        return value

    def _read(self, reader: Callable[[Any, values.Fill], object], text: str) -> str:
        """The text, if the configuration may have it there."""
        variables = self.project.variables
        reader(text, lambda each: substitute(each, {**variables.dotenv, **variables.environ}))
        return text

    # Keys.

    def _image(self, value: object) -> None:
        self._container["image"] = self._text(value)

    def _build(self, value: object) -> None:
        self._container["pull"] = "never"
        raise _OddError("images are not built here", f"Build it with: docker compose build {self.name}")

    def _pull_policy(self, value: object) -> None:
        policy = PULLS.get(self._filled(value))
        if policy is None:
            raise _OddError(f"an image is pulled when it is missing, not {value}", "Pull it by hand")
        self._container["pull"] = policy

    def _command(self, value: object) -> None:
        self._container["command"] = self._words(value)

    def _entrypoint(self, value: object) -> None:
        self._container["entrypoint"] = self._words(value)

    def _environment(self, value: object) -> None:
        # A name alone is passed on from where compose is run.
        self._container["env"] = {
            name: self.project.variables.carried(f"${{{name}}}") if text is None else text
            for name, text in self._pairs(value)
        }

    def _env_file(self, value: object) -> None:
        entries = value if isinstance(value, list) else [value]
        paths: list[str] = []
        for entry in entries:
            path = self._filled(entry.get("path") if isinstance(entry, dict) else entry)
            required = not isinstance(entry, dict) or entry.get("required") != "false"
            if required or os.path.exists(self.project.found.absolute(path)):
                paths += filter(None, [self.project.found.env_file(self.section, "env_file", path)])
        for path, table in zip(reversed(paths), (self._container, self._component), strict=False):
            table["env_file"] = self.project.variables.carried(path.replace("$", "$$"))
        if len(paths) > 2:
            raise _OddError("a component has two at most", "Put the others together: the last two are here")

    def _ports(self, value: object) -> None:
        for item in self._list(value):
            text = self._long_port(item) if isinstance(item, dict) else self._text(item)
            if ":" not in text:
                self._leave("ports", f"{text} names no port of this machine", f'Write "{text}:{text}"')
                continue
            self._container.setdefault("ports", []).append(self._read(values.port_mapping, text))

    def _long_port(self, item: Mapping[str, Any]) -> str:
        parts = [self._text(item[key]) for key in ("host_ip", "published", "target") if item.get(key)]
        protocol = self._text(item["protocol"]) if item.get("protocol") not in {None, "tcp"} else ""
        return ":".join(parts) + (f"/{protocol}" if protocol else "")

    def _volumes(self, value: object) -> None:
        for item in self._list(value):
            try:
                text = self._long_volume(item) if isinstance(item, dict) else self._volume(self._text(item))
                self._container.setdefault("volumes", []).append(self._read(values.volume, text))
            except _OddError as odd:
                self._leave("volumes", odd.why, odd.instead)

    def _volume(self, text: str) -> str:
        source, colon, rest = text.partition(":")
        if source.startswith("${"):
            return text  # whether it is a folder or a volume shows at the start
        if not colon:
            raise _OddError(f"{text} has no source", f'Give the volume a name: "NAME:{text}"')
        if source.startswith((".", "/", "~")):
            return f"{self.project.found.absolute(source)}:{rest}"
        return f"{self.project.resource('volumes', source)[0]}:{rest}"

    def _long_volume(self, item: Mapping[str, Any]) -> str:
        kind, source, target = (self._text(item.get(key) or "") for key in ("type", "source", "target"))
        if kind not in {"bind", "volume"} or not source:
            raise _OddError(f"{target} is mounted as {kind or 'nothing'} without a source", "Use a volume with a name")
        text = self._volume(f"{source}:{target}" if kind == "volume" or "/" in source else f"./{source}:{target}")
        return f"{text}:ro" if item.get("read_only") == "true" else text

    def _network_mode(self, value: object) -> None:
        mode = self._filled(value)
        if ":" in mode:
            raise _OddError("the network of another container cannot be shared", "Use a network of your own")
        self._container["network"] = mode

    def _networks(self, value: object) -> None:
        names = [str(name) for name in value if name != "default"] if isinstance(value, list | dict) else []
        for name in names:
            network, is_external = self.project.resource("networks", name)
            if is_external and "network" not in self._container:
                self._container["network"] = network
            else:
                instead = f"Run docker network create {network}, and add container.network = {network!r}"
                self._leave("networks", f"{name} is not made here, and a container has one network", instead)

    def _user(self, value: object) -> None:
        self._container["user"] = self._text(value)

    def _working_dir(self, value: object) -> None:
        self._container["working_dir"] = self._text(value)

    def _container_name(self, value: object) -> None:
        self._container["name"] = self._read(values.container_name, self._text(value))

    def _labels(self, value: object) -> None:
        self._container["labels"] = {name: text or "" for name, text in self._pairs(value)}

    def _depends_on(self, value: object) -> None:
        entries = value if isinstance(value, dict) else dict.fromkeys(map(str, self._list(value)))
        wanted: dict[str, str] = {}
        for name, entry in entries.items():
            keys = entry if isinstance(entry, dict) else {}
            wanted[str(name)] = CONDITIONS.get(keys.get("condition", "service_started"), "started")
            if keys.get("restart") == "true":
                self._component["on_dependency_restart"] = "restart"
            if keys.get("required") == "false":
                self._leave(f"depends_on.{name}.required", "a dependency is always required", "Drop it if need be")
        self._component["depends_on"] = wanted

    def _restart(self, value: object) -> None:
        policy, _, count = self._filled(value).partition(":")
        if policy not in POLICIES:
            raise _OddError(f"{policy} is no policy")
        self._component["restart"] = {"policy": POLICIES[policy]}
        if re.fullmatch("[0-9]{1,6}", count):
            self._component["restart"]["max_restarts"] = int(count)

    def _healthcheck(self, value: object) -> None:
        check = value if isinstance(value, dict) else {}
        test = check.get("test")
        if check.get("disable") == "true" or test in (None, ["NONE"]):
            return
        probe: Table = {"exec": {"command": self._test(test)}, "period": self._seconds(check.get("interval") or "30s")}
        timeout = self._seconds(check.get("timeout") or "30s")
        if timeout <= 1:
            probe["timeout"] = timeout
        elif check.get("timeout"):
            self._leave("healthcheck.timeout", "no attempt outlives one second", "Have the check answer within it")
        retries = self._filled(check.get("retries") or "3")
        if re.fullmatch("[0-9]{1,6}", retries):
            probe["failure_threshold"] = max(1, int(retries))
        self._component["readiness"] = {
            key: f"{item:g}s" if isinstance(item, float) else item for key, item in probe.items()
        }

    def _test(self, test: object) -> list[str]:
        if isinstance(test, str):
            return ["/bin/sh", "-c", self._text(test)]
        kind, *words = [self._text(word) for word in self._list(test)]
        if kind == "CMD-SHELL" and words:
            return ["/bin/sh", "-c", words[0]]
        if kind == "CMD" and words:
            return words
        raise _OddError("its test is none", 'Write readiness = { exec = { command = ["..."] } }')

    def _seconds(self, value: object) -> float:
        text = self._filled(value)
        parts = _DURATION.findall(text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            raise _OddError(f"{text} is no duration", 'Write one such as "10s"')
        return sum(float(number) * _SECONDS[unit] for number, unit in parts)

    def _stop_signal(self, value: object) -> None:
        self._component.setdefault("stop", {})["signal"] = self._read(values.stop_signal, self._text(value))

    def _stop_grace_period(self, value: object) -> None:
        self._component.setdefault("stop", {})["grace"] = f"{self._seconds(value):g}s"

    def _profiles(self, value: object) -> None:
        if self._list(value):
            self._component["enabled"] = False
            names = ", ".join(map(str, self._list(value)))
            raise _OddError(f"there are no profiles, such as {names}", "It is not enabled: start it by its name")


_CARRIERS: Mapping[str, Callable[[_Service, Any], None]] = {
    name: getattr(_Service, f"_{name}")
    for name in (
        *("image", "build", "pull_policy", "command", "entrypoint", "environment", "env_file", "ports", "volumes"),
        *("network_mode", "networks", "user", "working_dir", "container_name", "labels", "depends_on", "restart"),
        *("healthcheck", "stop_signal", "stop_grace_period", "profiles"),
    )
}
"""The keys of a service that are carried over, by the method that does it."""
