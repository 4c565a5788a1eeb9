"""A folder with a file of another tool in it, and what an import makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from stigmerd.config.imports.reading import import_file
from stigmerd.config.imports.result import Import
from stigmerd.config.imports.writing import write_import
from stigmerd.core.spec import ComponentSpec
from tests.config.conftest import Home


class Importer:
    """Imports, and loads what was written, as a daemon would."""

    def __init__(self, home: Home) -> None:
        self.folder = home.folder
        self._home = home

    def read(self, name: str, text: str, environ: Mapping[str, str] | None = None) -> Import:
        """What a file of this text brings."""
        return import_file(str(self._home.write(text, name)), environ or {})

    def components(self, name: str, text: str, environ: Mapping[str, str] | None = None) -> dict[str, ComponentSpec]:
        """The components that the daemon then has."""
        found = self.read(name, text, environ)
        return dict(self._home.load(write_import(found), environ).components)

    def one(self, name: str, text: str, environ: Mapping[str, str] | None = None) -> Any:
        """The only one, of whatever kind."""
        (component,) = self.components(name, text, environ).values()
        return component

    def left(self, name: str, text: str, environ: Mapping[str, str] | None = None) -> list[tuple[str, str]]:
        """Section and key of what was not carried over."""
        return [(left.section, left.key) for left in self.read(name, text, environ).left]


@pytest.fixture
def importer(home: Home) -> Importer:
    """An importer in a folder of its own."""
    return Importer(home)
