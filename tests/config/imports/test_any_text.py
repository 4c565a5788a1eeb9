"""Whatever a file holds, an import refuses it or makes a configuration of it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stigmerd.config.imports.compose import _CARRIERS, read_compose
from stigmerd.config.imports.procfile import read_procfile
from stigmerd.config.imports.result import Import, ImportRefusedError
from stigmerd.config.imports.supervisord import CARRIED, read_supervisord
from stigmerd.config.imports.writing import write_import

Reader = Callable[[str, Import], None]

READERS: dict[str, Reader] = {
    "procfile": read_procfile,
    "supervisord": read_supervisord,
    "compose": lambda text, found: read_compose(text, found, {"SET": "value"}),
}

PIECES = st.sampled_from(
    ["$", "${", "}", "${SET}", "${A:-b}", "%(", "%(here)s", "%(ENV_A)s", "%%", ":", "/", "80:80", "a", "1s", "'", '"']
)
CHARACTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
"""What the text of a file holds: without NUL, which is refused before."""
TEXTS = st.text(CHARACTERS, max_size=20) | st.lists(PIECES, max_size=5).map("".join)
TREES = st.recursive(
    TEXTS | st.none() | st.booleans() | st.integers(-5, 70000),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


def imported(read: Reader, text: str) -> None:
    """Import a text, and see to it that what was written is TOML."""
    found = Import(source="/nowhere/file")
    try:
        read(text, found)
    except ImportRefusedError:
        return
    assert set(tomllib.loads(write_import(found))["component"]) == set(found.components)


@pytest.mark.parametrize("kind", READERS)
@given(text=st.text(CHARACTERS))
def test_any_text(kind: str, text: str) -> None:
    imported(READERS[kind], text)


@given(line=TEXTS)
def test_any_line_of_a_procfile(line: str) -> None:
    imported(read_procfile, f"web: {line}")


@given(keys=st.dictionaries(st.sampled_from(sorted(CARRIED)), TEXTS, max_size=6))
def test_any_value_of_a_program(keys: dict[str, str]) -> None:
    lines = [f"{key}={' '.join(value.split())}" for key, value in keys.items()]
    imported(read_supervisord, "\n".join(["[program:a]", "command=run", *lines]))


@given(keys=st.dictionaries(st.sampled_from(sorted(_CARRIERS)), TREES, max_size=4), others=TREES)
def test_any_value_of_a_service(keys: dict[str, Any], others: Any) -> None:
    document = {"services": {"a": {"image": "x", **keys}, "b": {}}, "volumes": others, "networks": others}
    imported(READERS["compose"], json.dumps(document))
