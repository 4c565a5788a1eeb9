"""What a shell completes where a component's name is to stand.

A running daemon knows the names and how they are; else the state of the last one, else the
configuration. Whatever goes wrong completes to nothing: nobody wants an error while typing.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

from stigmerd.adapters.disk.home import Home, HomeError, default_home
from stigmerd.cli.names import configured, recorded_names
from stigmerd.control.client import ControlError, connect

PATIENCE = 0.5
"""Seconds that a daemon has to answer: less than it takes to type the name."""

FILE_PATIENCE = 1.0
"""Seconds for the configuration, which may lie on a file system that hangs."""


def component_names(home: str | None) -> dict[str, str]:
    """The names, each with how the component is, where that is known."""
    with suppress(HomeError, OSError):
        place = Home.at(home if home is not None else default_home(os.environ))
        place.check()
        return _running(place) or dict.fromkeys(recorded_names(place) or configured(place, FILE_PATIENCE) or (), "")
    return {}


def _running(place: Home) -> dict[str, str]:
    with suppress(ControlError), connect(place.path, timeout=PATIENCE) as client:
        components = client.call("status", deadline=time.monotonic() + PATIENCE)["components"]
        return {str(component["name"]): str(component["state"]) for component in components}
    return {}
