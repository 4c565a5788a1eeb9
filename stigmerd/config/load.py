"""Reads a configuration: the file, its presets and defaults, to one frozen StackSpec, or every error at once.

All functions here block on the disk. None of them starts, looks up or touches anything else.
"""

from __future__ import annotations

import functools
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from stigmerd.config import schema
from stigmerd.config.component import Resolver, Surroundings
from stigmerd.config.files import ABSENT, TrustedFiles, is_changed
from stigmerd.config.interpolate import secrets, substitute
from stigmerd.config.merge import layered
from stigmerd.config.presets import NONE, PRESETS, Preset, Setting
from stigmerd.config.problems import (
    ConfigError,
    Findings,
    Path,
    Problem,
    RefusedError,
    either,
    kind_of,
    nearest,
    quoted,
    spell,
)
from stigmerd.config.reference import DEFAULT_PORT, reference_document
from stigmerd.config.toml_lines import key_lines, repeated_key
from stigmerd.config.walk import Walker
from stigmerd.core.order import find_cycle
from stigmerd.core.spec import (
    NAME_PATTERN,
    RESERVED_NAMES,
    ComponentSpec,
    Condition,
    ContainerSpec,
    DaemonSpec,
    RestartWhen,
    StackSpec,
)

FILE_NAME = "stigmer.toml"


def configuration_path(path: str | None, *, home: str) -> str | None:
    """The absolute path of the file to be read, or None where the reference stack is to run."""
    if path is not None:
        return os.path.abspath(path)
    default = os.path.join(os.path.abspath(home), FILE_NAME)
    return default if os.path.lexists(default) else None


def load_stack(
    path: str | None,
    *,
    home: str,
    environ: Mapping[str, str],
    agent_in_container: bool = False,
    trusted_uid: int | None = None,
    must_exist: bool = False,
) -> StackSpec:
    """Read the file at ``path``, else HOME/stigmer.toml, else describe the reference stack.

    ``environ`` is the daemon's, for ``${}``. ``trusted_uid`` is the daemon's user, by default the
    present one. ``must_exist`` forbids the reference stack: for a reload after a file was read.
    ``agent_in_container`` matters to the reference stack only.

    Raises:
        ConfigError: with every error at once. Never for what only a start could tell, such as a
            program that is missing.
    """
    home = os.path.abspath(home)
    uid = os.geteuid() if trusted_uid is None else trusted_uid
    source = configuration_path(path, home=home)
    if source is None and must_exist:
        source = os.path.join(home, FILE_NAME)
    if source is None:
        return _reference_stack(home, environ, uid, agent_in_container=agent_in_container)
    if any("\udc80" <= character <= "\udcff" for character in source):  # JSON, which the state is, could not name it
        raise _one_error("the path of the file is not valid UTF-8: rename it", ascii(source))
    files = TrustedFiles(uid)
    text, document = _parsed(source, files)
    around = Surroundings(folder=os.path.dirname(source), is_root=uid == 0, files=files)
    stack = _Loader(around=around, home=home, environ=environ, text=text, source=source).load(document)
    return replace(stack, source=source, fingerprint=files.fingerprint())


def check_file(
    path: str | None, *, home: str, environ: Mapping[str, str], trusted_uid: int | None = None
) -> tuple[Problem, ...]:
    """Every error of the configuration that :func:`load_stack` would read, or ()."""
    try:
        load_stack(path, home=home, environ=environ, trusted_uid=trusted_uid)
    except ConfigError as exc:
        return exc.errors
    return ()


def is_stale(spec: StackSpec) -> bool:
    """Whether a file that ``spec`` was read from holds something else now, is gone, or has come to be.

    It reads those files again, some kilobytes: a change within one tick of a clock shows too.
    """
    return is_changed(spec.fingerprint)


def _reference_stack(
    home: str, environ: Mapping[str, str], uid: int, *, agent_in_container: bool
) -> StackSpec:
    written = environ.get("GRPC_PORT") or str(DEFAULT_PORT)
    if not re.fullmatch(r"[0-9]{1,5}", written) or not 1 <= int(written) <= 65535:
        sentence = f"GRPC_PORT in the environment is {quoted(written)}: give a port from 1 to 65535"
        raise ConfigError([Problem(path="GRPC_PORT", message=sentence)])
    document = reference_document(port=int(written), agent_in_container=agent_in_container)
    around = Surroundings(folder=home, is_root=uid == 0, files=TrustedFiles(uid))
    stack = _Loader(around=around, home=home, environ=environ, text="", source=None).load(document)
    return replace(stack, fingerprint=f"{ABSENT}  {os.path.join(home, FILE_NAME)}")


