"""A folder with a configuration in it, and functions that read it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from stigmerd.config import load
from stigmerd.config.files import TrustedFiles
from stigmerd.config.load import load_stack
from stigmerd.config.problems import ConfigError, Problem
from stigmerd.core.spec import ComponentSpec, StackSpec


class Home:
    """A home of one's own. Modes do not depend on the umask of whoever runs the tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.chmod(0o700)

    def write(self, text: str, name: str = "stigmer.toml") -> Path:
        """Write a file that may be read."""
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o600)
        return path

    def load(self, text: str, environ: Mapping[str, str] | None = None) -> StackSpec:
        """Read a configuration of this text."""
        path = self.write(text)
        return load_stack(str(path), home=str(self.folder), environ=environ or {})

    def component(self, text: str, environ: Mapping[str, str] | None = None) -> ComponentSpec:
        """Read the only component of a configuration."""
        (component,) = self.load(text, environ).components.values()
        return component

    def problems(self, text: str, environ: Mapping[str, str] | None = None) -> tuple[Problem, ...]:
        """What is wrong with a configuration of this text."""
        with pytest.raises(ConfigError) as caught:
            self.load(text, environ)
        return caught.value.errors

    def messages(self, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
        """The same, as sentences."""
        return [problem.message for problem in self.problems(text, environ)]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty home."""
    return Home(tmp_path)


@pytest.fixture
def as_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the loader believe that it is not root, whoever runs the tests; files of root stay trusted."""
    uid = os.geteuid() or 12345
    monkeypatch.setattr(os, "geteuid", lambda: uid)


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the loader believe that it is root, and trust the files of whoever runs the tests."""
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(load, "TrustedFiles", lambda _: TrustedFiles(uid))
