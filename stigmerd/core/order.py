"""The order in which components start and stop, and what a new configuration changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field

from stigmerd.core.changed_keys import changed_keys
from stigmerd.core.spec import ComponentSpec


def find_cycle(dependencies: Mapping[str, Iterable[str]]) -> tuple[str, ...] | None:
    """The names along one cycle, first one repeated at the end, or None. Unknown names are no part of any."""
    done: set[str] = set()
    for start in dependencies:
        path: list[str] = []
        stack = [(start, iter(tuple(dependencies[start])))]
        path.append(start)
        while stack:
            name, rest = stack[-1]
            for dependency in rest:
                if dependency in path:
                    return (*path[path.index(dependency) :], dependency)
                if dependency in dependencies and dependency not in done:
                    path.append(dependency)
                    stack.append((dependency, iter(tuple(dependencies[dependency]))))
                    break
            else:
                done.add(name)
                path.pop()
                stack.pop()
    return None


def start_order(components: Mapping[str, ComponentSpec]) -> tuple[str, ...]:
    """Every name, each after its dependencies, else in the order of the file. The graph has no cycle."""
    ordered: dict[str, None] = {}
    for name in components:
        pending = [name]
        while pending:
            unmet = [d for d in components[pending[-1]].depends_on if d not in ordered and d in components]
            if unmet:
                pending.extend(reversed(unmet))
            else:
                ordered.setdefault(pending.pop())
    return tuple(ordered)


def stop_order(components: Mapping[str, ComponentSpec]) -> tuple[str, ...]:
    """Every name, each after its dependents: the reverse of the start order."""
    return tuple(reversed(start_order(components)))


def stop_waves(dependencies: Mapping[str, Iterable[str]]) -> list[set[str]]:
    """Every name, in groups that may stop at once, dependents first. Names on a cycle, which no configuration
    allows, and what they depend on stop together in the last one."""
    left = {name: set(needed) for name, needed in dependencies.items()}
    waves = []
    while left:
        needed = set().union(*left.values())
        wave = {name for name in left if name not in needed} or set(left)
        waves.append(wave)
        for name in wave:
            del left[name]
    return waves


def with_dependencies(names: Iterable[str], components: Mapping[str, ComponentSpec]) -> tuple[str, ...]:
    """The names and all that they depend on, in start order."""
    wanted: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name not in wanted:
            wanted.add(name)
            pending.extend(components[name].depends_on)
    return tuple(name for name in start_order(components) if name in wanted)


def direct_dependents(components: Mapping[str, ComponentSpec]) -> dict[str, list[str]]:
    """For each component that others depend on directly, those others, in the order of the file."""
    direct: dict[str, list[str]] = {}
    for other in components.values():
        for dependency in other.depends_on:
            direct.setdefault(dependency, []).append(other.name)
    return direct


def nearest_dependents(names: Set[str], components: Mapping[str, ComponentSpec]) -> dict[str, set[str]]:
    """For each of ``names`` those among them that depend on it, directly or through others that are not."""
    direct = direct_dependents(components)
    found = {}
    for name in names:
        seen: set[str] = set()
        pending = list(direct.get(name, ()))
        while pending:
            dependent = pending.pop()
            if dependent not in seen and dependent not in names:
                pending.extend(direct.get(dependent, ()))
            seen.add(dependent)
        found[name] = seen & names
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a reload does. Names are in the order of the file (``removed``: of the old one).

    ``changed`` differ in any key, which ``keys`` names; ``restarted`` are those among them that need
    a new life, ``following`` ask to be restarted with one of those. ``started`` and ``stopped`` are
    enabled or disabled now. ``daemon`` are keys of the ``[daemon]`` table.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    following: tuple[str, ...] = ()
    started: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()
    daemon: tuple[str, ...] = ()
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether nothing changes."""
        return not (self.added or self.removed or self.changed or self.daemon)

    @property
    def begun(self) -> tuple[str, ...]:
        """The components that begin a life."""
        return (*self.added, *self.restarted, *self.following, *self.started)


def difference(old: Mapping[str, ComponentSpec], new: Mapping[str, ComponentSpec]) -> Change:
    """Compare two configurations."""
    changed = tuple(name for name, spec in new.items() if name in old and old[name] != spec)
    return Change(
        added=tuple(name for name in new if name not in old),
        removed=tuple(name for name in old if name not in new),
        changed=changed,
        restarted=tuple(name for name in changed if old[name].definition != new[name].definition),
        started=tuple(name for name in changed if new[name].enabled and not old[name].enabled),
        stopped=tuple(name for name in changed if old[name].enabled and not new[name].enabled),
        keys={name: changed_keys(old[name], new[name]) for name in changed},
    )


def followers(names: Iterable[str], components: Mapping[str, ComponentSpec]) -> tuple[str, ...]:
    """The components that begin a new life when one of ``names`` does, directly or through another."""
    begun = set(names)
    found: list[str] = []
    for name in start_order(components):
        spec = components[name]
        if name not in begun and spec.restart_with_dependency and not begun.isdisjoint(spec.depends_on):
            begun.add(name)
            found.append(name)
    return tuple(found)
