"""Puts the tables of a component on top of each other: preset, ``[defaults]``, its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stigmerd.config.schema import HANDLERS, PROBES, PROCESS_ONLY

Table = dict[str, Any]


def layered(name: str, preset: Table, defaults: Table, own: Table) -> Table:
    """The table of one component, as if it had been written in one place."""
    preset = _fitting_preset(preset, own)
    defaults = _fitting_defaults(name, defaults, is_container="container" in preset or "container" in own)
    merged = _over(_over(preset, defaults), own)
    for probe in PROBES:
        # A default period is no probe: without a handler of its own or its preset's, it has none.
        if probe in merged and probe not in own and not _handlers(merged[probe]):
            del merged[probe]
    return merged


def _fitting_preset(preset: Table, own: Table) -> Table:
    """A component's own command replaces its preset's container, and the other way round."""
    if "command" in own and "container" in preset and "container" not in own:
        preset = {key: value for key, value in preset.items() if key != "container"}
        for probe in PROBES:
            if "container" in _handlers(preset.get(probe)):
                del preset[probe]
    elif "container" in own and "command" in preset and "command" not in own:
        preset = {key: value for key, value in preset.items() if key != "command"}
    return preset


def _fitting_defaults(name: str, defaults: Table, *, is_container: bool) -> Table:
    """The defaults less what cannot be meant for this component."""
    unfit = PROCESS_ONLY if is_container else ("container",)
    fitting = {key: value for key, value in defaults.items() if key not in unfit}
    dependencies = fitting.get("depends_on")
    if isinstance(dependencies, dict) and name in dependencies:
        fitting["depends_on"] = {key: value for key, value in dependencies.items() if key != name}
    return fitting


def _over(base: Table, top: Table, *, is_probe: bool = False) -> Table:
    """Key by key, the top wins; tables are merged, all else is replaced."""
    merged = dict(base)
    if is_probe and _handlers(top):
        for handler in HANDLERS:
            merged.pop(handler, None)
    for key, value in top.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[key] = _over(below, value, is_probe=key in PROBES)
        else:
            merged[key] = value
    return merged


def _handlers(probe: object) -> tuple[str, ...]:
    """The handlers that a probe's table gives."""
    return tuple(key for key in HANDLERS if key in probe) if isinstance(probe, Mapping) else ()
