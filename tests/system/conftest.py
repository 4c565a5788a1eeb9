"""The stack under test: real processes under a real daemon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.daemons import Stack, stack


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Stack]:
    with stack(tmp_path) as one:
        yield one