def _parsed(source: str, files: TrustedFiles) -> tuple[str, dict[str, Any]]:
    """The text and what TOML makes of it."""
    try:
        text = files.read(source).decode("utf-8-sig")
        return text, tomllib.loads(text)
    except RefusedError as refused:
        raise _one_error(f"{refused.said}: {refused.advice}", source) from refused
    except UnicodeDecodeError as exc:
        before = files.read(source)[: exc.start]
        line, column = before.count(b"\n") + 1, exc.start - before.rfind(b"\n")
        raise _one_error("the file is not UTF-8: save it as UTF-8", source, line=line, column=column) from None
    except tomllib.TOMLDecodeError as exc:
        raise _syntax_error(str(exc), text, source) from None
    except ValueError:  # of int(), which reads at most 4300 digits
        raise _one_error("no valid TOML: a number has too many digits", source) from None
    except RecursionError:
        raise _one_error("the file is nested too deeply: no key needs that", source) from None


def _one_error(
    message: str, source: str, *, path: str = "", line: int | None = None, column: int | None = None
) -> ConfigError:
    return ConfigError([Problem(path=path, message=message, line=line, column=column)], source=source)


def _syntax_error(message: str, text: str, source: str) -> ConfigError:
    """What tomllib said, with line and column; of a name that is there twice also its key path."""
    match = re.search(r" \(at line ([0-9]+), column ([0-9]+)\)$", message)
    if match is None:  # "(at end of document)"
        line, column = text.count("\n") + 1, len(text) - text.rfind("\n")
    else:
        line, column = int(match[1]), int(match[2])
    said = re.sub(r" \(at [^()]*\)$", "", message)
    if re.match(r"Cannot (overwrite|declare|mutate)|Duplicate", said):
        path = spell(repeated_key(text, line))
        return _one_error(f"{path} is there twice: drop one of them", source, path=path, line=line, column=column)
    advice = next((f": {advice}" for pattern, advice in _SYNTAX_ADVICE if re.match(pattern, said)), "")
    return _one_error(f"no valid TOML: {said}{advice}", source, line=line, column=column)


_SYNTAX_ADVICE = (
    ("Invalid value", 'put a text into quotes, such as "text"'),
    ("Unescaped", r"write '...' around a text with a backslash, or \\ for each"),
    ("Illegal character", "close the quotation on the same line"),
    ("Invalid initial character for a key part", "a table in braces stands on one line, without a comma at its end"),
    ("Expected '=' after a key", "write key = value"),
    ("Unclosed array", "close it with ]"),
)
"""What to do about what the parser says, by how that begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loader:
    """Makes a StackSpec of one parsed document."""

    around: Surroundings
    home: str
    environ: Mapping[str, str]
    text: str
    source: str | None

    def load(self, document: dict[str, Any]) -> StackSpec:
        findings = Findings()
        walker = Walker(self._fill, findings)
        tables = document.get("component", {})
        # Components are read one by one, merged; what is left are the keys around them.
        shell = {key: value for key, value in document.items() if key != "component"}
        for name in [name for name, table in shell.items() if _is_stray_component(name, table)]:
            findings.add((name,), f"is no known table: write [component.{name}] for a component")
            del shell[name]
        stack = walker.read(schema.StackTable, shell, ())
        if not isinstance(tables, dict):
            findings.add(("component",), f"is {kind_of(tables)}: give a table [component.NAME] for each")
            tables = {}
        components = self._components(document, tables, findings)
        if findings:
            raise ConfigError(findings.problems(self._line_finder()), source=self.source)
        return StackSpec(daemon=self._daemon(stack.daemon), components=components)

    def _fill(self, text: str) -> str:
        return substitute(text, self.environ)

    def _daemon(self, table: schema.DaemonTable) -> DaemonSpec:
        binary = table.stigmer_binary
        return DaemonSpec(
            log_level=table.log_level,
            stigmer_binary=None if binary is None else self.around.absolute(binary),
        )

    def _components(
        self, document: dict[str, Any], tables: dict[str, Any], findings: Findings
    ) -> dict[str, ComponentSpec]:
        defaults = document.get("defaults", {})
        daemon = document.get("daemon", {})
        binary = daemon.get("stigmer_binary") if isinstance(daemon, dict) else None
        # A binary that is no string was reported where it stands.
        setting = Setting(home=self.home, stigmer_binary=None if binary is None else str(binary))
        resolved = [
            self._component(name, own, defaults if isinstance(defaults, dict) else {}, setting, findings)
            for name, own in tables.items()
        ]
        read = {resolver.name: resolver.table for resolver, _ in filter(None, resolved)}
        components = {spec.name: spec for _, spec in filter(None, resolved) if spec is not None}
        _check_dependencies(read, tuple(tables), findings)
        _check_container_names(components, findings)
        return components

    def _component(
        self, name: str, own: object, defaults: dict[str, Any], setting: Setting, findings: Findings
    ) -> tuple[Resolver, ComponentSpec | None] | None:
        place: Path = ("component", name)
        if not re.fullmatch(NAME_PATTERN, name):
            findings.add(place, 'is no component name: use 1 to 63 of a-z, 0-9, "_" and "-", a letter or digit first')
        elif name in RESERVED_NAMES:
            findings.add(place, "is a reserved name: choose another")
        if not isinstance(own, dict):
            findings.add(place, f"is {kind_of(own)}: give a table with a command or a container")
            return None
        preset = self._preset(own, place, setting, findings)
        if preset is None:
            return None
        local = Findings()
        raw = layered(name, preset.table, defaults, own)
        table = Walker(self._fill, local).read(schema.ComponentTable, raw, place)
        resolver = Resolver(
            name=name, raw=raw, table=table, preset=preset, around=self.around, findings=local
        )
        spec = resolver.spec()
        if spec is not None:
            spec = replace(spec, secrets={**resolver.env_secrets, **secrets(raw, self.environ)})
        findings.extend(local, functools.partial(_origin, own, defaults))
        return resolver, spec

    def _preset(self, own: dict[str, Any], place: Path, setting: Setting, findings: Findings) -> Preset | None:
        """The component's preset; None, and a finding, where there is none of that name."""
        if "preset" not in own:
            return NONE
        written = own["preset"]
        try:
            name = self._fill(written) if isinstance(written, str) else written
        except RefusedError as refused:
            findings.add((*place, "preset"), f"{refused.said}: {refused.advice}")
            return None
        make = PRESETS.get(name) if isinstance(name, str) else None
        if make is None:
            # What is near to a secret would tell of it.
            advice = nearest(str(name), PRESETS) if name == written else f"give {either(PRESETS)}"
            findings.add((*place, "preset"), f"is {quoted(written)}, no known preset: {advice}")
            return None
        return make(setting)

    def _line_finder(self) -> Callable[[Path], int | None]:
        lines: dict[Path, int] = {}
        for path, line in key_lines(self.text):
            lines.setdefault(path, line)

        def line_of(path: Path) -> int | None:
            """The line of the key, else of the nearest table around it."""
            while path and path not in lines:
                path = path[:-1]
            return lines.get(path)

        return line_of


