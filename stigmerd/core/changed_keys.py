"""Which keys of the file differ between two specs of a component: names alone, never a value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass

from stigmerd.core.spec import ComponentSpec, ContainerSpec, ProbeSpec

_WORDS = {
    "argv": "command",
    "when": "policy",
    "restart_with_dependency": "on_dependency_restart",
    "pass_env": "preset",
    "extra_hosts": "preset",
}
"""The file's word for a field that has another name."""

_DERIVED = {"display_command", "name", "runs"}


def changed_keys(old: ComponentSpec, new: ComponentSpec) -> tuple[str, ...]:
    """The keys that differ, as the file spells them, such as ``restart.window`` or ``env.TOKEN``."""
    found = [*_runs(old, new)]
    for each in fields(ComponentSpec):
        if each.compare and each.name not in _DERIVED:
            found += _differences(_WORDS.get(each.name, each.name), getattr(old, each.name), getattr(new, each.name))
    if not found and old.display_command != new.display_command:
        found.append("command")  # written in another way, and the same in the end
    return tuple(dict.fromkeys(found))


def _runs(old: ComponentSpec, new: ComponentSpec) -> Iterator[str]:
    if type(old.runs) is not type(new.runs):
        yield "container" if isinstance(new.runs, ContainerSpec) else "command"
        return
    prefix = "container." if isinstance(new.runs, ContainerSpec) else ""
    for each in fields(new.runs):
        word = _WORDS.get(each.name, each.name)
        before, after = getattr(old.runs, each.name), getattr(new.runs, each.name)
        if word == "preset":
            yield from [word] if before != after else []
        else:
            yield from _differences(word if word == "env" else f"{prefix}{word}", before, after)


def _differences(path: str, old: object, new: object) -> Iterator[str]:
    if old == new:
        return
    if isinstance(old, ProbeSpec) and isinstance(new, ProbeSpec) and old.handler_name != new.handler_name:
        yield f"{path}.{new.handler_name}"
    elif isinstance(old, Mapping) and isinstance(new, Mapping):
        names = (*old, *(name for name in new if name not in old))
        yield from (f"{path}.{name}" for name in names if old.get(name) != new.get(name))
    elif is_dataclass(old) and type(old) is type(new):
        for each in fields(old):
            word = old.handler_name if isinstance(old, ProbeSpec) and each.name == "handler" else each.name
            yield from _differences(
                f"{path}.{_WORDS.get(word, word)}", getattr(old, each.name), getattr(new, each.name)
            )
    else:
        yield path