def _is_stray_component(name: str, table: object) -> bool:
    """Whether a table at the top of the file would be a component in its own place."""
    is_component = isinstance(table, dict) and not table.keys().isdisjoint({"command", "container", "preset"})
    return is_component and name not in {"daemon", "defaults"}


def _origin(own: dict[str, Any], defaults: dict[str, Any], path: Path) -> Path:
    """Where the value at a component's path was written: in the component, else in ``[defaults]``."""
    keys = path[2:]
    if keys and not _has(own, keys) and _has(defaults, keys):
        return ("defaults", *keys)
    return path


def _has(table: Any, keys: Path) -> bool:  # noqa: ANN401  (whatever TOML gave)
    for key in keys:
        if isinstance(table, dict) and key in table:
            table = table[key]
        elif not (isinstance(table, list) and isinstance(key, int) and key < len(table)):
            return False
        else:
            table = table[key]
    return True


def _check_dependencies(
    components: Mapping[str, schema.ComponentTable], names: tuple[str, ...], findings: Findings
) -> None:
    """``names`` are all components of the file, those included that could not be read."""
    for name, component in components.items():
        for other, condition in component.depends_on.items():
            if other == name:
                sentence = "is the component itself: drop it"
            elif other not in names:
                others = [each for each in names if each != name]
                advice = nearest(other, others) if others else f"add [component.{other}], or drop it"
                sentence = f"is no component of this file: {advice}"
            else:
                sentence = _unmeetable(name, other, condition, components)
            if sentence:
                findings.add(("component", name, "depends_on", other), sentence)
    _check_cycles(components, findings)


def _unmeetable(
    name: str, other: str, condition: Condition, components: Mapping[str, schema.ComponentTable]
) -> str:
    """Why this dependency on a component that exists could never be met, or ""."""
    dependency = components.get(other)
    if dependency is None:
        return ""
    if components[name].enabled and not dependency.enabled:
        return f"is a disabled component: enable it, or disable {name} too"
    if condition is Condition.COMPLETED and dependency.restart.policy is RestartWhen.ALWAYS:
        return (
            f'is "completed", which {other} never is under the restart policy "always": '
            f'set component.{other}.restart.policy to "on-failure" or "never"'
        )
    return ""


def _check_cycles(components: Mapping[str, schema.ComponentTable], findings: Findings) -> None:
    """Note each cycle at one of its dependencies; without that one, look for the next."""
    graph = {
        name: [other for other in component.depends_on if other != name]
        for name, component in components.items()
    }
    while cycle := find_cycle(graph):
        findings.add(
            ("component", cycle[0], "depends_on", cycle[1]),
            f"is part of the cycle {' -> '.join(cycle)}: drop one of these dependencies",
        )
        graph[cycle[0]].remove(cycle[1])


def _check_container_names(components: Mapping[str, ComponentSpec], findings: Findings) -> None:
    owners: dict[str, str] = {}
    for component in components.values():
        if isinstance(component.runs, ContainerSpec):
            owner = owners.setdefault(component.runs.name, component.name)
            if owner != component.name:
                findings.add(
                    ("component", component.name, "container", "name"),
                    f"is the container name of {owner} too: choose another",
                )
